"""Cosine annealing in NumPy."""

import numpy as np


def cosine_annealing(step, t_max, lr, eta_min=0.0):
    """Learning rate of a step, counted from 0: from lr down to eta_min at t_max, level at both ends."""
    return eta_min + (lr - eta_min) * (1 + np.cos(np.pi * step / t_max)) / 2
