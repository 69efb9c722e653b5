"""Embeddings: how text and images become vectors."""
