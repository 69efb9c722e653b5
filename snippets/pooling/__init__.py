"""Pooling in NumPy."""
