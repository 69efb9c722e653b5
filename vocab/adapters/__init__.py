"""How a large trained model is taught something new by training a small part."""
