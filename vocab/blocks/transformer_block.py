"""Transformer block: attention mixes tokens, a feed-forward network mixes channels, and each is added to what it read.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1 (encoder and decoder layers); norm in front: Xiong et al. 2020,
arXiv:2002.04745, table 1; RMSNorm, SwiGLU and rotary positions together: Touvron et al. 2023, arXiv:2302.13971, section 2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.cross import CrossAttention
from vocab.attention.grouped_query import GroupedQueryAttention
from vocab.inference.kv_cache import KVCache
from vocab.layers.feed_forward import FeedForward
from vocab.layers.swiglu import SwiGLU
from vocab.normalization.norm_placement import ResidualNorm
from vocab.positional.rope import RotaryEmbedding

__all__ = ["TransformerBlock", "sublayers"]

# B batch, T tokens, S tokens that can be seen or are in the context, D model width, H query heads, F hidden width


class TransformerBlock(nn.Module):
    """Self-attention, optional cross-attention and a feed-forward network, each with its norm and residual sum.

    The defaults are GPT-2's but for the mask. ``placement="post"`` gives the layers of 2017 and of BERT, ``cross=True`` a decoder
    layer that reads an encoder, ``norm="rms", ffn="swiglu", bias=False`` with ``rope`` a layer of LLaMA. A stack of pre-norm
    blocks needs one more norm at its end, which is not in the block.

    Args:
        d_model: Width D of the tokens.
        n_heads: Query heads H.
        d_ff: Hidden width F; ``4 * d_model`` if not given, and two thirds of it, rounded up to 256s, for ``"swiglu"``.
        norm: ``"layer"`` or ``"rms"``.
        placement: ``"pre"``, ``"post"``, ``"sandwich"`` or ``"reordered"``, as in ``ResidualNorm``.
        ffn: ``"mlp"``, two linear maps, or ``"swiglu"``, gated by a third.
        activation: Between the maps of ``"mlp"``; a name that ``activation_function`` knows. ``"swiglu"`` has its own.
        n_kv_heads: Key/value heads of the self-attention; ``n_heads`` if not given.
        rope: Turns queries and keys of the self-attention by their positions.
        dropout: In training, the share of attention weights, of hidden units of ``"mlp"``, and of what each sublayer adds,
            that is set to zero.
        cross: Whether there is a cross-attention between the two.
        bias: Whether linear maps have a bias.
        eps: Added under the root of the norms.

    Examples:
        >>> block = TransformerBlock(d_model=8, n_heads=2)
        >>> sum(p.numel() for p in block.parameters()) == 12 * 8**2 + 13 * 8
        True
        >>> x = torch.randn(1, 5, 8)
        >>> torch.allclose(block(x[:, :3], is_causal=True), block(x, is_causal=True)[:, :3], atol=1e-6)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_ff: int | None = None,
        *,
        norm: str = "layer",
        placement: str = "pre",
        ffn: str = "mlp",
        activation: str = "gelu",
        n_kv_heads: int | None = None,
        rope: RotaryEmbedding | None = None,
        dropout: float = 0.0,
        cross: bool = False,
        bias: bool = True,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        options = dict(ffn=ffn, activation=activation, n_kv_heads=n_kv_heads, rope=rope, dropout=dropout)
        attention, feed_forward = sublayers(d_model, n_heads, d_ff, bias=bias, **options)
        residual = dict(norm=norm, placement=placement, eps=eps, dropout=dropout)
        self.attention = ResidualNorm(attention, d_model, **residual)
        self.cross_attention = None
        if cross:
            self.cross_attention = ResidualNorm(CrossAttention(d_model, n_heads, bias=bias, dropout=dropout), d_model, **residual)
        self.feed_forward = ResidualNorm(feed_forward, d_model, **residual)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        is_causal: bool = False,
        attn_mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: KVCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        """Passes tokens through the sublayers in turn.

        Args:
            x: ``(B, T, D)``, batch first; with a cache, the new tokens only.
            context: ``(B, S, D)``, what the cross-attention reads; given if and only if there is one.
            is_causal: Whether a token sees itself and earlier tokens only.
            attn_mask: For the self-attention, joined with ``is_causal``: booleans, true where a key may be seen, or numbers
                that are added to the scores; it broadcasts to ``(B, H, T, S)``.
            context_mask: Booleans ``(B, S)``, true where the context has a token and false where it has padding.
            position_ids: ``(T,)`` or ``(B, T)``, for ``rope``; counts on from the cache if not given.
            cache: Where earlier keys and values are, and where those of ``x`` are added.
            layer: Which layer of the cache is this block's.

        Returns:
            ``(B, T, D)``.

        Raises:
            ValueError: If a shape does not fit, ``context`` is missing or not asked for, or a cache comes without ``is_causal``.
        """
        if self.cross_attention is None and not (context is None and context_mask is None):
            raise ValueError("a context is given, but this block has no cross-attention; build it with cross=True")
        if self.cross_attention is not None and context is None:
            raise ValueError("context is missing: this block has a cross-attention, which must have something to read")
        seen = dict(is_causal=is_causal, attn_mask=attn_mask)
        x = self.attention(x, **seen, position_ids=position_ids, cache=cache, layer=layer)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context, context_mask=context_mask)
        return self.feed_forward(x)


def sublayers(
    d_model: int,
    n_heads: int,
    d_ff: int | None = None,
    *,
    ffn: str = "mlp",
    activation: str = "gelu",
    n_kv_heads: int | None = None,
    rope: RotaryEmbedding | None = None,
    dropout: float = 0.0,
    bias: bool = True,
    attention_bias: bool | None = None,
) -> tuple[GroupedQueryAttention, nn.Module]:
    """Builds the two functions that a block adds to its stream, without norms.

    Args:
        d_model: Width D.
        n_heads: Query heads H.
        d_ff: As in ``TransformerBlock``.
        ffn: As in ``TransformerBlock``.
        activation: As in ``TransformerBlock``.
        n_kv_heads: As in ``TransformerBlock``.
        rope: As in ``TransformerBlock``.
        dropout: Of attention weights and of hidden units of ``"mlp"``.
        bias: Whether linear maps have a bias.
        attention_bias: Whether those of the attention have one; as ``bias`` if not given.

    Returns:
        The attention and the feed-forward network.

    Raises:
        ValueError: If ``ffn`` is another word or a size cannot be.

    Examples:
        >>> attention, feed_forward = sublayers(8, 2, ffn="swiglu", bias=False)
        >>> attention(torch.zeros(1, 3, 8)).shape == feed_forward(torch.zeros(1, 3, 8)).shape
        True
    """
    if ffn not in ("mlp", "swiglu"):
        raise ValueError(f"ffn={ffn!r} is neither 'mlp' nor 'swiglu'")
    attention = GroupedQueryAttention(
        d_model,
        n_heads,
        n_heads if n_kv_heads is None else n_kv_heads,
        bias=bias if attention_bias is None else attention_bias,
        dropout=dropout,
        rotary=rope,
    )
    if ffn == "swiglu":
        return attention, SwiGLU(d_model, d_ff, bias=bias)
    return attention, FeedForward(d_model, d_ff, activation=activation, bias=bias, dropout=dropout)
