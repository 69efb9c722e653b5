"""PyTorch modules of the encyclopedia: ``vocab/<family>/<entry>.py``, one idea a file."""
