"""Stochastic gradient descent in NumPy."""

import numpy as np


def sgd_step(w, g, state, t, lr=0.1, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0):
    """One step, number t counted from 1, down the gradient g. Returns the new weights."""
    g = g + weight_decay * w
    if momentum == 0:
        return w - lr * g
    v = state["v"] = momentum * state["v"] + (1 - dampening) * g if t > 1 else g
    return w - lr * (g + momentum * v if nesterov else v)
