"""State-space models, in NumPy."""
