"""DropBlock: squares of feature maps are dropped.

Source: Ghiasi, Lin and Le 2018, arXiv:1810.12890, algorithm 1 and equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.regularization.dropout import check_probability, dropout_mask

__all__ = ["DropBlock2d", "block_rate", "drop_share"]

# B batch, C channels, H height, W width


class DropBlock2d(nn.Module):
    """In training, sets squares of each feature map to zero and scales up the rest by the share that is left.

    Args:
        p: Share of each map to drop, from 0 to 1. It may be set anew at each step: start at 0 and raise it.
        block_size: Side of a square, 1 or more.

    Shapes:
        x ``(B, C, H, W)``, not smaller than a square -> the same shape.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``p`` or ``block_size`` is out of range, or ``x`` is smaller than a square.

    Examples:
        >>> _ = torch.manual_seed(3)
        >>> (DropBlock2d(p=0.2, block_size=3)(torch.ones(1, 1, 5, 7))[0, 0] > 0).int()
        tensor([[1, 1, 1, 1, 1, 1, 1],
                [1, 1, 1, 1, 1, 1, 1],
                [1, 1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0],
                [1, 1, 1, 1, 0, 0, 0]], dtype=torch.int32)
    """

    def __init__(self, p: float = 0.1, block_size: int = 7) -> None:
        super().__init__()
        check_probability("p", p)
        if block_size < 1:
            raise ValueError(f"block_size={block_size} is not 1 or more")
        self.p, self.block_size = p, block_size

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Drops squares of ``x``.

        Args:
            x: Feature maps.
            generator: Of the draws; the global one if not given.
        """
        expect("x", x, "batch channels height width")
        height, width = x.shape[-2:]
        rate = block_rate(height, width, self.p, self.block_size)
        if not self.training or self.p == 0:
            return x
        # One draw for each place where a whole square fits: its upper left corner.
        corners = (dropout_mask(x, rate, (*x.shape[:2], height - self.block_size + 1, width - self.block_size + 1), generator) == 0).to(x.dtype)
        # A pixel is dropped if one of the block_size² corners above and left of it was drawn.
        around = F.pad(corners, [self.block_size - 1] * 4)
        kept = 1 - F.max_pool2d(around, self.block_size, stride=1)
        return x * kept * (kept.numel() / kept.sum().clamp(min=1))

    def extra_repr(self) -> str:
        return f"p={self.p}, block_size={self.block_size}"


def block_rate(height: int, width: int, p: float, block_size: int) -> float:
    """The probability to draw a corner, with which a share ``p`` would be dropped if squares did not overlap.

    Args:
        height: Of the map.
        width: Of the map.
        p: Share to drop.
        block_size: Side of a square.

    Raises:
        ValueError: If the map is smaller than a square.

    Examples:
        >>> round(block_rate(14, 14, p=0.1, block_size=7), 5)
        0.00625
    """
    if block_size > min(height, width):
        raise ValueError(f"block_size={block_size} is larger than the map of {height} by {width}")
    return p / block_size**2 * height * width / ((height - block_size + 1) * (width - block_size + 1))


def drop_share(height: int, width: int, p: float, block_size: int) -> float:
    """The share that is really dropped on average: less than ``p``, as squares overlap.

    Args:
        height: Of the map.
        width: Of the map.
        p: Share asked for.
        block_size: Side of a square.

    Examples:
        >>> round(drop_share(14, 14, p=0.1, block_size=7), 3), round(drop_share(14, 14, p=0.5, block_size=7), 3)
        (0.093, 0.358)
    """
    rate = block_rate(height, width, p, block_size)
    rows, columns = ([min(i + 1, n - i, block_size, n - block_size + 1) for i in range(n)] for n in (height, width))
    return sum(1 - (1 - rate) ** (r * c) for r in rows for c in columns) / (height * width)
