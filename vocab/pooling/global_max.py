"""Global max pooling: one number per channel, the largest over all positions.

Source: Collobert et al. 2011, JMLR 12, section 3.3.3 (max over time); Qi et al. 2017, arXiv:1612.00593, equation 1 and theorem 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["GlobalMaxPool"]

# B batch, C channels, H height, W width, L length


class GlobalMaxPool(nn.Module):
    """Takes the maximum of every channel over all positions that the mask keeps.

    Where several positions hold the maximum they share its gradient in equal parts. A row of which nothing is kept has no
    maximum and gives NaN.

    Args:
        dims: The dimensions of the positions, counted from the end: ``(-2, -1)`` for images, ``(-1,)`` for sequences and sets.
        keepdim: Whether they stay, with size 1.

    Shapes:
        x ``(B, C, H, W)`` or ``(B, C, L)``, mask with the sizes of batch and positions, ``(B, H, W)`` or ``(B, L)`` -> ``(B, C)``.

    Raises:
        TypeError: If ``x`` is no floating-point or ``mask`` no boolean tensor.
        ValueError: If ``x`` has other dimensions or no position, or ``mask`` another shape.

    Examples:
        >>> x = torch.tensor([[[-3.0, -1.0, 0.0]]])
        >>> GlobalMaxPool((-1,))(x, mask=torch.tensor([[True, True, False]]))
        tensor([[-1.]])
    """

    def __init__(self, dims: tuple[int, ...] = (-2, -1), keepdim: bool = False) -> None:
        super().__init__()
        if sorted(dims) != list(range(-len(dims), 0)) or not dims:
            raise ValueError(f"dims={dims} are not the last dimensions, such as (-1,) or (-2, -1)")
        self.dims, self.keepdim = tuple(dims), keepdim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        expect("x", x, "batch channels " + " ".join(["position"] * len(self.dims)))
        places = x.shape[2:]
        if 0 in places:
            raise ValueError(f"x has shape {tuple(x.shape)}: there is no position to take a maximum of")
        if mask is not None:
            expect("mask", mask, "...", dtype="bool")
            if mask.shape != (x.shape[0], *places):
                raise ValueError(f"mask has shape {tuple(mask.shape)}; expected {(x.shape[0], *places)}")
            # Minus infinity, not 0: a 0 would win over negative features. A row that keeps nothing becomes NaN: -inf would go unnoticed.
            nothing = ~mask.flatten(1).any(1).view(-1, 1, *[1] * len(self.dims))
            x = x.masked_fill(~mask.unsqueeze(1), -torch.inf).masked_fill(nothing, torch.nan)
        return x.amax(self.dims, keepdim=self.keepdim)
