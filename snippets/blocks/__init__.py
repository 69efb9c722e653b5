"""Blocks, in NumPy."""
