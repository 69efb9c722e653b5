"""ReLU: negative numbers become zero, all others stay.

Source: Fukushima 1969, doi:10.1109/TSSC.1969.300225; Nair and Hinton 2010 (ICML), where it got its name.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.check import expect

__all__ = ["ReLU", "relu"]


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """Replaces what is not above zero by zero; its gradient is zero there, at exactly zero too.

    Args:
        x: Any shape.
        inplace: Whether the result is written over ``x``. Autograd refuses if the operation before needs its output.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> import torch
        >>> relu(torch.tensor([-2.0, 0.0, 3.0]))
        tensor([0., 0., 3.])
    """
    expect("x", x, "...")
    off = x <= 0  # false for NaN, which therefore stays NaN: max(0, x) would hide it in some languages
    return x.masked_fill_(off, 0.0) if inplace else x.masked_fill(off, 0.0)


class ReLU(nn.Module):
    """The function ``relu`` as a layer without parameters.

    Args:
        inplace: Whether the result is written over the input.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Examples:
        >>> import torch
        >>> ReLU()(torch.tensor([-1.5, 2.5]))
        tensor([0.0000, 2.5000])
    """

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        return relu(x, self.inplace)

    def extra_repr(self) -> str:
        return "inplace=True" if self.inplace else ""
