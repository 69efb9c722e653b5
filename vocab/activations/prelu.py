"""PReLU: a leaky ReLU whose negative slope is learned.

Source: He et al. 2015, arXiv:1502.01852, equations 1 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["PReLU"]

# B batch, C channels


class PReLU(nn.Module):
    """Keeps positive numbers and multiplies negative ones by a learned slope, one for all or one per channel.

    Args:
        num_parameters: 1 for a slope that all channels share, or the number of channels C.
        init: Initial slope.

    Raises:
        ValueError: If ``num_parameters`` is not positive.

    Examples:
        >>> layer = PReLU()
        >>> layer(torch.tensor([[-4.0, 4.0]]))
        tensor([[-1.,  4.]], grad_fn=<WhereBackward0>)
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25) -> None:
        super().__init__()
        if num_parameters < 1:
            raise ValueError(f"num_parameters={num_parameters} is not positive")
        self.num_parameters, self.init = num_parameters, init
        self.weight = nn.Parameter(torch.full((num_parameters,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Applies each channel's slope.

        Args:
            x: ``(B, C, ...)``; any shape if the slope is shared.

        Returns:
            The shape of ``x``.

        Raises:
            ValueError: If there is one slope per channel and ``x`` has no or another number of channels.
        """
        expect("x", x, "...")
        slope = self.weight
        if self.num_parameters > 1:
            if x.ndim < 2 or x.shape[1] != self.num_parameters:
                raise ValueError(f"x has shape {tuple(x.shape)}; expected (batch, channels={self.num_parameters}, ...)")
            slope = slope.view(-1, *[1] * (x.ndim - 2))  # the channels are axis 1, whatever comes behind them
        return torch.where(x > 0, x, slope * x)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}, init={self.init}"
