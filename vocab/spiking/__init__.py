"""Neurons that integrate and send spikes."""
