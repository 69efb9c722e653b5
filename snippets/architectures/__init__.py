"""Whole networks, built from the parts of the other families."""
