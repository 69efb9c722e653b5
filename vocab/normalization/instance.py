"""Instance normalization: every channel of every image gets mean 0 and deviation 1 over its own positions.

Source: Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022, equation 4.
"""

from __future__ import annotations

from vocab.normalization.batch import BatchNorm2d

__all__ = ["InstanceNorm2d"]

# B batch, C channels, H height, W width


class InstanceNorm2d(BatchNorm2d):
    """Batch normalization of batches of one: the same layer with the batch left out of the mean.

    Args:
        num_features: Channels C.
        eps: Added to the variance under the root.
        momentum: Weight of the new statistics, averaged over the batch, in the running averages.
        affine: Whether there is a gain and a shift per channel; off, unlike in batch normalization.
        track_running_stats: Whether running averages replace each image's own statistics in evaluation; off.

    Shapes:
        x ``(B, C, H, W)`` -> the same.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``x`` has another number of channels or dimensions, or maps of a single pixel.

    Examples:
        >>> import torch
        >>> dark, bright = torch.tensor([1.0, 3.0]), torch.tensor([101.0, 301.0])
        >>> InstanceNorm2d(1)(torch.stack([dark, bright]).view(2, 1, 1, 2)).flatten().round(decimals=4).tolist()
        [-1.0, 1.0, -1.0, 1.0]
    """

    over = (2, 3)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
