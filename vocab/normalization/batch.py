"""Batch normalization: each channel gets mean 0 and deviation 1 over the batch; running averages take over at inference.

Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.normalization.layer import moments, standardize

__all__ = ["BatchNorm1d", "BatchNorm2d", "fold_into_conv"]

# B batch, C channels, H height, W width, L length


class BatchNorm2d(nn.Module):
    """Normalises every channel over batch and space, and remembers averages of its statistics.

    In training the statistics are those of the batch. In evaluation they are the running averages, if there are any, and
    then the layer is a fixed scale and shift per channel.

    Args:
        num_features: Channels C.
        eps: Added to the variance under the root.
        momentum: Weight of the *new* batch in the running averages; ``None`` takes the plain mean of all batches.
        affine: Whether there is a gain and a shift per channel.
        track_running_stats: Whether there are running averages; without, evaluation uses the batch as training does.

    Shapes:
        x ``(B, C, H, W)`` -> the same.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``x`` has another number of channels or dimensions, or one value per channel to take a variance of.

    Examples:
        >>> norm = BatchNorm2d(1, momentum=0.5)
        >>> y = norm(torch.tensor([6.0, 10.0]).view(2, 1, 1, 1))
        >>> [round(v, 4) for v in y.flatten().tolist()], norm.running_mean.item(), norm.running_var.item()
        ([-1.0, 1.0], 4.0, 4.5)
        >>> [round(v, 4) for v in norm.eval()(torch.full((1, 1, 1, 1), 4.0)).flatten().tolist()]
        [0.0]
    """

    over = (0, 2, 3)  # the dimensions that share one mean
    dims = "batch num_features height width"

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features={num_features} is below 1")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        if momentum is not None and not 0 <= momentum <= 1:
            raise ValueError(f"momentum={momentum} is not from 0 to 1")
        self.num_features, self.eps, self.momentum, self.track_running_stats = num_features, eps, momentum, track_running_stats
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.register_buffer("running_mean", torch.zeros(num_features) if track_running_stats else None)
        self.register_buffer("running_var", torch.ones(num_features) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", torch.tensor(0) if track_running_stats else None)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, self.dims, num_features=self.num_features)
        channel = (1, -1, *[1] * (x.ndim - 2))
        if self.training or not self.track_running_stats:
            mean, variance = moments(x, self.over)
            values = x.numel() // mean.numel()
            if values < 2:
                raise ValueError(f"x has shape {tuple(x.shape)}: {values} value per mean, and a variance needs two or more")
            if self.track_running_stats:
                # The output divides by the biased variance; what is remembered is the unbiased estimate.
                self._remember(mean.detach(), variance.detach() * values / (values - 1))
        else:
            mean, variance = self.running_mean.view(channel), self.running_var.view(channel)
        y = standardize(x, (mean, variance), self.eps)
        if self.weight is not None:
            y = y * self.weight.view(channel) + self.bias.view(channel)
        return y.to(x.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        self.num_batches_tracked += 1
        weight = self.num_batches_tracked.to(mean.dtype).reciprocal() if self.momentum is None else self.momentum
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            # The mean over the first dimension does nothing here; it is for statistics that each example has of its own.
            running += weight * (new.mean(0).flatten() - running)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, track_running_stats={self.track_running_stats}"


class BatchNorm1d(BatchNorm2d):
    """The same for sequences, one mean per channel over batch and time, and for vectors.

    Args:
        num_features: Channels C.
        eps: Added to the variance under the root.
        momentum: Weight of the new batch in the running averages, as in ``BatchNorm2d``.
        affine: Whether there is a gain and a shift per channel.
        track_running_stats: Whether there are running averages.

    Shapes:
        x ``(B, C, L)`` or ``(B, C)`` -> the same.

    Examples:
        >>> BatchNorm1d(1)(torch.tensor([[6.0], [10.0]])).round().tolist()
        [[-1.0], [1.0]]
    """

    over = (0, 2)
    dims = "batch num_features length"

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor) and x.ndim == 2:
            expect("x", x, "batch num_features", num_features=self.num_features)
            return super().forward(x.unsqueeze(2)).squeeze(2)
        return super().forward(x)


def fold_into_conv(conv: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """One convolution that computes what a convolution and the batch norm behind it compute in evaluation.

    Args:
        conv: The convolution.
        norm: The norm that reads it; this ``BatchNorm2d`` or that of ``torch.nn``.

    Returns:
        A new convolution with a bias; the given layers stay as they are.

    Raises:
        ValueError: If the channels differ or the norm has no running averages.

    Examples:
        >>> conv, norm = nn.Conv2d(1, 2, 3), BatchNorm2d(2)
        >>> _ = norm(conv(torch.randn(4, 1, 5, 5)))
        >>> x = torch.randn(1, 1, 5, 5)
        >>> torch.allclose(fold_into_conv(conv, norm)(x), norm.eval()(conv(x)), atol=1e-6)
        True
    """
    if norm.num_features != conv.out_channels:
        raise ValueError(f"norm.num_features={norm.num_features} is not conv.out_channels={conv.out_channels}")
    if norm.running_mean is None:
        raise ValueError("norm has no running averages (track_running_stats=False): its scale depends on the batch")
    folded = copy.deepcopy(conv)
    scale = torch.rsqrt(norm.running_var + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    shift = shift if norm.bias is None else shift + norm.bias
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    folded.weight = nn.Parameter((conv.weight * scale.view(-1, 1, 1, 1)).detach())
    folded.bias = nn.Parameter(shift.detach())
    return folded
