"""Adapters in NumPy."""
