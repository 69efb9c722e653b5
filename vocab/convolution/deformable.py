"""Deformable convolution: every tap may move, by an offset that another convolution predicts at each position.

Source: Dai et al. 2017, arXiv:1703.06211, section 2.1; the mask in Zhu et al. 2019, arXiv:1811.11168, section 3.2.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.convolution.conv1d import output_size, per_axis
from vocab.convolution.conv2d import Conv2d

__all__ = ["DeformConv2d", "deform_conv2d", "sample"]

# B batch, C input channels, O output channels, G offset groups, K = kh * kw taps, H' and W' size of the output


class DeformConv2d(nn.Module):
    """Convolution that predicts its own sampling points.

    A second convolution, which starts at zero, gives two offsets for each tap and position, and with ``modulated`` a
    weight from 0 to 1. So training starts from the regular grid, with all weights at one half.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps along each side.
        stride: Pixels from one output to the next.
        padding: Pixels added on each side.
        dilation: Pixels from one tap to the next, before they move.
        offset_groups: Parts G of the input channels that move on their own.
        modulated: Whether a tap is also weighted, as in the second version.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, H', W')``, each side as in ``output_size``.

    Raises:
        ValueError: If a size is out of range, ``offset_groups`` does not divide ``in_channels``, or ``x`` does not fit.

    Examples:
        >>> conv = DeformConv2d(16, 32)
        >>> conv(torch.zeros(1, 16, 9, 9)).shape, conv.predict.weight.shape[0]
        (torch.Size([1, 32, 9, 9]), 27)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        offset_groups: int = 1,
        modulated: bool = True,
    ) -> None:
        super().__init__()
        if offset_groups < 1 or in_channels % offset_groups:
            raise ValueError(f"offset_groups={offset_groups} does not divide in_channels={in_channels}")
        self.steps = dict(stride=stride, padding=padding, dilation=dilation)
        self.modulated = modulated
        self.offsets = 2 * offset_groups * kernel_size**2
        per_position = self.offsets + offset_groups * kernel_size**2 * modulated
        self.conv = Conv2d(in_channels, out_channels, kernel_size, **self.steps)
        self.predict = Conv2d(in_channels, per_position, kernel_size, **self.steps)
        nn.init.zeros_(self.predict.weight), nn.init.zeros_(self.predict.bias)

    def forward(self, x: Tensor) -> Tensor:
        predicted = self.predict(x)
        offset = predicted[:, : self.offsets]
        mask = predicted[:, self.offsets :].sigmoid() if self.modulated else None
        return deform_conv2d(x, offset, self.conv.weight, self.conv.bias, mask=mask, **self.steps)


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolves with taps that have moved. What lies outside the image counts as 0.

    Args:
        x: ``(B, C, H, W)``.
        offset: ``(B, 2 G K, H', W')``: for each group and tap first how far down, then how far to the right, in pixels.
        weight: ``(O, C, kh, kw)``.
        bias: ``(O,)``.
        stride: Pixels from one output to the next, for both axes or for each.
        padding: Pixels added on each side.
        dilation: Pixels from one tap to the next, before they move.
        mask: ``(B, G K, H', W')``, a factor for each tap.

    Returns:
        ``(B, O, H', W')``.

    Raises:
        ValueError: If a shape does not fit the others; of ``offset`` the expected number of channels is named.

    Examples:
        >>> image = torch.arange(6.0).view(1, 1, 2, 3)
        >>> half_right = torch.tensor([0.0, 0.5]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
        >>> deform_conv2d(image, half_right, torch.ones(1, 1, 1, 1))
        tensor([[[[0.5000, 1.5000, 1.0000],
                  [3.5000, 4.5000, 2.5000]]]])
    """
    expect("weight", weight, "out_channels in_channels rows columns")
    expect("x", x, "batch in_channels height width", in_channels=weight.shape[1])
    kernel = weight.shape[2:]
    taps = kernel[0] * kernel[1]
    strides, pads = per_axis("stride", stride, 2), per_axis("padding", padding, 2, least=0)
    steps = per_axis("dilation", dilation, 2)
    down, right = (output_size(*sizes) for sizes in zip(x.shape[2:], kernel, strides, pads, steps))
    expect("offset", offset, "batch channels height width", batch=len(x), height=down, width=right)
    groups = offset.shape[1] // (2 * taps)
    if not groups or offset.shape[1] % (2 * taps) or x.shape[1] % groups:
        raise ValueError(
            f"offset has {offset.shape[1]} channels; expected 2 · {taps} taps = {2 * taps}, or a multiple of that by a "
            f"number of groups that divides the {x.shape[1]} channels of x"
        )
    rows, columns = (
        s * torch.arange(n, device=x.device, dtype=x.dtype) - p for s, n, p in zip(strides, (down, right), pads)
    )
    tap_y, tap_x = torch.tensor(list(product(*map(range, kernel))), device=x.device, dtype=x.dtype).T
    # offset (B, G, K, 2, H', W'): where each tap would be on the grid, and how far it has moved
    dy_BGKHW, dx_BGKHW = offset.unflatten(1, (groups, taps, 2)).unbind(3)
    y = rows[:, None] + steps[0] * tap_y[:, None, None] + dy_BGKHW
    at = columns + steps[1] * tap_x[:, None, None] + dx_BGKHW
    parts = x.unflatten(1, (groups, -1)).flatten(0, 1)
    values = sample(parts, y.flatten(2).flatten(0, 1), at.flatten(2).flatten(0, 1))
    values_BGCKHW = values.unflatten(2, (taps, down, right)).unflatten(0, (len(x), groups))
    if mask is not None:
        expect("mask", mask, "batch taps height width", batch=len(x), taps=groups * taps, height=down, width=right)
        values_BGCKHW = values_BGCKHW * mask.unflatten(1, (groups, 1, taps))
    result = torch.einsum("bckhw,ock->bohw", values_BGCKHW.flatten(1, 2), weight.flatten(2))
    if bias is None:
        return result
    expect("bias", bias, "out_channels", out_channels=len(weight))
    return result + bias[:, None, None]


def sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Reads an image between its pixels: the mean of the four nearest, weighted by nearness; 0 outside.

    Args:
        x: ``(B, C, H, W)``.
        rows: ``(B, N)``, how far down each point is, in pixels from the middle of the first.
        columns: ``(B, N)``, how far to the right.

    Returns:
        ``(B, C, N)``.

    Raises:
        ValueError: If a shape does not fit.

    Examples:
        >>> sample(torch.tensor([[[[1.0, 3.0]]]]), torch.zeros(1, 2), torch.tensor([[0.25, 1.5]]))
        tensor([[[1.5000, 1.5000]]])
    """
    expect("x", x, "batch channels height width")
    expect("rows", rows, "batch points", batch=len(x))
    expect("columns", columns, "batch points", batch=len(x), points=rows.shape[1])
    (H, W), result = x.shape[2:], 0.0
    for below, right in product((0, 1), repeat=2):
        i, j = rows.floor() + below, columns.floor() + right
        near = (1 - (rows - i).abs()) * (1 - (columns - j).abs()) * ((i >= 0) & (i < H) & (j >= 0) & (j < W))
        index = i.clamp(0, H - 1).nan_to_num().long() * W + j.clamp(0, W - 1).nan_to_num().long()
        result = result + x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1)) * near[:, None]
    return result
