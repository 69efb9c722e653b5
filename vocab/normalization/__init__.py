"""Layers that keep the scale of activations in bounds."""
