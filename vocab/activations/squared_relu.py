"""Squared ReLU: the square of what is positive, zero otherwise.

Source: So et al. 2021, arXiv:2109.08668, section 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.activations.relu import relu

__all__ = ["SquaredReLU", "squared_relu"]


def squared_relu(x: Tensor) -> Tensor:
    """Squares positive numbers and replaces the others by zero.

    Args:
        x: Any shape. In float16 results beyond 65,504 (x above 255.9) are infinite.

    Shapes:
        x ``(...)`` -> ``(...)``, 0 or above.

    Examples:
        >>> import torch
        >>> squared_relu(torch.tensor([-3.0, 0.5, 3.0]))
        tensor([0.0000, 0.2500, 9.0000])
    """
    return relu(x) ** 2


class SquaredReLU(nn.Module):
    """The function ``squared_relu`` as a layer without parameters.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> import torch
        >>> SquaredReLU()(torch.tensor([-1.0, 2.0]))
        tensor([0., 4.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)
