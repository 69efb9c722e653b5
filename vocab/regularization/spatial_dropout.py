"""Spatial dropout: whole feature maps are dropped, not single pixels.

Source: Tompson et al. 2015, arXiv:1411.4280, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.regularization.dropout import check_probability, dropout

__all__ = ["Dropout1d", "Dropout2d", "Dropout3d"]

# B batch, C channels, L length, D depth, H height, W width


class _ChannelDropout(nn.Module):
    """One draw per example and channel; the subclasses say which dimensions a map has."""

    dims = ""

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        check_probability("p", p)
        self.p = p

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Drops maps of ``x``.

        Args:
            x: Feature maps.
            generator: Of the draws; the global one if not given.
        """
        expect("x", x, f"batch channels {self.dims}")
        if not self.training:
            return x
        return dropout(x, self.p, (*x.shape[:2], *[1] * (x.ndim - 2)), generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(_ChannelDropout):
    """In training, sets whole channels of sequences to zero with probability ``p`` and divides the others by ``1 - p``.

    Args:
        p: Probability that a channel is dropped, from 0 to 1.

    Shapes:
        x ``(B, C, L)`` -> the same shape.

    Raises:
        ValueError: If ``p`` is not between 0 and 1, or ``x`` has other dimensions.

    Examples:
        >>> _ = torch.manual_seed(0)
        >>> Dropout1d(0.5)(torch.ones(1, 4, 3))[0]
        tensor([[0., 0., 0.],
                [0., 0., 0.],
                [2., 2., 2.],
                [0., 0., 0.]])
    """

    dims = "length"


class Dropout2d(_ChannelDropout):
    """In training, sets whole channels of images to zero with probability ``p`` and divides the others by ``1 - p``.

    Args:
        p: Probability that a channel is dropped, from 0 to 1.

    Shapes:
        x ``(B, C, H, W)`` -> the same shape.

    Raises:
        ValueError: If ``p`` is not between 0 and 1, or ``x`` has other dimensions.

    Examples:
        >>> Dropout2d(0.5)(torch.ones(5, 4, 3, 3)).std(dim=(2, 3)).max()  # a map is as one
        tensor(0.)
    """

    dims = "height width"


class Dropout3d(_ChannelDropout):
    """In training, sets whole channels of volumes to zero with probability ``p`` and divides the others by ``1 - p``.

    Args:
        p: Probability that a channel is dropped, from 0 to 1.

    Shapes:
        x ``(B, C, D, H, W)`` -> the same shape.

    Raises:
        ValueError: If ``p`` is not between 0 and 1, or ``x`` has other dimensions.

    Examples:
        >>> Dropout3d(0.5)(torch.ones(5, 4, 2, 2, 2)).std(dim=(2, 3, 4)).max()
        tensor(0.)
    """

    dims = "depth height width"
