"""GPT: a decoder-only Transformer that predicts the next token.

Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training", sections 3.1 and 4.1; with
``norm_first`` Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.attention.grouped_query import GroupedQueryAttention
from vocab.check import expect
from vocab.inference.kv_cache import KVCache

__all__ = ["GPT", "Block", "next_token_loss"]

# B batch, T time, D width, V vocabulary


class GPT(nn.Module):
    """Token and position embeddings, causal blocks, and logits from the token embedding itself.

    The defaults are GPT-1. GPT-2 is the same parts in another order: ``GPT(50257, 1024, norm_first=True)`` is its
    smallest size.

    Args:
        vocab_size: Number of tokens V.
        n_positions: Longest sequence; the table of positions has no further row.
        n_embd: Width D.
        n_layer: Blocks.
        n_head: Attention heads in each; divides ``n_embd``.
        norm_first: Whether each branch normalises what it reads (GPT-2) instead of its sum with the stream (GPT-1).
            A last normalisation then precedes the logits.
        dropout: On embeddings, attention weights and branches; in training only.

    Shapes:
        ids ``(B, T)`` -> logits ``(B, T, V)``; those at t are for the token at t + 1.

    Raises:
        ValueError: If ``ids`` is not ``(B, T)``, or the sequence is longer than ``n_positions``.

    Examples:
        >>> model = GPT(vocab_size=10, n_positions=8, n_embd=12, n_layer=2, n_head=3).eval()
        >>> ids = torch.tensor([[3, 1, 4, 1, 5]])
        >>> cache = KVCache(n_layers=2, batch=1, n_kv_heads=3, head_dim=4, max_len=8)
        >>> _ = model(ids[:, :4], cache=cache)
        >>> torch.allclose(model(ids[:, 4:], cache=cache), model(ids)[:, 4:], atol=1e-6)
        True
    """

    def __init__(
        self,
        vocab_size: int = 40478,
        n_positions: int = 512,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        *,
        norm_first: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.n_positions = n_positions
        self.tokens = nn.Embedding(vocab_size, n_embd)
        self.positions = nn.Embedding(n_positions, n_embd)
        self.dropout = nn.Dropout(dropout)
        options = dict(norm_first=norm_first, dropout=dropout)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, **options) for _ in range(n_layer))
        # With post-norm blocks the stream leaves the last one normalised already.
        self.final_norm = nn.LayerNorm(n_embd) if norm_first else nn.Identity()
        self.apply(_initialise)

    def forward(self, ids: Tensor, *, cache: KVCache | None = None) -> Tensor:
        """Logits of the next token, after each token.

        Args:
            ids: Token numbers ``(B, T)``; with a cache, the new ones only.
            cache: Where keys and values of earlier tokens are.

        Returns:
            ``(B, T, V)``.
        """
        expect("ids", ids, "batch time", dtype="int")
        start = 0 if cache is None else cache.lengths[0]
        end = start + ids.shape[1]
        if end > self.n_positions:
            raise ValueError(f"ids reach position {end - 1}; the table ends at n_positions={self.n_positions}")
        x_BTD = self.dropout(self.tokens(ids) + self.positions(torch.arange(start, end, device=ids.device)))
        for layer, block in enumerate(self.blocks):
            x_BTD = block(x_BTD, cache=cache, layer=layer)
        return F.linear(self.final_norm(x_BTD), self.tokens.weight)


class Block(nn.Module):
    """Causal attention, then two linear layers with a GELU between them, each added to what it read.

    Args:
        n_embd: Width D; the inner layer has 4 D.
        n_head: Attention heads; divides ``n_embd``.
        norm_first: Whether branches are normalised before (GPT-2) or the sum after (GPT-1).
        dropout: On attention weights and on each branch, in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.
    """

    def __init__(self, n_embd: int, n_head: int, *, norm_first: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = GroupedQueryAttention(n_embd, n_head, n_head, bias=True, dropout=dropout)
        self.norm_1 = nn.LayerNorm(n_embd)
        widen, narrow = nn.Linear(n_embd, 4 * n_embd), nn.Linear(4 * n_embd, n_embd)
        self.mlp = nn.Sequential(widen, nn.GELU(approximate="tanh"), narrow)
        self.norm_2 = nn.LayerNorm(n_embd)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *, cache: KVCache | None = None, layer: int = 0) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm_1(x), cache=cache, layer=layer))
            return x + self.dropout(self.mlp(self.norm_2(x)))
        x = self.norm_1(x + self.dropout(self.attention(x, cache=cache, layer=layer)))
        return self.norm_2(x + self.dropout(self.mlp(x)))


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of each token after the first, given those before it.

    The shift by one is made here and nowhere else: ``ids`` are what the model was given, not shifted.

    Args:
        logits: ``(B, T, V)``, from ``ids``.
        ids: ``(B, T)``.

    Returns:
        A scalar.

    Raises:
        ValueError: If the shapes do not fit, or there is no second token to predict.

    Examples:
        >>> next_token_loss(torch.zeros(1, 3, 10), torch.tensor([[3, 1, 4]]))  # log 10
        tensor(2.3026)
    """
    expect("logits", logits, "batch time vocabulary")
    expect("ids", ids, "batch time", dtype="int", batch=logits.shape[0], time=logits.shape[1])
    if ids.shape[1] < 2:
        raise ValueError(f"ids has {ids.shape[1]} token a sequence; predicting the next one takes two")
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().long())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
