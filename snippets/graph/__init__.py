"""Graph networks, in NumPy."""
