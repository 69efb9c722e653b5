"""3D convolution: a small kernel read at every position of a volume or a video; its split into space and time.

Source: Tran et al. 2015, arXiv:1412.0767, section 3.1; (2+1)D as in Tran et al. 2018, arXiv:1711.11248, section 3.5; inflation
as in Carreira and Zisserman 2017, arXiv:1705.07750, section 2.4.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.check import expect
from vocab.convolution.conv1d import ConvNd

__all__ = ["Conv2Plus1d", "Conv3d", "inflate"]

# B batch, C input channels, O output channels, D depth or time, H height, W width


class Conv3d(ConvNd):
    """Convolution over depth (or time), height and width.

    The same windows and the same matrix product as in one dimension (``vocab.convolution.conv1d.convolve``).

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps; here and below one number, or one for each axis.
        stride: Positions from one output to the next.
        padding: Positions added on each side; ``"same"`` keeps the size at stride 1.
        dilation: Positions from one tap to the next.
        groups: Parts into which the channels are cut.
        bias: Whether a number per output channel is added.
        padding_mode: What padding holds: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.

    Shapes:
        x ``(B, C, D, H, W)`` -> ``(B, O, D', H', W')``, each side as in ``output_size``.

    Raises:
        ValueError: If a size is out of range, ``groups`` does not divide both channel counts, ``"same"`` comes with a
            stride, or ``x`` has other channels, its channels behind time, or is smaller than the kernel's span.

    Examples:
        >>> import torch
        >>> conv = Conv3d(3, 64, (3, 7, 7), stride=(1, 2, 2), padding=(1, 3, 3), bias=False)
        >>> conv(torch.zeros(1, 3, 4, 16, 16)).shape
        torch.Size([1, 64, 4, 8, 8])
    """

    axes = ("depth", "height", "width")

    def padded(self, x: Tensor) -> Tensor:
        """Checks ``x`` and pads it.

        Args:
            x: The input, ``(B, C, D, H, W)``.
        """
        if isinstance(x, Tensor) and x.ndim == 5 and x.shape[1] != self.in_channels == x.shape[2]:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, its {self.in_channels} channels behind time as video loaders give them; "
                f"expected (batch, in_channels={self.in_channels}, depth, height, width): x.transpose(1, 2)"
            )
        return super().padded(x)


class Conv2Plus1d(nn.Sequential):
    """Splits a 3D convolution: over space, a ReLU, then over time.

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        mid_channels: Channels between the two; by default as many as give the weights of the full 3D kernel.
        kernel_size: Taps k along each axis, odd; the size is kept.

    Shapes:
        x ``(B, C, D, H, W)`` -> ``(B, O, D, H, W)``.

    Raises:
        ValueError: If a size is below 1, ``kernel_size`` is even, or ``x`` has other channels.

    Examples:
        >>> import torch
        >>> split = Conv2Plus1d(64, 64)
        >>> split[0].weight.shape[0], split(torch.zeros(1, 64, 4, 4, 4)).shape
        (144, torch.Size([1, 64, 4, 4, 4]))
    """

    def __init__(
        self, in_channels: int, out_channels: int, mid_channels: int | None = None, *, kernel_size: int = 3
    ) -> None:
        k = kernel_size
        if k < 1 or k % 2 == 0:
            raise ValueError(f"kernel_size={k} is not odd and at least 1")
        if mid_channels is None:
            mid_channels = k**3 * in_channels * out_channels // (k**2 * in_channels + k * out_channels)
        super().__init__(
            Conv3d(in_channels, mid_channels, (1, k, k), padding="same", bias=False),
            nn.ReLU(),
            Conv3d(mid_channels, out_channels, (k, 1, 1), padding="same"),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def inflate(weight: Tensor, depth: int) -> Tensor:
    """Makes a 3D kernel of a trained 2D one: repeated over time and divided by its new depth.

    On a video that does not move, the 3D layer then gives what the 2D layer gave for the image.

    Args:
        weight: ``(O, C, k, k)``.
        depth: Taps along time.

    Returns:
        ``(O, C, depth, k, k)``.

    Raises:
        ValueError: If ``depth`` is below 1 or ``weight`` has another number of axes.

    Examples:
        >>> import torch
        >>> inflate(torch.ones(1, 1, 1, 1), 4).flatten()
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    expect("weight", weight, "out_channels in_channels rows columns")
    if depth < 1:
        raise ValueError(f"depth={depth} is below 1")
    return weight[:, :, None].repeat(1, 1, depth, 1, 1) / depth
