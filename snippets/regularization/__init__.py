"""Keeping a model from fitting what it should not, in NumPy."""
