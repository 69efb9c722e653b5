"""Fourier features: coordinates are replaced by sines and cosines of many frequencies, so that a network can follow fine detail.

Source: Mildenhall et al. 2020, arXiv:2003.08934, equation 4; Tancik et al. 2020, arXiv:2006.10739, section 5; time step
embedding: Ho et al. 2020, arXiv:2006.11239, appendix B, with the formula of Vaswani et al. 2017, arXiv:1706.03762.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["FourierFeatures", "timestep_embedding"]

# I coordinates, M frequencies (of each coordinate, or directions in all of them)


class FourierFeatures(nn.Module):
    """Maps coordinates to sines and cosines. Nothing is trained.

    Args:
        in_dim: Coordinates I, scaled to about -1 ... 1.
        n_freqs: Frequencies M.
        mode: ``"nerf"``: frequencies ``pi 2 ** k`` for k = 0 ... M - 1 of each coordinate. ``"linear"``: ``pi k`` for
            k = 1 ... M of each, a Fourier series on -1 ... 1. ``"gaussian"``: M random directions, ``2 pi b`` with
            entries of b drawn from a normal distribution.
        scale: Standard deviation of b, in turns per unit; for ``"gaussian"`` only.
        include_input: Whether the coordinates come first, unchanged.

    Shapes:
        x ``(..., I)`` -> ``(..., 2 M I)`` or, gaussian, ``(..., 2 M)``; I more with ``include_input``. All sines come before
        all cosines.

    Raises:
        ValueError: If a setting cannot be or ``x`` has another width.

    Examples:
        >>> FourierFeatures(3, 10, include_input=False)(torch.zeros(1, 3)).shape  # NeRF's position
        torch.Size([1, 60])
        >>> FourierFeatures(1, 2)(torch.tensor([[0.1]])).round(decimals=3)
        tensor([[0.1000, 0.3090, 0.5880, 0.9510, 0.8090]])
    """

    def __init__(
        self, in_dim: int, n_freqs: int, *, mode: str = "nerf", scale: float = 1.0, include_input: bool = True
    ) -> None:
        super().__init__()
        if in_dim < 1 or n_freqs < 0 or (n_freqs == 0 and not include_input):
            raise ValueError(f"in_dim={in_dim} and n_freqs={n_freqs} give no features")
        if not scale > 0:
            raise ValueError(f"scale={scale} is not positive")
        steps = torch.arange(n_freqs, dtype=torch.get_default_dtype())
        if mode == "gaussian":
            turns_MI = scale * torch.randn(n_freqs, in_dim)
        elif mode in ("nerf", "linear"):
            turns = (2**steps if mode == "nerf" else steps + 1) / 2
            turns_MI = torch.kron(torch.eye(in_dim), turns[:, None])  # every frequency of the first coordinate, then of the next
        else:
            raise ValueError(f"mode={mode!r} is not 'nerf', 'gaussian' or 'linear'")
        self.in_dim, self.include_input = in_dim, include_input
        # Turns per unit, not radians: powers of two survive `model.bfloat16()`, multiples of pi do not.
        self.register_buffer("turns", turns_MI)
        self.out_dim = 2 * len(turns_MI) + in_dim * include_input

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_dim", in_dim=self.in_dim)
        # Angles of the fast frequencies need float32 at least: bfloat16 has 8 bits for up to hundreds of turns.
        dtype = torch.promote_types(x.dtype, torch.float32)
        angle = 2 * math.pi * (x.to(dtype) @ self.turns.to(dtype).T)
        features = torch.cat((angle.sin(), angle.cos()), -1).to(x.dtype)
        return torch.cat((x, features), -1) if self.include_input else features


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """Writes a time step as cosines and sines of ``t * max_period ** (-i / (dim / 2))``: what diffusion models feed their networks.

    Args:
        t: ``(B,)`` time steps, not necessarily whole.
        dim: Width; even.
        max_period: Sets the slowest frequency.

    Returns:
        ``(B, dim)``: all cosines, then all sines, as in the code of guided diffusion; other code has the sines first.

    Raises:
        ValueError: If ``dim`` is odd or ``max_period`` not positive.

    Examples:
        >>> timestep_embedding(torch.tensor([0.0, 1.0]), 4).round(decimals=2)
        tensor([[1.0000, 1.0000, 0.0000, 0.0000],
                [0.5400, 1.0000, 0.8400, 0.0100]])
    """
    expect("t", t, "batch")
    if dim < 2 or dim % 2:
        raise ValueError(f"dim={dim} is not an even number: every cosine has its sine")
    if not max_period > 0:
        raise ValueError(f"max_period={max_period} is not positive")
    half = dim // 2
    rate = max_period ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angle = t.double()[:, None] * rate
    return torch.cat((angle.cos(), angle.sin()), -1).to(t.dtype)
