"""Query-key normalization: attention whose logits cannot grow with the weights, and soft-capping, which bounds them otherwise.

Source: Henry et al. 2020, arXiv:2010.04245, equation 4 (l2); Dehghani et al. 2023, arXiv:2302.05442, section 2 (norm with gains).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.attention.multi_head import MultiHeadAttention, split_heads
from vocab.attention.scaled_dot_product import masked_softmax, scaled_dot_product_attention
from vocab.check import expect
from vocab.kernels.qk_norm_rope import applies, fused
from vocab.normalization.rms import RMSNorm
from vocab.positional.rope import RotaryEmbedding

__all__ = ["QKNormAttention", "softcap"]

# B batch, T tokens, D model width, H heads, d head width


class QKNormAttention(MultiHeadAttention):
    """Multi-head self-attention whose queries and keys are normalised, head by head, before they meet.

    Args:
        d_model: Width D of the input and output.
        n_heads: Heads H.
        norm: ``"rms"`` divides by the root mean square and has d gains for queries and d for keys; ``"l2"`` divides by the
            length, and each head has one scale, which bounds its logits. Both start as the same function.
        learn_scale: Whether gains or scale are learned; without, they stay at 1 and ``sqrt(d)``.
        softcap: Bound of the logits behind everything else; none if not given.
        head_dim: Width d of one head; ``d_model // n_heads`` if not given.
        bias: Whether the four projections have a bias.
        eps: Of the norms.
        rotary: Turns queries and keys by their positions, behind the norm.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (norm and turn in one launch); the kernel has the norm ``"rms"``.

    Raises:
        ValueError: If ``norm`` is another word, ``softcap`` is not positive, or the heads do not fit.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> attention, x = QKNormAttention(16, 2, norm="l2"), torch.randn(1, 5, 16)
        >>> before = attention(x)
        >>> _ = attention.q_proj.weight.data.mul_(1000.0)
        >>> torch.allclose(attention(x), before, atol=1e-5)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        norm: str = "rms",
        learn_scale: bool = True,
        softcap: float | None = None,
        head_dim: int | None = None,
        bias: bool = False,
        eps: float = 1e-6,
        rotary: RotaryEmbedding | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, n_heads, head_dim=head_dim, bias=bias)
        if norm not in ("rms", "l2"):
            raise ValueError(f"norm={norm!r} is neither 'rms' nor 'l2'")
        if softcap is not None and not softcap > 0:
            raise ValueError(f"softcap={softcap} is not positive")
        self.norm, self.softcap, self.rotary, self.backend = norm, softcap, rotary, backend
        root = math.sqrt(self.head_dim)
        if norm == "rms":
            self.q_norm, self.k_norm = (RMSNorm(self.head_dim, eps, elementwise_affine=learn_scale) for _ in range(2))
            self.scale = 1 / root
        else:
            self.q_norm = self.k_norm = _UnitLength(eps)
            self.scale = nn.Parameter(torch.full((n_heads, 1, 1), root)) if learn_scale else root

    def forward(self, x: Tensor, *, is_causal: bool = True, return_weights: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Attends within ``x``.

        Args:
            x: ``(B, T, D)``.
            is_causal: Whether a token sees itself and earlier tokens only.
            return_weights: Whether to return the weights ``(B, H, T, T)`` too.

        Returns:
            ``(B, T, D)``, and with ``return_weights`` the weights.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd = split_heads(self.q_proj(x), self.head_dim)
        k_BHTd, v_BHTd = self.keys_and_values(x)
        q_BHTd, k_BHTd = self.normed_and_turned(q_BHTd, k_BHTd)
        return self.attend(q_BHTd, k_BHTd, v_BHTd, is_causal=is_causal, return_weights=return_weights)

    def normed_and_turned(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys ``(B, H, T, d)`` as they meet, but for the scale."""
        angle = q.new_zeros(q.shape[2], 0) if self.rotary is None else self.rotary.angles(q)
        if applies(q, k, angle, self.backend, None if self.norm == "rms" else f"the norm is {self.norm!r}"):
            layout = "half" if self.rotary is None else self.rotary.layout
            gains = self.q_norm.weight, self.k_norm.weight
            return fused(q, k, angle.cos(), angle.sin(), *gains, layout=layout, eps=self.q_norm.eps)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rotary is not None:  # behind the norm: a gain per coordinate after the turn would not turn with it
            q, k = self.rotary(q, k, torch.arange(q.shape[2], device=q.device))
        return q, k

    def weighted_mean(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attention with this module's scale instead of ``1 / sqrt(d)``, and with the soft cap."""
        if self.softcap is None:
            return scaled_dot_product_attention(self.scale * q, k, v, attn_mask=attn_mask, scale=1.0, return_weights=True)
        weights = masked_softmax(softcap(self.scale * q @ k.mT, self.softcap), attn_mask)
        return weights @ v, weights


def softcap(logits: Tensor, cap: float) -> Tensor:
    """Bounds logits smoothly: ``cap * tanh(logits / cap)``, nearly the identity for those much smaller than the cap.

    Args:
        logits: Any shape.
        cap: The bound; 50 for attention and 30 for the output in Gemma 2.

    Returns:
        Numbers between ``-cap`` and ``cap``, in the same order.

    Raises:
        ValueError: If ``cap`` is not positive.

    Examples:
        >>> softcap(torch.tensor([-1000.0, 1.0, 1000.0]), 50.0).round(decimals=3)
        tensor([-50.,   1.,  50.])
    """
    expect("logits", logits, "...")
    if not cap > 0:
        raise ValueError(f"cap={cap} is not positive")
    return cap * torch.tanh(logits / cap)


class _UnitLength(nn.Module):
    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1, eps=self.eps)
