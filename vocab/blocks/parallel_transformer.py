"""Parallel Transformer block: attention and feed-forward network read the same normalized tokens, and both are added at once.

Source: Wang and Komatsuzaki 2021, GPT-J; Chowdhery et al. 2022, arXiv:2204.02311, section 2 ("parallel layers"); with two norms
Black et al. 2022, arXiv:2204.06745, section 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.blocks.transformer_block import sublayers
from vocab.check import expect
from vocab.inference.kv_cache import KVCache
from vocab.normalization.layer import LayerNorm
from vocab.positional.rope import RotaryEmbedding

__all__ = ["ParallelTransformerBlock"]

# B batch, T tokens, D model width, H query heads, F hidden width


class ParallelTransformerBlock(nn.Module):
    """``x + attention(norm(x)) + feed_forward(norm(x))``: neither sublayer waits for the other.

    GPT-J is ``activation="gelu_tanh", bias=True, attention_bias=False`` with a partial interleaved ``rope``, GPT-NeoX
    ``shared_norm=False, bias=True``, PaLM ``ffn="swiglu", n_kv_heads=1``. A stack needs one more norm at its end.

    Args:
        d_model: Width D of the tokens.
        n_heads: Query heads H.
        d_ff: Hidden width F; ``4 * d_model`` if not given, and two thirds of it, rounded up to 256s, for ``"swiglu"``.
        shared_norm: Whether both sublayers read the result of one norm, or each that of its own.
        ffn: ``"mlp"`` or ``"swiglu"``, as in ``TransformerBlock``.
        activation: Between the maps of ``"mlp"``; a name that ``activation_function`` knows.
        n_kv_heads: Key/value heads; ``n_heads`` if not given.
        rope: Turns queries and keys by their positions.
        bias: Whether linear maps have a bias; the norms have one always.
        attention_bias: Whether those of the attention have one; as ``bias`` if not given.

    Examples:
        >>> block, x = ParallelTransformerBlock(d_model=8, n_heads=2), torch.randn(1, 5, 8)
        >>> u = block.norm(x)
        >>> torch.equal(block(x), x + (block.attention(u) + block.feed_forward(u)))
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int | None = None,
        *,
        shared_norm: bool = True,
        ffn: str = "mlp",
        activation: str = "gelu",
        n_kv_heads: int | None = None,
        rope: RotaryEmbedding | None = None,
        bias: bool = False,
        attention_bias: bool | None = None,
    ) -> None:
        super().__init__()
        options = dict(ffn=ffn, activation=activation, n_kv_heads=n_kv_heads, rope=rope, attention_bias=attention_bias)
        self.attention, self.feed_forward = sublayers(d_model, n_heads, d_ff, bias=bias, **options)
        self.d_model = d_model
        self.norm = LayerNorm(d_model)
        self.feed_forward_norm = None if shared_norm else LayerNorm(d_model)

    def forward(
        self,
        x: Tensor,
        is_causal: bool = True,
        *,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Adds both results to the stream.

        Args:
            x: ``(B, T, D)``; with a cache, the new tokens only.
            is_causal: Whether a token sees itself and earlier tokens only.
            position_ids: ``(T,)`` or ``(B, T)``, for ``rope``; counts on from the cache if not given.
            cache: Where earlier keys and values are, and where those of ``x`` are added.
            layer: Which layer of the cache is this block's.

        Returns:
            ``(B, T, D)``.

        Raises:
            ValueError: If the shape does not fit, or a cache comes without ``is_causal``.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        u = self.norm(x)
        v = u if self.feed_forward_norm is None else self.feed_forward_norm(x)
        mixed = self.attention(u, is_causal=is_causal, position_ids=position_ids, cache=cache, layer=layer)
        # The two are summed first: where each device holds a part of both, this sum is what they exchange, once.
        return x + (mixed + self.feed_forward(v))
