"""Causal 1D convolution: an output sees its own position and earlier ones, and the past can be carried between calls.

Source: van den Oord et al. 2016, arXiv:1609.03499, section 2.1; the short depthwise form as in Gu and Dao 2023,
arXiv:2312.00752, section 3.4.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.check import expect
from vocab.convolution.conv1d import Conv1d
from vocab.kernels.causal_conv import applies, fused

__all__ = ["CausalConv1d"]

# B batch, C input channels, O output channels, L new positions, S = (k - 1) * dilation remembered positions


class CausalConv1d(Conv1d):
    """Convolution over the past: ``y[t]`` depends on ``x[t], x[t - dilation], ..., x[t - (k - 1) * dilation]``.

    A whole sequence, a sequence in pieces and single steps give the same numbers, as long as the state is handed on.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps k; the last one reads the present.
        dilation: Positions from one tap to the next.
        groups: Parts into which the channels are cut; ``in_channels`` makes it depthwise.
        bias: Whether a number per output channel is added.
        activation: ``"silu"`` (Mamba and its relatives) or None.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel takes depthwise convolutions of at most 16 taps.

    Shapes:
        x ``(B, C, L)``, state ``(B, C, S)`` or None for an empty past -> y ``(B, O, L)`` and the state after the last
        position ``(B, C, S)``.

    Raises:
        ValueError: If a size is out of range, ``activation`` is another word, or ``x`` or ``state`` has another shape.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> conv = CausalConv1d(2, 2, kernel_size=4, groups=2, activation="silu")
        >>> x = torch.randn(1, 2, 10)
        >>> whole, _ = conv(x)
        >>> first, state = conv(x[..., :7])
        >>> rest, _ = conv(x[..., 7:], state)
        >>> torch.allclose(torch.cat([first, rest], -1), whole, atol=1e-6)
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        activation: str | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, padding="causal", dilation=dilation, groups=groups, bias=bias
        )
        if activation not in (None, "silu"):
            raise ValueError(f"activation={activation!r} is not 'silu' or None")
        self.activation, self.backend = activation, backend
        self.past = dilation * (kernel_size - 1)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        expect("x", x, "batch in_channels length", in_channels=self.in_channels)
        if state is None:
            state = x.new_zeros(len(x), self.in_channels, self.past)
        expect("state", state, "batch in_channels past", batch=len(x), in_channels=self.in_channels, past=self.past)
        depthwise = self.groups == self.in_channels == len(self.weight)
        limit = None if depthwise else "the convolution is not depthwise"
        if applies(x, self.weight[:, 0], self.backend, limit):
            # Only the end is put behind the state: all of it would be a copy of x.
            ended = torch.cat([state, x[..., max(0, x.shape[-1] - self.past):]], -1)
            y = fused(x, self.weight[:, 0], self.bias, state, dilation=self.dilation[0], silu=self.activation is not None)
            return y, ended[..., ended.shape[-1] - self.past:]
        seen = torch.cat([state, x], -1)
        y = F.conv1d(seen, self.weight, self.bias, dilation=self.dilation, groups=self.groups)
        return F.silu(y) if self.activation else y, seen[..., seen.shape[-1] - self.past:]

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Takes one position ``(B, C)`` and gives its output ``(B, O)``, at a cost that does not grow with time.

        Args:
            x: The position.
            state: What the call before returned; None for the first position.
        """
        expect("x", x, "batch in_channels", in_channels=self.in_channels)
        y, state = self(x[..., None], state)
        return y[..., 0], state
