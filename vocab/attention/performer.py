"""Performer (FAVOR+): softmax attention estimated by positive random features, in linear time.

Source: Choromanski et al. 2021, arXiv:2009.14794, lemma 1 (positive features), section 2.4 (orthogonal ones).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.attention.linear import linear_attention
from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.check import expect

__all__ = ["PerformerAttention", "random_directions", "softmax_features"]

# B batch, H heads, T tokens, D model width, d head width, m features


class PerformerAttention(MultiHeadAttention):
    """Multi-head attention with random features whose products are ``exp(q . k / sqrt(d))`` on average.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        n_features: Features m; about ``d log d`` if not given.
        orthogonal: Whether directions are orthogonal to each other, in groups of d: less error for the same m.
        redraw_interval: In training, draw new directions every so many calls; never if not given.
        causal: Whether a token sees itself and earlier tokens only.
        bias: Whether the projections have a bias.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a number is not positive, or the shape does not fit.

    Examples:
        >>> attention = PerformerAttention(d_model=64, n_heads=4)  # heads of width 16: 16 log 16 = 44.4 features
        >>> attention.omega.shape
        torch.Size([45, 16])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        n_features: int | None = None,
        orthogonal: bool = True,
        redraw_interval: int | None = None,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias)
        if redraw_interval is not None and redraw_interval < 1:
            raise ValueError(f"redraw_interval={redraw_interval} is not positive")
        if n_features is None:
            n_features = max(1, math.ceil(self.head_dim * math.log(self.head_dim)))
        self.orthogonal, self.redraw_interval, self.causal = orthogonal, redraw_interval, causal
        # A part of the model: weights were trained for these directions.
        self.register_buffer("omega", random_directions(n_features, self.head_dim, orthogonal=orthogonal))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        if self.training and self.redraw_interval is not None:
            self.calls += 1
            if self.calls % self.redraw_interval == 0:
                self.redraw()
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        root = self.head_dim**-0.25  # each of the two takes half of the scale
        # A factor common to all keys, or to a query, cancels in the normalizer: take it out before it overflows.
        log_q, log_k = (_log_features(y * root, self.omega) for y in (q_BHTd, k_BHTd))
        phi_q = (log_q - log_q.amax(-1, keepdim=True).detach()).exp()
        phi_k = (log_k - log_k.amax((-2, -1), keepdim=True).detach()).exp()
        out_BHTd, _ = linear_attention(phi_q, phi_k, v_BHTd, causal=self.causal, eps=1e-9)
        return self.o_proj(merge_heads(out_BHTd))

    def redraw(self) -> None:
        """Draws new directions."""
        with torch.no_grad():
            self.omega.copy_(random_directions(*self.omega.shape, orthogonal=self.orthogonal))


def softmax_features(x: Tensor, omega: Tensor) -> Tensor:
    """Positive features whose dot products estimate the exponential: ``E[phi(q) . phi(k)] = exp(q . k)``.

    Args:
        x: ``(..., d)``; for attention multiplied by ``d ** -0.25``.
        omega: Directions ``(m, d)``, standard normal.

    Returns:
        ``exp(omega . x - |x|² / 2) / sqrt(m)``, ``(..., m)``.

    Raises:
        ValueError: If the widths differ.

    Examples:
        >>> softmax_features(torch.zeros(1, 3), torch.randn(4, 3))  # exp(0) = 1 = 4 · 0.5²
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    expect("x", x, "... width")
    expect("omega", omega, "features width", width=x.shape[-1])
    return _log_features(x, omega).exp() / len(omega) ** 0.5


def random_directions(n_features: int, width: int, *, orthogonal: bool = True) -> Tensor:
    """Standard normal vectors, on wish orthogonal to each other in groups of ``width``.

    Each of them is standard normal also then: its direction is uniform, and its length is drawn apart.

    Args:
        n_features: How many, m.
        width: Their width d.
        orthogonal: Whether those of a group are orthogonal.

    Returns:
        ``(m, d)``.

    Examples:
        >>> omega = random_directions(2, 2)
        >>> (omega[0] @ omega[1]).abs() < 1e-5
        tensor(True)
    """
    if n_features < 1:
        raise ValueError(f"n_features={n_features} is not positive")
    lengths = torch.randn(n_features, width).norm(dim=1, keepdim=True)
    if not orthogonal:
        return torch.nn.functional.normalize(torch.randn(n_features, width), dim=1) * lengths
    groups = [torch.linalg.qr(torch.randn(width, width)).Q.T for _ in range(-(-n_features // width))]
    # The signs that QR leaves are not random, so each direction gets one of its own.
    return torch.cat(groups)[:n_features] * lengths * torch.randn(n_features, 1).sign()


def _log_features(x: Tensor, omega: Tensor) -> Tensor:
    return x @ omega.to(x.dtype).T - x.square().sum(-1, keepdim=True) / 2
