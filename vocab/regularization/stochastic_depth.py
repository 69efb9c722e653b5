"""Stochastic depth: whole residual branches are dropped in training, the identity path stays.

Source: Huang et al. 2016, arXiv:1603.09382, section 3; scaled in training as in timm and torchvision.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.regularization.dropout import check_probability, dropout

__all__ = ["DropPath", "expected_depth", "linear_decay"]

# B batch, L number of blocks


class DropPath(nn.Module):
    """In training, sets the output of a residual branch to zero with probability ``p``, and divides it by ``1 - p`` otherwise.

    It goes between the branch and the sum: ``x + drop_path(branch(x))``.

    Args:
        p: Probability that the branch is dropped, from 0 to 1.
        mode: ``"row"``: each example of the batch decides on its own; ``"batch"``: all together.

    Shapes:
        residual ``(B, ...)`` -> the same shape.

    Raises:
        TypeError: If ``residual`` is no floating-point tensor.
        ValueError: If ``p`` or ``mode`` is none of the values allowed, or ``residual`` has no batch dimension.

    Examples:
        >>> x, branch = torch.ones(1, 3), torch.full((1, 3), 0.5)
        >>> x + DropPath(p=1.0)(branch)  # the identity is left
        tensor([[1., 1., 1.]])
        >>> x + DropPath(p=1.0).eval()(branch)
        tensor([[1.5000, 1.5000, 1.5000]])
    """

    def __init__(self, p: float = 0.0, mode: str = "row") -> None:
        super().__init__()
        check_probability("p", p)
        if mode not in ("row", "batch"):
            raise ValueError(f"mode={mode!r} is not 'row' or 'batch'")
        self.p, self.mode = p, mode

    def forward(self, residual: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Drops the branch for some examples.

        Args:
            residual: What the branch computed, before it is added.
            generator: Of the draws; the global one if not given.
        """
        expect("residual", residual, "...")
        if not residual.ndim:
            raise ValueError("residual has shape (); expected (batch, ...)")
        if not self.training:
            return residual
        rows = len(residual) if self.mode == "row" else 1
        return dropout(residual, self.p, (rows, *[1] * (residual.ndim - 1)), generator)

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode!r}"


def linear_decay(depth: int, p_last: float) -> list[float]:
    """The probability to drop each block: block l of L has ``l / L * p_last``.

    Args:
        depth: Number L of blocks.
        p_last: Probability of the last one.

    Raises:
        ValueError: If ``depth`` is below 1 or ``p_last`` no probability.

    Examples:
        >>> linear_decay(4, 0.2)
        [0.05, 0.1, 0.15000000000000002, 0.2]
    """
    if depth < 1:
        raise ValueError(f"depth={depth} is not 1 or more")
    check_probability("p_last", p_last)
    return [p_last * block / depth for block in range(1, depth + 1)]


def expected_depth(rates: list[float]) -> float:
    """How many blocks are active on average.

    Args:
        rates: The probability to drop each block.

    Examples:
        >>> round(expected_depth(linear_decay(54, 0.5)), 6)  # ResNet-110
        40.25
    """
    for i, p in enumerate(rates):
        check_probability(f"rates[{i}]", p)
    return sum(1 - p for p in rates)
