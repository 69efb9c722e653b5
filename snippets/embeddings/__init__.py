"""Embeddings in NumPy, for the browser."""
