"""Segment embedding: one of two vectors, added to every token, says which text of a pair it belongs to; and BERT's whole input.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3 and figure 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.embeddings.token import TokenEmbedding
from vocab.layers.embedding import check_range
from vocab.normalization.layer import LayerNorm
from vocab.positional.learned import LearnedPositionalEmbedding

__all__ = ["BertEmbeddings", "segment_ids"]

# B batch, T time, D model width


class BertEmbeddings(nn.Module):
    """Adds the rows of token, position and segment, normalizes the sum and drops some of it.

    Args:
        vocab_size: Ids of tokens.
        d_model: Width D.
        max_len: Positions.
        n_segments: Rows of the segment table; 1 for models without pairs.
        eps: Added to the variance in the norm.
        dropout: Share of the normalized numbers set to zero in training.
        padding_idx: The token that fills texts up; its row starts at zero.

    Shapes:
        input_ids ``(B, T)``, token_type_ids ``(B, T)``, position_ids ``(T,)`` or ``(B, T)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If an id has no row in its table, a shape does not fit, or a setting cannot be.

    Examples:
        >>> embed = BertEmbeddings(30522, 768).eval()
        >>> ids = torch.tensor([[101, 2129, 102, 2986, 102]])
        >>> embed(ids, segment_ids(ids, sep_id=102)).shape
        torch.Size([1, 5, 768])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        max_len: int = 512,
        n_segments: int = 2,
        *,
        eps: float = 1e-12,
        dropout: float = 0.1,
        padding_idx: int | None = 0,
    ) -> None:
        super().__init__()
        if n_segments < 1:
            raise ValueError(f"n_segments={n_segments} is below 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not in [0, 1)")
        self.token = TokenEmbedding(vocab_size, d_model, padding_idx=padding_idx)
        self.position = LearnedPositionalEmbedding(max_len, d_model)
        self.segment = nn.Parameter(torch.randn(n_segments, d_model) * 0.02)
        self.norm, self.dropout = LayerNorm(d_model, eps), dropout

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None) -> Tensor:
        """Computes what BERT's first layer reads.

        Args:
            input_ids: Tokens.
            token_type_ids: Segments; all 0 if not given, which for a pair is wrong.
            position_ids: Counts up from 0 if not given.
        """
        expect("input_ids", input_ids, "batch time", dtype="int")
        if token_type_ids is None:
            token_type_ids = torch.zeros_like(input_ids)
        batch, time = input_ids.shape
        expect("token_type_ids", token_type_ids, "batch time", dtype="int", batch=batch, time=time)
        check_range("input_ids", input_ids, len(self.token.table.weight))
        check_range("token_type_ids", token_type_ids, len(self.segment))
        x_BTD = self.token(input_ids) + F.embedding(token_type_ids.long(), self.segment)
        return F.dropout(self.norm(self.position(x_BTD, position_ids)), self.dropout, self.training)


def segment_ids(ids: Tensor, sep_id: int) -> Tensor:
    """Finds the segments of ``[CLS] A [SEP] B [SEP]``: 1 from behind the first separator to the second, 0 elsewhere.

    A text without a partner is all 0, and so is padding.

    Args:
        ids: Tokens, ``(B, T)``.
        sep_id: The separator's id.

    Returns:
        ``(B, T)``, with the dtype of ``ids``.

    Raises:
        ValueError: If a text has more than two separators (not checked in compiled code).

    Examples:
        >>> segment_ids(torch.tensor([[101, 7, 8, 102, 9, 102, 0, 0]]), sep_id=102).tolist()
        [[0, 0, 0, 0, 1, 1, 0, 0]]
    """
    expect("ids", ids, "batch time", dtype="int")
    is_end = ids == sep_id
    ends = is_end.cumsum(1)
    if not torch.compiler.is_compiling() and (ends > 2).any():
        raise ValueError(f"ids has {ends.max().item()} separators (sep_id={sep_id}) in a text; a pair has 2")
    before = ends - is_end.long()  # a separator belongs to the text that it ends
    return ((before == 1) & (ends[:, -1:] == 2)).to(ids.dtype)
