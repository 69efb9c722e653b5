"""Adam in NumPy."""

import numpy as np


def adam_step(w, g, state, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, correct=True):
    """One step, number t counted from 1. Returns the new weights."""
    g = g + weight_decay * w  # as a penalty: it goes through the denominator
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    if correct:  # both start at 0, so both are too small at first
        m, v = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
    return w - lr * m / (np.sqrt(v) + eps)
