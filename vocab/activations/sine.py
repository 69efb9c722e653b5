"""Sine activation and the layers of SIREN: networks of sines for signals and their derivatives.

Source: Sitzmann et al. 2020, arXiv:2006.09661, section 3.2 and supplement section 1 (initialisation).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Sine", "SirenLayer", "siren_init_"]


class Sine(nn.Module):
    """The sine of w0 times each element.

    Args:
        w0: Frequency; the paper's 30 is meant for inputs between -1 and 1.

    Shapes:
        x ``(...)`` -> ``(...)``, from -1 to 1.

    Raises:
        ValueError: If ``w0`` is not positive.

    Examples:
        >>> Sine(w0=torch.pi / 2)(torch.tensor([0.0, 1.0, 3.0]))
        tensor([ 0.,  1., -1.])
    """

    def __init__(self, w0: float = 30.0) -> None:
        super().__init__()
        _check(w0)
        self.w0 = w0

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "...")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # w0 would multiply the rounding error too
        return torch.sin(self.w0 * wide).to(x.dtype)

    def extra_repr(self) -> str:
        return f"w0={self.w0}"


class SirenLayer(nn.Module):
    """A linear layer whose outputs go through ``Sine``, initialised so that depth does not change the distribution.

    Args:
        in_features: Size of the last dimension.
        out_features: Number of sines.
        w0: Frequency of the activation.
        is_first: Whether the input is a coordinate rather than the output of another such layer.

    Shapes:
        x ``(..., in_features)`` -> ``(..., out_features)``.

    Raises:
        ValueError: If ``w0`` is not positive or the last dimension is not ``in_features``.

    Examples:
        >>> net = nn.Sequential(SirenLayer(2, 64, is_first=True), SirenLayer(64, 64), nn.Linear(64, 3))
        >>> net(torch.rand(5, 2) * 2 - 1).shape  # colours at five points of an image
        torch.Size([5, 3])
    """

    def __init__(self, in_features: int, out_features: int, *, w0: float = 30.0, is_first: bool = False) -> None:
        super().__init__()
        self.linear, self.activation = nn.Linear(in_features, out_features), Sine(w0)
        siren_init_(self.linear, w0, is_first)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.linear.in_features)
        return self.activation(self.linear(x))


@torch.no_grad()
def siren_init_(linear: nn.Linear, w0: float = 30.0, is_first: bool = False) -> nn.Linear:
    """Draws weights with which w0 (W x + b) is standard normal if x is made of sines.

    Args:
        linear: The layer in front of the sine; changed in place.
        w0: Frequency of that sine.
        is_first: Whether ``x`` is a coordinate. Its weights then set the frequencies, and its bias the phases.

    Returns:
        The same layer.

    Raises:
        ValueError: If ``w0`` is not positive.

    Examples:
        >>> layer = siren_init_(nn.Linear(600, 2), w0=10.0)
        >>> print(f"{layer.weight.abs().max():.3f}")
        0.010
    """
    _check(w0)
    n = linear.in_features
    bound = 1 / n if is_first else math.sqrt(6 / n) / w0
    linear.weight.uniform_(-bound, bound)
    if linear.bias is not None and not is_first:  # the first layer keeps PyTorch's: its phases should be anywhere
        linear.bias.uniform_(-bound, bound)
    return linear


def _check(w0: float) -> None:
    if not 0 < w0 < math.inf:
        raise ValueError(f"w0={w0} is not a positive number")
