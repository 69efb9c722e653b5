"""Adaptive pooling: the size of the output is given, and the windows follow from the size of the input.

Source: He et al. 2015, arXiv:1406.4729, section 2.1 (bins in proportion to the image); the bins are those of PyTorch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["AdaptivePool2d", "adaptive_bins"]

# B batch, C channels, H height, W width, oh and ow output height and width

REDUCE = {"avg": torch.mean, "max": torch.amax}


class AdaptivePool2d(nn.Module):
    """Divides height and width into the given numbers of bins and takes the mean or maximum of each.

    Args:
        output_size: Bins along height and width; one number for both.
        mode: ``"avg"`` or ``"max"``. Of equal maxima, each gets a share of the gradient.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, oh, ow)``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``mode`` is another word, a size is below 1, or ``x`` has other dimensions or no pixel.

    Examples:
        >>> AdaptivePool2d((1, 2))(torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3))
        tensor([[[[1.5000, 2.5000]]]])
    """

    def __init__(self, output_size: int | tuple[int, int], mode: str = "avg") -> None:
        super().__init__()
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
        if len(self.output_size) != 2 or min(self.output_size) < 1:
            raise ValueError(f"output_size={output_size} is no number and no pair of numbers from 1 upwards")
        if mode not in REDUCE:
            raise ValueError(f"mode={mode!r} is neither 'avg' nor 'max'")
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch channels height width")
        if 0 in x.shape[2:]:
            raise ValueError(f"x has shape {tuple(x.shape)}: there is no pixel to pool")
        # A mean or maximum over a rectangle is that over its columns of that over its rows.
        for dim, n_out in zip((2, 3), self.output_size):
            bins = adaptive_bins(x.shape[dim], n_out)
            x = torch.stack([REDUCE[self.mode](x.narrow(dim, start, end - start), dim) for start, end in bins], dim)
        return x

    def extra_repr(self) -> str:
        return f"{self.output_size}, mode={self.mode!r}"


def adaptive_bins(n_in: int, n_out: int) -> list[tuple[int, int]]:
    """Where each bin starts and ends: bin i reaches from ``floor(i n_in / n_out)`` to ``ceil((i + 1) n_in / n_out)``.

    Args:
        n_in: Size of the input.
        n_out: Bins.

    Returns:
        ``(start, end)`` per bin, the end excluded.

    Raises:
        ValueError: If a number is below 1.

    Examples:
        >>> adaptive_bins(7, 3)
        [(0, 3), (2, 5), (4, 7)]
    """
    for name, n in (("n_in", n_in), ("n_out", n_out)):
        if n < 1:
            raise ValueError(f"{name}={n} is below 1")
    return [(i * n_in // n_out, -(-(i + 1) * n_in // n_out)) for i in range(n_out)]
