"""Transposed convolution: every input pixel stamps the kernel into a larger map, and stamps add up where they overlap.

Source: Zeiler et al. 2010, doi:10.1109/CVPR.2010.5539957; sizes as in Dumoulin and Visin 2016, arXiv:1603.07285, section 4;
the bilinear kernel in Long et al. 2015, arXiv:1411.4038, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.convolution.conv1d import per_axis

__all__ = ["ConvTranspose2d", "bilinear_kernel", "fold"]

# B batch, G groups, I input channels of a group, O output channels of a group, H height, W width, k kernel size


class ConvTranspose2d(nn.Module):
    """The transpose of a convolution, as a layer: it turns the size around, not the values.

    Starts as ``torch.nn.ConvTranspose2d`` does and shares its ``state_dict``.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the stamp; here and below one number, or one for the rows and one for the columns.
        stride: Pixels of the output from one stamp to the next.
        padding: Pixels cut off on each side of the output.
        output_padding: Rows and columns that are cut off less, at the bottom and on the right. Several input sizes of
            a strided convolution give the same output size; this chooses the one to go back to.
        dilation: Pixels from one tap of the stamp to the next.
        groups: Parts into which the channels are cut.
        bias: Whether a number per output channel is added.

    Shapes:
        x ``(B, in_channels, H, W)`` -> ``(B, out_channels, H', W')``
        with ``H' = (H - 1) s - 2 p + d (k - 1) + output_padding + 1``.

    Raises:
        ValueError: If a size is out of range, ``groups`` does not divide both channel counts, ``output_padding`` is not
            below the stride or the dilation, ``padding`` leaves nothing, ``output_size`` cannot be, or ``x`` does not fit.

    Examples:
        >>> double = ConvTranspose2d(16, 8, kernel_size=4, stride=2, padding=1)
        >>> double(torch.zeros(1, 16, 7, 9)).shape
        torch.Size([1, 8, 14, 18])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        for name, value in [("in_channels", in_channels), ("out_channels", out_channels), ("groups", groups)]:
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} does not divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.groups = in_channels, groups
        self.kernel_size = per_axis("kernel_size", kernel_size, 2)
        self.stride, self.dilation = per_axis("stride", stride, 2), per_axis("dilation", dilation, 2)
        self.padding = per_axis("padding", padding, 2, least=0)
        self.output_padding = per_axis("output_padding", output_padding, 2, least=0)
        self._check(self.output_padding)
        bound = (out_channels // groups * self.kernel_size[0] * self.kernel_size[1]) ** -0.5
        shape = in_channels, out_channels // groups, *self.kernel_size
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """Enlarges ``x``.

        Args:
            x: ``(B, in_channels, H, W)``.
            output_size: Rows and columns wanted; takes the place of ``output_padding``.
        """
        expect("x", x, "batch in_channels height width", in_channels=self.in_channels)
        smallest = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, k, s, p, d in zip(x.shape[2:], self.kernel_size, self.stride, self.padding, self.dilation)
        ]
        more = self.output_padding
        if output_size is not None:
            more = tuple(wanted - least for wanted, least in zip(per_axis("output_size", output_size, 2), smallest))
            self._check(more, f"output_size={tuple(output_size)} for an input of {tuple(x.shape[2:])}: ")
        if min(least + m for least, m in zip(smallest, more)) < 1:
            raise ValueError(f"padding={self.padding} leaves nothing of the output for an input of {tuple(x.shape[2:])}")
        x_BGIHW = x.unflatten(1, (self.groups, -1))
        weight_GIOkk = self.weight.unflatten(0, (self.groups, -1))
        stamps = torch.einsum("bgihw,giouv->bgohwuv", x_BGIHW, weight_GIOkk).flatten(1, 2)
        y = F.pad(fold(stamps, self.stride, self.dilation), (0, more[1], 0, more[0]))
        (top, left), (rows, columns) = self.padding, y.shape[2:]
        y = y[:, :, top : rows - top, left : columns - left]
        return y if self.bias is None else y + self.bias[:, None, None]

    def _check(self, more: Sequence[int], why: str = "") -> None:
        for m, s, d in zip(more, self.stride, self.dilation):
            if not 0 <= m < max(s, d):
                raise ValueError(f"{why}output_padding={tuple(more)} is not from 0 to below stride or dilation, {max(s, d)}")


def fold(windows: Tensor, stride: int | Sequence[int] = 1, dilation: int | Sequence[int] = 1) -> Tensor:
    """Adds windows into a map, one stride apart: the transpose of ``vocab.convolution.conv1d.unfold``.

    Args:
        windows: ``(B, C, H, W, k, k')``, a window for every position.
        stride: Pixels from one window to the next, for both axes or for each.
        dilation: Pixels from one tap to the next.

    Returns:
        ``(B, C, (H - 1) s + d (k - 1) + 1, ...)``.

    Raises:
        ValueError: If ``windows`` has another number of axes, or a step is below 1.

    Examples:
        >>> fold(torch.ones(1, 1, 1, 4, 1, 3), stride=(1, 2)).flatten()  # three taps at stride 2: a checkerboard
        tensor([1., 1., 2., 1., 2., 1., 2., 1., 1.])
    """
    expect("windows", windows, "batch channels height width rows columns")
    (H, W, *kernel), (s, t) = windows.shape[2:], per_axis("stride", stride, 2)
    d, e = per_axis("dilation", dilation, 2)
    size = (H - 1) * s + d * (kernel[0] - 1) + 1, (W - 1) * t + e * (kernel[1] - 1) + 1
    y = windows.new_zeros(*windows.shape[:2], *size)
    for i, j in product(*map(range, kernel)):
        y[:, :, i * d : i * d + (H - 1) * s + 1 : s, j * e : j * e + (W - 1) * t + 1 : t] += windows[..., i, j]
    return y


def bilinear_kernel(stride: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Makes the kernel, ``2 * stride - stride % 2`` pixels a side, that interpolates linearly; with padding ``stride // 2``.

    Args:
        stride: How many times larger the output is.
        dtype: Of the result; PyTorch's default if not given.

    Raises:
        ValueError: If ``stride`` is below 1.

    Examples:
        >>> bilinear_kernel(2)[0] * 16
        tensor([1., 3., 3., 1.])
    """
    (stride,) = per_axis("stride", stride, 1)
    size = 2 * stride - stride % 2
    rise = 1 - (torch.arange(size, dtype=dtype or torch.get_default_dtype()) - (size - 1) / 2).abs() / stride
    return torch.outer(rise, rise)
