"""Generalized-mean pooling: a power mean that a learned exponent moves between average and maximum; and Lp pooling of windows.

Source: Radenović, Tolias and Chum 2019, arXiv:1711.02512, equation 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.pooling.max import check_window, windows

__all__ = ["GeMPool", "lp_pool2d"]

# B batch, C channels, H height, W width


class GeMPool(nn.Module):
    """Takes the power mean ``mean(x**p) ** (1/p)`` of every channel.

    It is computed through logarithms, so that no power overflows. Numbers below ``eps`` count as ``eps``.

    Args:
        p: Exponent at the start; 1 is the average, infinity would be the maximum.
        learnable: Whether p is learned.
        eps: Smallest number that counts; a negative one has no power.
        per_channel: Number of channels C, for an exponent of its own each; one for all if not given.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C)``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``p`` or ``eps`` is not positive, or ``x`` has other dimensions, channels or no pixel.

    Examples:
        >>> x = torch.tensor([1.0, 1.0, 1.0, 5.0]).view(1, 1, 2, 2)
        >>> [round(GeMPool(p)(x).item(), 3) for p in (1.0, 3.0, 100.0)]
        [2.0, 3.175, 4.931]
    """

    def __init__(self, p: float = 3.0, *, learnable: bool = True, eps: float = 1e-6, per_channel: int | None = None) -> None:
        super().__init__()
        for name, value in (("p", p), ("eps", eps)):
            if not value > 0:
                raise ValueError(f"{name}={value} is not positive")
        if per_channel is not None and per_channel < 1:
            raise ValueError(f"per_channel={per_channel} is no number of channels")
        self.eps, self.per_channel = eps, per_channel
        start = torch.full((per_channel or 1,), float(p))
        if learnable:
            self.p = nn.Parameter(start)
        else:
            self.register_buffer("p", start)

    def forward(self, x: Tensor) -> Tensor:
        sizes = {} if self.per_channel is None else {"channels": self.per_channel}
        expect("x", x, "batch channels height width", **sizes)
        n = x.shape[2] * x.shape[3]
        if not n:
            raise ValueError(f"x has shape {tuple(x.shape)}: there is no pixel to pool")
        logs = x.to(torch.promote_types(x.dtype, torch.float32)).clamp(min=self.eps).log().flatten(2)
        # (1/p) log((1/n) sum exp(p log x)): the sum is taken relative to its largest term, so that 300^50 is no trouble.
        mean = torch.logsumexp(self.p[:, None] * logs, -1) - torch.tensor(n, dtype=logs.dtype, device=x.device).log()
        return (mean / self.p).exp().to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p.mean().item():.4g}, eps={self.eps}"


def lp_pool2d(x: Tensor, norm_type: float, kernel_size: int, stride: int | None = None) -> Tensor:
    """Takes the p-norm of every window: a *sum* under the root, so that a constant 1 comes out as ``k**(2/p)``.

    Args:
        x: Maps; absolute values count.
        norm_type: The exponent p; 1 or more.
        kernel_size: Side k of the window.
        stride: Step from window to window; ``kernel_size`` if not given.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, H', W')``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``norm_type`` is below 1, a size is out of range or ``x`` is smaller than a window.

    Examples:
        >>> lp_pool2d(torch.tensor([[3.0, 0.0], [0.0, -4.0]]).view(1, 1, 2, 2), 2, 2)
        tensor([[[[5.]]]])
    """
    expect("x", x, "batch channels height width")
    if not norm_type >= 1:
        raise ValueError(f"norm_type={norm_type} is below 1: that is no norm")
    stride = kernel_size if stride is None else stride
    check_window(kernel_size, stride)
    return torch.linalg.vector_norm(windows(x, kernel_size, stride).flatten(-2), norm_type, dim=-1)
