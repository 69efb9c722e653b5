"""NumPy variants of the encyclopedia's entries: they run in the browser and anywhere NumPy does."""
