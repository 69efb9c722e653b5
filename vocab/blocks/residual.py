"""Residual block: what comes in is added to what two convolutions make of it.

Source: He et al. 2016, arXiv:1512.03385, section 3.2 and figure 5 (left); pre-activation as in He et al. 2016,
arXiv:1603.05027, figure 4e; the zero start in Goyal et al. 2017, arXiv:1706.02677, section 5.1.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["Residual", "ResidualBlock", "conv", "make_norm"]

# B batch, C input channels, O output channels, H height, W width


class ResidualBlock(nn.Module):
    """The basic block of ResNet-18 and -34: convolution, normalization, ReLU, convolution, normalization, sum, ReLU.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output; as many as come in if not given.
        stride: Of the first convolution and of the shortcut.
        preact: Normalization and ReLU come before each convolution, and nothing after the sum: the shortcut is clean.
        norm: ``"batch"`` or ``"group"``.
        zero_init: Whether the branch starts at zero, so that the block starts as its shortcut.

    Where the size or the number of channels changes, the shortcut is a 1 by 1 convolution (with normalization after it;
    of the normalized input with ``preact``).

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: If a size is below 1, ``norm`` is another word, or ``x`` has other channels.

    Examples:
        >>> import torch
        >>> block, x = ResidualBlock(8, preact=True), torch.randn(2, 8, 6, 6)
        >>> torch.equal(block(x), x)  # at the start
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,
        stride: int = 1,
        preact: bool = False,
        norm: str = "batch",
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        for name, value in [("in_channels", in_channels), ("out_channels", out_channels), ("stride", stride)]:
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        self.in_channels, self.preact = in_channels, preact
        first, second = conv(in_channels, out_channels, 3, stride), conv(out_channels, out_channels, 3)
        middle = [make_norm(norm, out_channels), nn.ReLU()]
        changes = stride > 1 or in_channels != out_channels
        shortcut = [conv(in_channels, out_channels, 1, stride)] if changes else []
        if preact:
            self.enter = nn.Sequential(make_norm(norm, in_channels), nn.ReLU())
            branch, last = nn.Sequential(first, *middle, second), second
        else:
            last = make_norm(norm, out_channels)
            branch = nn.Sequential(first, *middle, second, last)
            shortcut += [make_norm(norm, out_channels)] if changes else []
        self.sum = Residual(branch, nn.Sequential(*shortcut) if changes else None)
        if zero_init:
            nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        if not self.preact:
            return F.relu(self.sum(x))
        ready = self.enter(x)
        return self.sum(ready, ready if self.sum.shortcut else x)


class Residual(nn.Module):
    """Any branch with a way around it: ``branch(x) + shortcut(x)``.

    Args:
        branch: What is computed of ``x``.
        shortcut: How ``x`` goes around; unchanged if not given.

    Shapes:
        x ``(...)`` -> the shape that branch and shortcut agree on.

    Raises:
        ValueError: If branch and shortcut give different shapes.

    Examples:
        >>> import torch
        >>> Residual(nn.ReLU())(torch.tensor([-1.0, 2.0]))
        tensor([-1.,  4.])
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor, around: Tensor | None = None) -> Tensor:
        """Adds.

        Args:
            x: What the branch gets.
            around: What the shortcut gets, if that is something else.
        """
        expect("x", x, "...")
        branch, around = self.branch(x), x if around is None else around
        around = around if self.shortcut is None else self.shortcut(around)
        if branch.shape != around.shape:  # broadcasting would add a single channel to all, without a word
            raise ValueError(f"the branch gives {tuple(branch.shape)}, the shortcut {tuple(around.shape)}; they must agree")
        return branch + around


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Makes a convolution as blocks use it: padded to keep the size at stride 1, without a bias, as a norm follows.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Taps along each side, odd.
        stride: Pixels from one output to the next.
        groups: Parts into which the channels are cut.

    Examples:
        >>> conv(3, 8, 5, stride=2).padding
        (2, 2)
    """
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)


def make_norm(norm: str, channels: int) -> nn.Module:
    """Makes the normalization that a word stands for.

    Args:
        norm: ``"batch"`` or ``"group"``; in the second case as many groups, up to 32, as divide the channels.
        channels: Channels to normalize.

    Raises:
        ValueError: If ``norm`` is another word.

    Examples:
        >>> make_norm("group", 48).num_groups
        16
    """
    if norm not in ("batch", "group"):
        raise ValueError(f"norm={norm!r} is not 'batch' or 'group'")
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(math.gcd(32, channels), channels)
