"""Pooling: many positions made few."""
