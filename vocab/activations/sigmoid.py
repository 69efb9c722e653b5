"""Sigmoid: squeezes any number between 0 and 1, with its inverse and its logarithm.

Source: Rumelhart, Hinton and Williams 1986, doi:10.1038/323533a0, equation 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.activations.softplus import softplus
from vocab.check import expect

__all__ = ["Sigmoid", "log_sigmoid", "logit", "sigmoid"]


def sigmoid(x: Tensor) -> Tensor:
    """Computes 1 / (1 + exp(-x)) for each element, with an exponential that is never above 1.

    Args:
        x: Log-odds, any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, between 0 and 1.

    Examples:
        >>> sigmoid(torch.tensor([-1000.0, 0.0, 2.0]))
        tensor([0.0000, 0.5000, 0.8808])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    positive = wide >= 0
    small = torch.exp(torch.where(positive, -wide, wide))
    # For a negative x, e^x / (1 + e^x) is the same number; 1 / (1 + e^-x) would overflow.
    return (torch.where(positive, 1.0, small) / (1 + small)).to(x.dtype)


def logit(p: Tensor, eps: float | None = None) -> Tensor:
    """Finds the log-odds whose sigmoid is ``p``.

    Args:
        p: Probabilities; 0 gives -inf, 1 inf, anything outside NaN.
        eps: If given, ``p`` is first brought between ``eps`` and ``1 - eps``.

    Shapes:
        p ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``eps`` is not between 0 and 1/2.

    Examples:
        >>> logit(torch.tensor([0.0, 0.5, 0.9]))
        tensor([  -inf, 0.0000, 2.1972])
    """
    expect("p", p, "...")
    if eps is not None:
        if not 0 <= eps <= 0.5:
            raise ValueError(f"eps={eps} is not between 0 and 1/2")
        p = p.clamp(eps, 1 - eps)
    return torch.log(p) - torch.log1p(-p)


def log_sigmoid(x: Tensor) -> Tensor:
    """Computes the logarithm of the sigmoid, which stays finite where the sigmoid has underflowed to 0.

    Args:
        x: Log-odds, any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, negative.

    Examples:
        >>> log_sigmoid(torch.tensor([-1000.0, 0.0]))
        tensor([-1.0000e+03, -6.9315e-01])
    """
    expect("x", x, "...")
    return -softplus(-x)


class Sigmoid(nn.Module):
    """The function ``sigmoid`` as a layer without parameters.

    Shapes:
        x ``(...)`` -> ``(...)``, between 0 and 1.

    Examples:
        >>> Sigmoid()(torch.tensor([0.0]))
        tensor([0.5000])
    """

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid(x)
