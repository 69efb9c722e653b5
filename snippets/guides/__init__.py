"""Snippets of the pages across entries."""
