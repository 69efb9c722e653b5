"""Safety of systems around a model."""
