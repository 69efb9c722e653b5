"""How tokens choose what to read from other tokens."""
