"""(IA)³: what a frozen layer puts out, or takes in, is scaled number by number with a trained vector.

Source: Liu et al. 2022, arXiv:2205.05638, section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["IA3Linear"]

# I inputs, O outputs


class IA3Linear(nn.Module):
    """A frozen linear layer with one trained factor for each of its outputs, or of its inputs. All factors start at 1.

    Args:
        base: The layer to adapt; it is taken over, and its parameters are frozen.
        feedforward: False scales outputs, bias included: for key and value projections. True scales inputs: for the second layer
            of a feed-forward block, whose input is the hidden layer.

    Shapes:
        x ``(..., I)`` -> ``(..., O)``.

    Raises:
        TypeError: If ``base`` is no linear layer.
        ValueError: If ``x`` has another width.

    Examples:
        >>> base = nn.Linear(64, 32)
        >>> keys, down = IA3Linear(base), IA3Linear(base, feedforward=True)
        >>> x = torch.randn(2, 64)
        >>> torch.equal(keys(x), base(x)), keys.scale.shape, down.scale.shape
        (True, torch.Size([32]), torch.Size([64]))
    """

    def __init__(self, base: nn.Linear, *, feedforward: bool = False) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base is a {type(base).__name__}; expected torch.nn.Linear")
        self.base, self.feedforward = base.requires_grad_(False), feedforward
        n = base.in_features if feedforward else base.out_features
        self.scale = nn.Parameter(torch.ones(n, dtype=base.weight.dtype, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.base.in_features)
        return self.base(x * self.scale) if self.feedforward else self.base(x) * self.scale

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Makes a plain linear layer that computes the same; this one and its base stay as they are."""
        merged = nn.Linear(self.base.in_features, self.base.out_features, bias=self.base.bias is not None).to(self.base.weight)
        merged.weight.copy_(self.base.weight * (self.scale if self.feedforward else self.scale[:, None]))
        if self.base.bias is not None:
            merged.bias.copy_(self.base.bias if self.feedforward else self.base.bias * self.scale)
        return merged
