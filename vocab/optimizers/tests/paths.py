"""What tests of optimizers share: weights, steps with gradients that show a wrong state, and two optimizers side by side."""

import torch

from vocab.optimizers.tests.walks import layers, pull

__all__ = ["assert_same_path", "layers", "numbers_per_weight", "take"]


def take(optimizer, params, t):
    """One step with a gradient that depends on the weights and on the time."""
    pull(params, t)
    optimizer.step()


def assert_same_path(one, two, ours, theirs, steps=100, rtol=1e-10, atol=1e-12):
    for t in range(steps):
        take(one, ours, t)
        take(two, theirs, t)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def numbers_per_weight(optimizer, weight):
    """How many numbers of state one weight of this parameter has, without the count of steps."""
    return sum(x.numel() for x in optimizer.state[weight].values() if isinstance(x, torch.Tensor) and x.numel() > 1) / weight.numel()
