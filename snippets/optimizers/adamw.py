"""AdamW in NumPy: the decay does not pass through Adam's denominator."""

import numpy as np

from snippets.optimizers.adam import adam_step


def adamw_step(w, g, state, t, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
    """One step, number t counted from 1. Returns the new weights."""
    return adam_step(w * (1 - lr * weight_decay), g, state, t, lr, betas, eps)
