"""Recurrent networks, in NumPy."""
