"""Grouped convolution: channels are cut into groups that do not see each other; a shuffle lets them meet again.

Source: Krizhevsky et al. 2012, doi:10.1145/3065386, section 3.2; channel shuffle in Zhang et al. 2018, arXiv:1707.01083,
section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vocab.check import expect
from vocab.convolution.conv2d import Conv2d

__all__ = ["GroupedConv2d", "channel_shuffle"]

# B batch, C channels, g groups


class GroupedConv2d(Conv2d):
    """Convolution in ``groups`` parallel parts, each from its share of the input to its share of the output channels.

    Args:
        in_channels: Channels of the input, a multiple of ``groups``.
        out_channels: Channels of the output, a multiple of ``groups``.
        kernel_size: Taps; here and below one number, or one for the rows and one for the columns.
        groups: Parts g; weights and multiply-adds are a g-th of the full layer's.
        stride: Pixels from one output to the next.
        padding: Pixels added on each side; ``"same"`` keeps H and W at stride 1.
        bias: Whether a number per output channel is added.
        shuffle: Whether the output channels are dealt out afterwards, so that a next grouped layer mixes groups.

    Shapes:
        x ``(B, in_channels, H, W)`` -> ``(B, out_channels, H', W')``.

    Raises:
        ValueError: If ``groups`` does not divide both channel counts, a size is out of range, or ``x`` does not fit.

    Examples:
        >>> import torch
        >>> layer = GroupedConv2d(64, 128, 3, groups=4, padding=1, bias=False)
        >>> layer(torch.zeros(1, 64, 8, 8)).shape, layer.weight.numel()
        (torch.Size([1, 128, 8, 8]), 18432)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        groups: int,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        bias: bool = True,
        shuffle: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=bias)
        self.shuffle = shuffle

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return channel_shuffle(y, self.groups) if self.shuffle else y


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Deals the channels out like cards: first the first of every group, then the second of every group, and so on.

    Channel ``a`` of group ``b`` goes to ``a * groups + b``. Undone by a shuffle with ``C / groups`` groups.

    Args:
        x: ``(B, C, *size)``.
        groups: Parts into which the channels are cut.

    Raises:
        ValueError: If ``groups`` does not divide the channels.

    Examples:
        >>> import torch
        >>> channel_shuffle(torch.arange(6.0).view(1, 6, 1), 2).flatten()
        tensor([0., 3., 1., 4., 2., 5.])
    """
    if isinstance(x, Tensor) and x.ndim < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected (batch, channels, ...)")
    expect("x", x, "...")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups={groups} does not divide the {x.shape[1]} channels of x")
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
