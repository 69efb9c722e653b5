"""Multi-head latent attention (MLA): keys and values of all heads are made from one small vector per token.

Source: DeepSeek-AI 2024, arXiv:2405.04434, section 2.1 and appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import merge_heads, split_heads
from vocab.attention.scaled_dot_product import scaled_dot_product_attention
from vocab.check import expect
from vocab.normalization.rms import RMSNorm
from vocab.positional.rope import RotaryEmbedding

__all__ = ["LatentCache", "MultiHeadLatentAttention"]

# B batch, T queries, S keys, D model width, H heads, r rank of the latent, n width without and p with positions, e of a value


class LatentCache:
    """For each token the latent and one rotary key, r + p numbers, whatever the number of heads.

    Args:
        batch: Sequences B.
        max_len: Tokens of a sequence that can be held.
        width: Numbers of a token, ``kv_lora_rank + qk_rope_dim``.
        dtype: Of the stored numbers.
        device: Where it is stored.

    Attributes:
        length: Tokens held.

    Examples:
        >>> cache = LatentCache(batch=1, max_len=4, width=2)
        >>> cache.append(torch.ones(1, 3, 2)).shape, cache.length
        (torch.Size([1, 3, 2]), 3)
    """

    def __init__(
        self, batch: int, max_len: int, width: int, dtype: torch.dtype = torch.float32, *, device: torch.device | None = None
    ) -> None:
        self.store = torch.zeros(batch, max_len, width, dtype=dtype, device=device)
        self.length = 0

    def append(self, new: Tensor) -> Tensor:
        """Adds those of new tokens ``(B, t, width)``, and returns those of all ``(B, S, width)``."""
        batch, max_len, width = self.store.shape
        expect("new", new, "batch time width", batch=batch, width=width)
        end = self.length + new.shape[1]
        if end > max_len:
            raise ValueError(f"no room: {self.length} tokens and {new.shape[1]} new ones are more than max_len={max_len}")
        self.store[:, self.length : end] = new
        self.length = end
        return self.store[:, :end]


class MultiHeadLatentAttention(nn.Module):
    """Causal attention whose cache holds a latent vector per token instead of keys and values of every head.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        kv_lora_rank: Width r of the latent from which keys and values are made.
        q_lora_rank: Width of a latent for queries; they are projected directly if not given.
        qk_nope_dim: Width n of the part of a head's queries and keys that knows no position.
        qk_rope_dim: Width p of the part that is rotated; its key is common to all heads.
        v_dim: Width e of a head's values.
        rope_base: Of the rotary embedding.

    Examples:
        >>> attention = MultiHeadLatentAttention(32, 4, kv_lora_rank=8, qk_nope_dim=6, qk_rope_dim=4, v_dim=5)
        >>> x, cache = torch.randn(1, 7, 32), LatentCache(1, 7, 8 + 4)
        >>> steps = [attention(x[:, t : t + 1], cache=cache, absorb=True) for t in range(7)]
        >>> torch.allclose(torch.cat(steps, 1), attention(x), atol=1e-5)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        kv_lora_rank: int = 512,
        q_lora_rank: int | None = None,
        qk_nope_dim: int = 128,
        qk_rope_dim: int = 64,
        v_dim: int = 128,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__()
        sizes = dict(n_heads=n_heads, kv_lora_rank=kv_lora_rank, qk_nope_dim=qk_nope_dim, qk_rope_dim=qk_rope_dim, v_dim=v_dim)
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} is not positive")
        self.d_model, self.n_heads, self.rank = d_model, n_heads, kv_lora_rank
        self.nope, self.rope, self.v_dim = qk_nope_dim, qk_rope_dim, v_dim
        self.scale = (qk_nope_dim + qk_rope_dim) ** -0.5  # of the whole key: the latent's width has nothing to do with it
        q_width = n_heads * (qk_nope_dim + qk_rope_dim)
        if q_lora_rank is None:
            self.q_proj = nn.Linear(d_model, q_width, bias=False)
        else:
            self.q_proj = nn.Sequential(
                nn.Linear(d_model, q_lora_rank, bias=False), RMSNorm(q_lora_rank), nn.Linear(q_lora_rank, q_width, bias=False)
            )
        self.kv_down = nn.Linear(d_model, kv_lora_rank + qk_rope_dim, bias=False)
        self.kv_norm = RMSNorm(kv_lora_rank)
        self.kv_up = nn.Linear(kv_lora_rank, n_heads * (qk_nope_dim + v_dim), bias=False)
        self.o_proj = nn.Linear(n_heads * v_dim, d_model, bias=False)
        self.rotary = RotaryEmbedding(qk_rope_dim, base=rope_base, layout="interleaved")

    def forward(self, x: Tensor, *, cache: LatentCache | None = None, absorb: bool = False) -> Tensor:
        """Attends to the tokens so far.

        Args:
            x: ``(B, T, D)``; with a cache, the new tokens only.
            cache: Where the latents of earlier tokens are, and where those of ``x`` are added.
            absorb: Whether to compute in the space of the latents, and never make keys and values: for decoding. The result
                is the same.

        Returns:
            ``(B, T, D)``.

        Raises:
            ValueError: If the shape does not fit, or the cache has no room.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        start = 0 if cache is None else cache.length
        position = torch.arange(start, start + x.shape[1], device=x.device)
        q_nope, q_rope = split_heads(self.q_proj(x), self.nope + self.rope).split((self.nope, self.rope), -1)
        q_rope = self.rotary.rotate(q_rope, position)
        latent, k_rope = self.kv_down(x).split((self.rank, self.rope), -1)
        k_rope = self.rotary.rotate(k_rope[:, None], position)[:, 0]
        # What is cached: the latent as it goes into the up-projection, and the key that is rotated already.
        token_BSw = torch.cat((self.kv_norm(latent), k_rope), -1)
        if cache is not None:
            token_BSw = cache.append(token_BSw)
        attend = self._absorbed if absorb else self._expanded
        return self.o_proj(merge_heads(attend(q_nope, q_rope, token_BSw)))

    def _expanded(self, q_nope: Tensor, q_rope: Tensor, token: Tensor) -> Tensor:
        """Keys and values are made of the latents, for every head."""
        latent, k_rope = token.split((self.rank, self.rope), -1)
        k_nope, v = split_heads(self.kv_up(latent), self.nope + self.v_dim).split((self.nope, self.v_dim), -1)
        k = torch.cat((k_nope, k_rope[:, None].expand(-1, self.n_heads, -1, -1)), -1)
        return scaled_dot_product_attention(torch.cat((q_nope, q_rope), -1), k, v, is_causal=True, scale=self.scale)

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, token: Tensor) -> Tensor:
        """``q . (W c) = (W^T q) . c``: the up-projections move to the query and to the output, and all heads share one key."""
        up_k_Hnr, up_v_Her = self.kv_up.weight.unflatten(0, (self.n_heads, -1)).split((self.nope, self.v_dim), 1)
        q = torch.cat((q_nope @ up_k_Hnr, q_rope), -1)
        key = token[:, None]
        out_BHTr = scaled_dot_product_attention(q, key, key[..., : self.rank], is_causal=True, scale=self.scale)
        return out_BHTr @ up_v_Her.transpose(-2, -1)
