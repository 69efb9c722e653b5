"""Orthogonal initialization: random matrices that turn and mirror, but stretch nothing.

Source: Saxe, McClelland and Ganguli 2014, arXiv:1312.6120, section 3; Xiao et al. 2018, arXiv:1806.05393, algorithm 1, for convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.initialization.xavier import fans

__all__ = ["delta_orthogonal_", "orthogonal_"]


@torch.no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight in place with a (semi-)orthogonal matrix times ``gain``, uniform among all of them.

    A kernel is taken as a matrix (out, in · taps).

    Args:
        tensor: Weight of a linear layer or a convolution.
        gain: All singular values of the matrix.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor; its rows are orthogonal if it is wide, its columns if it is tall.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions or a size of 0.

    Examples:
        >>> w = orthogonal_(torch.empty(2, 5))
        >>> torch.allclose(w @ w.T, torch.eye(2), atol=1e-6)
        True
    """
    fans(tensor)
    wide_dtype = torch.promote_types(tensor.dtype, torch.float32)
    a = torch.empty(tensor.flatten(1).shape, dtype=wide_dtype, device=tensor.device).normal_(generator=generator)
    wide = a.shape[0] < a.shape[1]
    q, r = torch.linalg.qr(a.T if wide else a)
    # QR alone is not uniform: its sign conventions decide those of Q. With a positive diagonal of R they are the sample's own.
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return tensor.copy_(gain * (q.T if wide else q).reshape(tensor.shape))


@torch.no_grad()
def delta_orthogonal_(tensor: Tensor, gain: float = 1.0, generator: torch.Generator | None = None) -> Tensor:
    """Fills a kernel in place with zeros and one orthogonal matrix in its middle tap, which keeps the norm of any image.

    Args:
        tensor: Weight of a convolution of stride 1 with an odd number of taps along each side.
        gain: Factor on the norm.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, taps, ...)`` with out >= in -> the same tensor.

    Raises:
        ValueError: If ``tensor`` is no such kernel.

    Examples:
        >>> int(delta_orthogonal_(torch.empty(4, 2, 3, 3)).count_nonzero())
        8
    """
    fans(tensor)
    taps = tensor.shape[2:]
    if any(size % 2 == 0 for size in taps):
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; the kernel needs a middle tap, so odd sizes")
    if tensor.shape[0] < tensor.shape[1]:
        raise ValueError(f"tensor has shape {tuple(tensor.shape)}; fewer channels out than in cannot keep a norm")
    tensor.zero_()
    orthogonal_(tensor[(..., *(size // 2 for size in taps))], gain, generator)
    return tensor
