"""Alpha dropout: dropped numbers get SELU's lower limit, then mean and variance are put right.

Source: Klambauer et al. 2017, arXiv:1706.02515, section "New dropout technique".
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.activations.selu import ALPHA, SCALE
from vocab.check import expect
from vocab.regularization.dropout import check_probability, dropout_mask

__all__ = ["AlphaDropout", "affine"]

LOWER_LIMIT = -SCALE * ALPHA  # of SELU far to the left: -1.7581


class AlphaDropout(nn.Module):
    """In training, sets each number to SELU's lower limit with probability ``p``; then scales and shifts all, so that mean 0 and variance 1 stay.

    Args:
        p: Probability that a number is dropped, from 0 to 1.

    Shapes:
        x of any shape -> the same shape.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``p`` is not between 0 and 1.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> y = AlphaDropout(p=0.1)(torch.randn(1_000_000))
        >>> round(y.mean().abs().item(), 2), round(y.var().item(), 2)
        (0.0, 1.0)
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_probability("p", p)
        self.p = p

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Drops numbers of ``x``.

        Args:
            x: Activations near mean 0 and variance 1, behind SELU.
            generator: Of the mask; the global one if not given.
        """
        expect("x", x, "...")
        if not self.training or self.p == 0:
            return x
        kept = (dropout_mask(x, self.p, x.shape, generator) != 0).to(x.dtype)
        if self.p == 1:  # all numbers alike: shifted to mean 0 they are zeros, whatever the scale
            return x * kept
        a, b = affine(self.p)
        return a * (x * kept + LOWER_LIMIT * (1 - kept)) + b

    def extra_repr(self) -> str:
        return f"p={self.p}"


def affine(p: float) -> tuple[float, float]:
    """Factor and shift that restore mean 0 and variance 1 after a share ``p`` was set to the lower limit.

    Args:
        p: Probability that a number is dropped, from 0 to below 1.

    Raises:
        ValueError: If ``p`` is not from 0 to below 1.

    Examples:
        >>> [round(number, 4) for number in affine(0.1)]
        [0.9213, 0.162]
    """
    if not 0 <= p < 1:
        raise ValueError(f"p={p} is not from 0 to below 1")
    q = 1 - p
    a = (q + LOWER_LIMIT**2 * q * p) ** -0.5
    return a, -a * p * LOWER_LIMIT
