"""Convolution, in NumPy."""
