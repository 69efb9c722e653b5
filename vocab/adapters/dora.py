"""DoRA: direction and length of each row of a weight are trained apart; the direction by a change of low rank.

Source: Liu et al. 2024, arXiv:2402.09353, equations 5 and 11.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.adapters.lora import LoRALinear
from vocab.check import expect

__all__ = ["DoRALinear"]

# I inputs, O outputs, r rank


class DoRALinear(LoRALinear):
    """A linear layer with the weight ``m * (W + C) / |W + C|``, row by row, where C is LoRA's change.

    W stays frozen. The lengths m start as those of W's rows, so that at first nothing is changed.

    Args:
        base: The layer to adapt; it is taken over, and its parameters are frozen.
        r: Rank of the change of direction.
        alpha: C is ``alpha / r * B @ A``.
        dropout: Share of inputs of A set to zero in training.
        detach_norm: Whether ``|W + C|`` counts as a constant in the gradient, which saves memory and hardly matters.

    Shapes:
        x ``(..., I)`` -> ``(..., O)``.

    Raises:
        TypeError: If ``base`` is no linear layer.
        ValueError: As ``LoRALinear``.

    Examples:
        >>> base = nn.Linear(64, 32)
        >>> layer = DoRALinear(base, r=4)
        >>> x = torch.randn(2, 64)
        >>> torch.allclose(layer(x), base(x), atol=1e-6), layer.magnitude.shape
        (True, torch.Size([32]))
    """

    def __init__(
        self, base: nn.Linear, r: int = 8, alpha: float = 16.0, *, dropout: float = 0.0, detach_norm: bool = True
    ) -> None:
        super().__init__(base, r, alpha, dropout=dropout)
        self.detach_norm = detach_norm
        self.magnitude = nn.Parameter(base.weight.detach().norm(dim=1))  # a row per output: what one neuron listens to

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.base.in_features)
        if self.merged:
            return self.base(x)
        norm = (self.base.weight + self.change()).norm(dim=1)
        factor = self.magnitude / (norm.detach() if self.detach_norm else norm)
        out = factor * (F.linear(x, self.base.weight) + self.change_of(x))
        return out if self.base.bias is None else out + self.base.bias

    @torch.no_grad()
    def merge(self) -> DoRALinear:
        """Writes lengths and directions into the weight: from here on the layer costs what the plain one costs."""
        if not self.merged:
            self.original = self.base.weight.clone()  # a division cannot be taken back to the last digit
            weight = self.base.weight + self.change()
            self.base.weight.copy_(self.magnitude[:, None] * F.normalize(weight, dim=1))
            self.merged = True
        return self

    @torch.no_grad()
    def unmerge(self) -> DoRALinear:
        """Puts the frozen weight back, to train on."""
        if self.merged:
            self.base.weight.copy_(self.original)
            del self.original
            self.merged = False
        return self
