"""Layers, in NumPy."""
