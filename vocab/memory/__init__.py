"""Networks that store, organise and recall."""
