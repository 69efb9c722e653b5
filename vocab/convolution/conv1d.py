"""1D convolution: one small kernel read at every position of a sequence. With what convolutions along any axes share.

Source: LeCun et al. 1998, doi:10.1109/5.726791, section II.A; sizes as in Dumoulin and Visin 2016, arXiv:1603.07285.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["Conv1d", "convolve", "output_size", "same_padding", "unfold"]

# B batch, C input channels, O output channels, G groups, I = C / G, L length, P output positions, K taps of a kernel


class ConvNd(nn.Module):
    """Convolution along the last ``len(axes)`` axes; subclasses name the axes.

    Starts with the weights of ``torch.nn.Conv1d`` and its relatives and shares their ``state_dict``. Those run on kernels
    tuned to the device; this is the definition, one matrix product over all windows, and takes more memory.

    The arguments are those of ``Conv1d``, with one number for all axes or one for each.
    """

    axes: tuple[str, ...] = ()

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        n = len(self.axes)
        for name, value in [("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)]:
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} does not divide in_channels={in_channels} and out_channels={out_channels}")
        if padding_mode not in ("zeros", "reflect", "replicate", "circular"):
            raise ValueError(f"padding_mode={padding_mode!r} is not 'zeros', 'reflect', 'replicate' or 'circular'")
        self.in_channels, self.groups, self.padding_mode = in_channels, groups, padding_mode
        self.kernel_size = per_axis("kernel_size", kernel_size, n)
        self.stride, self.dilation = per_axis("stride", stride, n), per_axis("dilation", dilation, n)
        if padding == "causal":
            self.padding = tuple((d * (k - 1), 0) for k, d in zip(self.kernel_size, self.dilation))
        elif padding == "same":
            if max(self.stride) > 1:
                raise ValueError(f"padding='same' with stride={stride}: a stride above 1 cannot keep the size")
            self.padding = tuple(same_padding(k, d) for k, d in zip(self.kernel_size, self.dilation))
        elif isinstance(padding, str):
            raise ValueError(f"padding={padding!r} is not a number, 'same' or 'causal'")
        else:
            self.padding = tuple((p, p) for p in per_axis("padding", padding, n, least=0))
        bound = (in_channels // groups * math.prod(self.kernel_size)) ** -0.5
        shape = out_channels, in_channels // groups, *self.kernel_size
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.padded(x)
        return convolve(x, self.weight, self.bias, stride=self.stride, dilation=self.dilation, groups=self.groups)

    def padded(self, x: Tensor) -> Tensor:
        """Checks ``x`` and pads it.

        Args:
            x: The input, ``(B, C, *size)``.
        """
        expect("x", x, "batch in_channels " + " ".join(self.axes))
        if x.shape[1] != self.in_channels == x.shape[-1]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, its {self.in_channels} channels on the last axis; "
                f"expected (batch, in_channels={self.in_channels}, {', '.join(self.axes)}): x.movedim(-1, 1)"
            )
        expect("x", x, "batch in_channels " + " ".join(self.axes), in_channels=self.in_channels)
        padding = [side for pair in self.padding[::-1] for side in pair]  # F.pad begins with the last axis
        return F.pad(x, padding, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)


class Conv1d(ConvNd):
    """Convolution along time: ``y[o, t] = bias[o] + sum over c, i of weight[o, c, i] * x[c, stride * t + dilation * i]``.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps k.
        stride: Step s from one output to the next.
        padding: Positions p added on both sides; ``"same"`` keeps the length at stride 1; ``"causal"`` pads before
            the first position only, so that an output sees its own and earlier positions.
        dilation: Step d from one tap to the next.
        groups: Parts into which the channels are cut.
        bias: Whether a number per output channel is added.
        padding_mode: What padding holds: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.

    Shapes:
        x ``(B, C, L)`` -> ``(B, O, L')`` with ``L' = (L + 2 p - d (k - 1) - 1) // s + 1``.

    Raises:
        ValueError: If a size is out of range, ``groups`` does not divide both channel counts, ``"same"`` comes with a
            stride, or ``x`` has other channels, its channels last, or is shorter than the kernel's span.

    Examples:
        >>> conv = Conv1d(3, 8, kernel_size=5, stride=2, padding=2)
        >>> conv(torch.zeros(1, 3, 100)).shape
        torch.Size([1, 8, 50])
    """

    axes = ("length",)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | Sequence[int] = 1,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """Slides kernels over a map that is padded already, along as many axes as ``weight`` has after the second.

    Every window becomes a column of C·k numbers, every kernel a row: the rest is one matrix product per group ("im2col").
    The kernel is not flipped, so this is what signal processing calls cross-correlation.

    Args:
        x: ``(B, C, *size)``.
        weight: ``(O, C / groups, *kernel_size)``.
        bias: ``(O,)``.
        stride: Positions from one output to the next, for all axes or for each.
        dilation: Positions from one tap to the next.
        groups: Parts into which the channels are cut.

    Returns:
        ``(B, O, *output_size)``.

    Raises:
        ValueError: If a shape does not fit the others or the kernel does not fit into ``x``.

    Examples:
        >>> convolve(torch.tensor([[[1.0, 2.0, 4.0]]]), torch.tensor([[[1.0, -1.0]]]))
        tensor([[[-1., -2.]]])
    """
    expect("weight", weight, "out_channels channels_of_a_group " + _names(weight.ndim - 2))
    expect("x", x, "batch in_channels " + _names(weight.ndim - 2), in_channels=groups * weight.shape[1])
    windows = unfold(x, weight.shape[2:], stride, dilation)
    size = windows.shape[2 : weight.ndim]
    columns_BGIPK = windows.flatten(weight.ndim).flatten(2, -2).unflatten(1, (groups, -1))
    rows_GOIK = weight.flatten(2).unflatten(0, (groups, -1))
    y = torch.einsum("bgipk,goik->bgop", columns_BGIPK, rows_GOIK).flatten(1, 2)
    if bias is not None:
        expect("bias", bias, "out_channels", out_channels=len(weight))
        y = y + bias[:, None]
    return y.unflatten(-1, size)


def unfold(
    x: Tensor, kernel_size: Sequence[int], stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1
) -> Tensor:
    """Lists the windows that a kernel sees, as a view: nothing is copied.

    Args:
        x: ``(B, C, *size)``.
        kernel_size: Taps along each axis.
        stride: Positions from one window to the next, for all axes or for each.
        dilation: Positions from one tap to the next.

    Returns:
        ``(B, C, *output_size, *kernel_size)``.

    Raises:
        ValueError: If a window does not fit into ``x``.

    Examples:
        >>> unfold(torch.arange(5.0)[None, None], [2], stride=1, dilation=2)[0, 0]
        tensor([[0., 2.],
                [1., 3.],
                [2., 4.]])
    """
    n = len(kernel_size)
    expect("x", x, "batch channels " + _names(n))
    steps = zip(x.shape[2:], kernel_size, per_axis("stride", stride, n), per_axis("dilation", dilation, n))
    for axis, (size, k, s, d) in enumerate(steps, start=2):
        output_size(size, k, s, 0, d)  # a kernel that does not fit is said in words
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    return x


def output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Counts the positions at which a kernel fits: ``(size + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1``.

    Args:
        size: Positions of the input along this axis.
        kernel_size: Taps.
        stride: Positions from one output to the next.
        padding: Positions added on each side.
        dilation: Positions from one tap to the next.

    Raises:
        ValueError: If the kernel fits nowhere.

    Examples:
        >>> output_size(224, 7, stride=2, padding=3)  # the first layer of a ResNet
        112
    """
    span = dilation * (kernel_size - 1) + 1
    if size + 2 * padding < span:
        raise ValueError(f"the input has {size} positions and {padding} of padding per side; the kernel spans {span}")
    return (size + 2 * padding - span) // stride + 1


def same_padding(kernel_size: int, dilation: int = 1) -> tuple[int, int]:
    """Splits the ``dilation * (kernel_size - 1)`` positions that keep the size; an odd one goes behind.

    Args:
        kernel_size: Taps.
        dilation: Positions from one tap to the next.

    Examples:
        >>> same_padding(3), same_padding(3, dilation=4), same_padding(4)
        ((1, 1), (4, 4), (1, 2))
    """
    reach = dilation * (kernel_size - 1)
    return reach // 2, reach - reach // 2


def per_axis(name: str, value: int | Sequence[int], n: int, least: int = 1) -> tuple[int, ...]:
    """Repeats one number for every axis, or checks that there is one for each.

    Args:
        name: The argument's name, for the message.
        value: One number, or one for each axis.
        n: Axes.
        least: The smallest number allowed.

    Raises:
        ValueError: If there is another count of numbers, or one is too small.

    Examples:
        >>> per_axis("stride", 2, 3)
        (2, 2, 2)
    """
    values = (value,) * n if isinstance(value, int) else tuple(value)
    if len(values) != n:
        raise ValueError(f"{name}={values} has {len(values)} numbers; expected one, or {n}")
    if min(values, default=least) < least:
        raise ValueError(f"{name}={value} is below {least}")
    return values


def _names(n: int) -> str:
    return " ".join(f"axis_{i + 1}" for i in range(n))
