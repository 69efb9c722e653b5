"""What several demos of activations share: a deep random network."""

import numpy as np

from snippets.ops import matmul


def weights(width, depth, factor, seed=0, uniform=False):
    """Square matrices, one per layer, whose elements have standard deviation factor / √width."""
    rng = np.random.default_rng(seed)
    for _ in range(depth):
        w = rng.uniform(-(3**0.5), 3**0.5, (width, width)) if uniform else rng.normal(size=(width, width))
        yield w * factor / width**0.5


def through(f, x, layers, bias=0.0):
    """x (N, width) through f(x W + bias) for every W of the layers; all outputs, the input first.

    With weights of factor / √width, x W has factor² times the second moment of x.
    """
    states = [x]
    for w in layers:
        states.append(f(matmul(states[-1], w) + bias))
    return states


def spread(states):
    """Mean and standard deviation over all inputs and units, layer by layer."""
    return np.array([[s.mean(), s.std()] for s in states]).T
