"""2D convolution: a small kernel read at every pixel; and what one output of a stack of layers sees.

Source: LeCun et al. 1998, doi:10.1109/5.726791, section II.A; the receptive field follows from Dumoulin and Visin 2016,
arXiv:1603.07285, applied layer by layer.
"""

from __future__ import annotations

from collections.abc import Sequence

from vocab.convolution.conv1d import ConvNd

__all__ = ["Conv2d", "receptive_field"]

# B batch, C input channels, O output channels, H height, W width


class Conv2d(ConvNd):
    """Convolution over an image: one number per output channel, from all channels of a window of pixels.

    The same windows and the same matrix product as in one dimension (``vocab.convolution.conv1d.convolve``).

    Args:
        in_channels: Channels C of the input.
        out_channels: Channels O of the output.
        kernel_size: Taps; here and below one number, or one for the rows and one for the columns.
        stride: Pixels from one output to the next.
        padding: Pixels added on each side; ``"same"`` keeps H and W at stride 1.
        dilation: Pixels from one tap to the next.
        groups: Parts into which the channels are cut.
        bias: Whether a number per output channel is added.
        padding_mode: What padding holds: ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, O, H', W')``, each side as in ``output_size``.

    Raises:
        ValueError: If a size is out of range, ``groups`` does not divide both channel counts, ``"same"`` comes with a
            stride, or ``x`` has other channels, its channels last, or is smaller than the kernel's span.

    Examples:
        >>> import torch
        >>> stem = Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        >>> stem(torch.zeros(1, 3, 32, 48)).shape, stem.weight.numel()
        (torch.Size([1, 64, 16, 24]), 9408)
    """

    axes = ("height", "width")


def receptive_field(layers: Sequence[Sequence[int]]) -> tuple[int, int, float]:
    """Finds which pixels one output of a stack of layers can depend on, along one axis.

    Output ``j`` sees ``size`` pixels around pixel ``offset + stride * j``, holes of dilated layers included.

    Args:
        layers: For each layer, from the input on, ``(kernel_size, stride, padding, dilation)``; what is left out
            at the end is 1, 0, 1. Pooling counts as a layer.

    Returns:
        ``(size, stride, offset)``: pixels of the window, pixels from one output to the next, and the middle of the
        window of output 0 (half a pixel where ``size`` is even; below 0 in the padding).

    Raises:
        ValueError: If a layer has no number or more than four, or one that is too small.

    Examples:
        >>> receptive_field([(3, 1, 1), (3, 1, 1)])  # two layers of 3 see 5
        (5, 1, 0.0)
        >>> receptive_field([(7, 2, 3), (3, 2, 1)])  # the stem of a ResNet with its pooling
        (11, 4, 0.0)
    """
    size, step, offset = 1, 1, 0.0
    for number, layer in enumerate(layers):
        if not 1 <= len(layer) <= 4:
            raise ValueError(f"layers[{number}]={tuple(layer)} is not (kernel_size, stride, padding, dilation)")
        k, s, p, d = (*layer, *(0, 1, 0, 1)[len(layer):])
        if min(k, s, d) < 1 or p < 0:
            raise ValueError(f"layers[{number}]={tuple(layer)}: kernel_size, stride and dilation are at least 1, padding 0")
        reach = d * (k - 1)
        size += reach * step  # the layer's taps are d apart on its own input, whose pixels are step apart
        offset += (reach / 2 - p) * step
        step *= s
    return size, step, offset
