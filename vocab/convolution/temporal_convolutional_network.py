"""Temporal convolutional network: residual blocks of causal convolutions whose dilation doubles from block to block.

Source: Bai et al. 2018, arXiv:1803.01271, section 3 and figure 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm as normalize_weight

from vocab.check import expect
from vocab.convolution.causal import CausalConv1d
from vocab.convolution.conv2d import receptive_field

__all__ = ["TemporalBlock", "TemporalConvNet"]

# B batch, C input channels, O channels of the last block, L time


class TemporalConvNet(nn.Module):
    """Stack of residual blocks; block ``i`` has dilation ``2 ** i``.

    Args:
        in_channels: Channels C of the input.
        channels: Output channels of each block.
        kernel_size: Taps k of every convolution.
        dropout: Share of numbers set to zero in training, after each activation.
        weight_norm: Whether each kernel is learned as a length and a direction.

    Shapes:
        x ``(B, C, L)`` -> ``(B, channels[-1], L)``.

    Raises:
        ValueError: If there are no blocks, a size is out of range, or ``x`` has another shape.

    Attributes:
        receptive_field: How many positions, its own included, an output depends on: ``1 + 2 (k - 1) (2**n - 1)``.

    Examples:
        >>> import torch
        >>> network = TemporalConvNet(1, [25] * 8, kernel_size=7)
        >>> network.receptive_field, network(torch.zeros(1, 1, 20)).shape
        (3061, torch.Size([1, 25, 20]))
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        kernel_size: int = 3,
        *,
        dropout: float = 0.2,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        if not channels:
            raise ValueError("channels is empty; the network needs at least one block")
        widths = zip((in_channels, *channels), channels)
        self.in_channels = in_channels
        self.blocks = nn.ModuleList(
            TemporalBlock(before, after, kernel_size, 2**i, dropout=dropout, weight_norm=weight_norm)
            for i, (before, after) in enumerate(widths)
        )
        self.receptive_field = receptive_field([(kernel_size, 1, 0, 2 ** (i // 2)) for i in range(2 * len(channels))])[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.stream(x)[0]

    def stream(self, x: Tensor, state: list[tuple[Tensor, Tensor]] | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Computes the next piece of a sequence.

        Args:
            x: ``(B, C, L)``, the new positions.
            state: What the call before returned; None at the start.

        Returns:
            The output for the new positions, and the state after them.
        """
        expect("x", x, "batch in_channels length", in_channels=self.in_channels)
        after = []
        for i, block in enumerate(self.blocks):
            x, carried = block(x, state[i] if state else None)
            after.append(carried)
        return x, after


class TemporalBlock(nn.Module):
    """Twice causal convolution, ReLU and dropout; what came in is added, and a last ReLU.

    Args:
        in_channels: Channels of the input; where they differ from the output's, a 1 by 1 convolution adapts them.
        out_channels: Channels of the output.
        kernel_size: Taps k of both convolutions.
        dilation: Positions d from one tap to the next, in both.
        dropout: Share of numbers set to zero in training, after each activation.
        weight_norm: Whether each kernel is learned as a length and a direction.

    Shapes:
        x ``(B, in_channels, L)``, state None or two tensors ``(B, channels, (k - 1) d)`` -> ``(B, out_channels, L)`` and
        the state after the last position.

    Raises:
        ValueError: If a size is out of range, or ``x`` or ``state`` has another shape.

    Examples:
        >>> import torch
        >>> block = TemporalBlock(4, 8, kernel_size=3, dilation=2)
        >>> y, (first, second) = block(torch.zeros(1, 4, 10))
        >>> y.shape, first.shape, second.shape
        (torch.Size([1, 8, 10]), torch.Size([1, 4, 4]), torch.Size([1, 8, 4]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        dilation: int = 1,
        *,
        dropout: float = 0.2,
        weight_norm: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout={dropout} is not from 0 to 1")
        convs = [CausalConv1d(c, out_channels, kernel_size, dilation=dilation) for c in (in_channels, out_channels)]
        self.conv1, self.conv2 = (normalize_weight(c) for c in convs) if weight_norm else convs
        self.shortcut = nn.Identity() if in_channels == out_channels else CausalConv1d(in_channels, out_channels, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        first, second = state or (None, None)
        y, first = self.conv1(x, first)
        y, second = self.conv2(self.dropout(F.relu(y)), second)
        y = self.dropout(F.relu(y))
        around = self.shortcut(x)[0] if isinstance(self.shortcut, CausalConv1d) else x
        return F.relu(y + around), (first, second)
