"""Squared ReLU: the square of what is positive, zero otherwise.

Source: So et al. 2021, arXiv:2109.08668, section 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.activations.relu import relu
from vocab.check import expect
from vocab.kernels.gated_unit import applies, fused

__all__ = ["SquaredReLU", "squared_relu"]


def squared_relu(x: Tensor, *, backend: str = "auto") -> Tensor:
    """Squares positive numbers and replaces the others by zero.

    Args:
        x: Any shape. In float16 results beyond 65,504 (x above 255.9) are infinite.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        x ``(...)`` -> ``(...)``, 0 or above.

    Raises:
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> import torch
        >>> squared_relu(torch.tensor([-3.0, 0.5, 3.0]))
        tensor([0.0000, 0.2500, 9.0000])
    """
    expect("x", x, "...")
    if applies(x, "squared_relu", backend):
        return fused(x, activation="squared_relu")
    return relu(x) ** 2


class SquaredReLU(nn.Module):
    """The function ``squared_relu`` as a layer without parameters.

    Args:
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> import torch
        >>> SquaredReLU()(torch.tensor([-1.0, 2.0]))
        tensor([0., 4.])
    """

    def __init__(self, *, backend: str = "auto") -> None:
        super().__init__()
        self.backend = backend

    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x, backend=self.backend)
