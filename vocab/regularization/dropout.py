"""Dropout: every number is set to zero with probability p, the others grow by 1/(1-p).

Source: Srivastava et al. 2014, JMLR 15, section 4; the scaling in training instead of at test time ("inverted dropout") in section 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Dropout", "check_probability", "dropout", "dropout_mask"]


class Dropout(nn.Module):
    """In training, sets each number to zero with probability ``p`` and divides the others by ``1 - p``; nothing in evaluation.

    Args:
        p: Probability that a number is dropped, from 0 to 1.

    Shapes:
        x of any shape -> the same shape.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``p`` is not between 0 and 1.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> y = Dropout(p=0.75)(torch.ones(1000))
        >>> y.unique()  # dropped, or four times as large
        tensor([0., 4.])
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_probability("p", p)
        self.p = p

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Drops numbers of ``x``.

        Args:
            x: Any floating-point tensor.
            generator: Of the mask; the global one of the device if not given.
        """
        expect("x", x, "...")
        return dropout(x, self.p, generator=generator) if self.training else x

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropout(x: Tensor, p: float, shape: Sequence[int] | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Multiplies ``x`` by a random mask of zeros and ``1 / (1 - p)``.

    Args:
        x: Any floating-point tensor.
        p: Probability of a zero.
        shape: Shape of the mask, which broadcasts against ``x``: where it is 1, numbers are dropped together. That of ``x`` if not given.
        generator: Of the mask.

    Examples:
        >>> dropout(torch.ones(2, 3), p=0.5, shape=(2, 1)).std(dim=1)  # whole rows
        tensor([0., 0.])
    """
    if p == 0:
        return x
    # NaN times 0 is NaN: a broken activation is not hidden by being dropped.
    return x * dropout_mask(x, p, x.shape if shape is None else shape, generator)


def dropout_mask(like: Tensor, p: float, shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Independent draws of 0 (probability ``p``) or ``1 / (1 - p)``, whose mean is 1.

    Args:
        like: A tensor of the dtype and on the device that the mask is to have.
        p: Probability of a zero.
        shape: Shape of the mask.
        generator: Of the draws.

    Raises:
        ValueError: If ``p`` is not between 0 and 1.

    Examples:
        >>> dropout_mask(torch.zeros(1), p=0.0, shape=(2,))
        tensor([1., 1.])
    """
    check_probability("p", p)
    mask = torch.empty(shape, dtype=like.dtype, device=like.device)
    if p == 1:  # nothing is left that could be scaled up
        return mask.zero_()
    return mask.bernoulli_(1 - p, generator=generator).div_(1 - p)


def check_probability(name: str, p: float) -> None:
    """Raises unless a number is a probability.

    Args:
        name: What it is called in the message.
        p: The number.

    Examples:
        >>> check_probability("p", 1.5)
        Traceback (most recent call last):
        ValueError: p=1.5 is not between 0 and 1
    """
    if not 0 <= p <= 1:
        raise ValueError(f"{name}={p} is not between 0 and 1")
