"""Token embedding with tied output: one matrix turns ids into vectors and vectors back into a score for every id.

Source: Press and Wolf 2017, arXiv:1608.05859, section 3; the factor sqrt(D) from Vaswani et al. 2017, arXiv:1706.03762, section 3.4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.layers.embedding import Embedding

__all__ = ["TokenEmbedding"]

# B batch, T time, D model width, V rows of the vocabulary


class TokenEmbedding(nn.Module):
    """Both ends of a language model: ``forward`` looks ids up, ``logits`` scores every id against a hidden state.

    Args:
        vocab_size: Ids V.
        d_model: Width D.
        tied: Whether both ends use the same matrix. Otherwise the output has its own, ``head``.
        scale: Whether looked-up vectors are multiplied by ``sqrt(d_model)``; the scores never are.
        padding_idx: An id whose row starts at zero and gets no gradient from the lookup. A tied output does move it.
        init_std: Standard deviation of both matrices at the start.
        bias: Whether the output adds a number per id, as in BERT.

    Shapes:
        ids ``(B, T)`` -> ``(B, T, D)``; in ``logits`` h ``(B, T, D)`` -> ``(B, T, V)``.

    Raises:
        ValueError: If a setting cannot be, an id is no row, or the hidden states have another width.

    Examples:
        >>> model = TokenEmbedding(50257, 768)
        >>> sum(p.numel() for p in model.parameters())
        38597376
        >>> model.logits(model(torch.tensor([[3, 1, 4]]))).shape
        torch.Size([1, 3, 50257])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        tied: bool = True,
        scale: bool = False,
        padding_idx: int | None = None,
        init_std: float = 0.02,
        bias: bool = False,
    ) -> None:
        super().__init__()
        if not init_std > 0:
            raise ValueError(f"init_std={init_std} is not above 0: with zeros at both ends nothing would ever learn")
        self.d_model, self.tied, self.scale, self.init_std = d_model, tied, scale, init_std
        self.table = Embedding(vocab_size, d_model, padding_idx=padding_idx)
        with torch.no_grad():
            self.table.weight *= init_std  # 1 in a lookup alone; as an output that would mean scores of size sqrt(D)
        self.head = None if tied else nn.Parameter(torch.randn(vocab_size, d_model) * init_std)
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, ids: Tensor) -> Tensor:
        x_BTD = self.table(ids)
        return x_BTD * math.sqrt(self.d_model) if self.scale else x_BTD

    def logits(self, h: Tensor) -> Tensor:
        """Scores every id: the product of a hidden state with each row of the output matrix.

        Args:
            h: What the network made of the tokens.
        """
        expect("h", h, "... d_model", d_model=self.d_model)
        return F.linear(h, self.table.weight if self.tied else self.head, self.bias)

    def resize(self, new_vocab: int) -> TokenEmbedding:
        """Makes a copy for a larger or smaller vocabulary; this one stays as it is.

        Rows that stay are copied. A new row is the mean of all old ones: its score is then the mean of the old scores,
        so that no new id starts out more probable than 1 / V, whatever the hidden state.

        Args:
            new_vocab: Ids of the new vocabulary.

        Returns:
            The new module; an optimizer that holds the old one's parameters has to be made anew.

        Raises:
            ValueError: If ``new_vocab`` is below 1 or would cut off ``padding_idx``.
        """
        settings = dict(tied=self.tied, scale=self.scale, init_std=self.init_std, bias=self.bias is not None)
        new = TokenEmbedding(new_vocab, self.d_model, padding_idx=self.table.padding_idx, **settings).to(self.table.weight)
        old = dict(self.named_parameters())
        with torch.no_grad():
            for name, rows in new.named_parameters():
                kept = min(new_vocab, len(old[name]))
                rows[:kept] = old[name][:kept]
                rows[kept:] = old[name].mean(0)
        return new

    def extra_repr(self) -> str:
        return f"tied={self.tied}, scale={self.scale}"
