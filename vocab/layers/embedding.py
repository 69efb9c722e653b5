"""Embedding: a table from which each number of a vocabulary takes its row.

Source: Bengio et al. 2003, JMLR 3, section 2 (the matrix C); padding, norm limit and bags as in torch.nn.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["Embedding", "EmbeddingBag"]

# V rows of the table, D width, N looked-up numbers, G bags


class Embedding(nn.Module):
    """Looks up one learned vector per id: the product of a one-hot vector and a matrix, without the zeros.

    Args:
        num_embeddings: Rows V of the table.
        embedding_dim: Width D of a row.
        padding_idx: A row that starts at zero and gets no gradient. It is not kept at zero by anything else.
        max_norm: Rows that are longer than this are shortened, in place, when they are looked up.
        norm_type: Which norm ``max_norm`` limits.
        sparse: Whether the gradient holds the looked-up rows only. SGD, Adagrad and SparseAdam take such gradients.

    Shapes:
        ids ``(...)`` of whole numbers from 0 to V - 1 -> ``(..., D)``.

    Raises:
        ValueError: If an id is not a row of the table (not checked in compiled code), or a setting cannot be.

    Examples:
        >>> table = Embedding(5, 2, padding_idx=0)
        >>> table(torch.tensor([0, 0])).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
        >>> table(torch.tensor([3, 5]))
        Traceback (most recent call last):
        ValueError: ids holds 5; expected 0 to 4
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(_table(num_embeddings, embedding_dim))
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx={padding_idx} is not a row of num_embeddings={num_embeddings}")
            with torch.no_grad():
                self.weight[padding_idx] = 0
        if max_norm is not None and max_norm <= 0:
            raise ValueError(f"max_norm={max_norm} is not above 0; None sets no limit")
        self.padding_idx, self.max_norm, self.norm_type, self.sparse = padding_idx, max_norm, norm_type, sparse

    def forward(self, ids: Tensor) -> Tensor:
        expect("ids", ids, "...", dtype="int")
        check_range("ids", ids, len(self.weight))
        if self.max_norm is not None:
            self._shorten(ids)
        return F.embedding(ids.long(), self.weight, self.padding_idx, sparse=self.sparse)

    @torch.no_grad()
    def _shorten(self, ids: Tensor) -> None:
        used = ids.unique().long()
        norm_N1 = self.weight[used].norm(self.norm_type, dim=-1, keepdim=True)
        # Less a hair, as in PyTorch, so that rounding does not leave a row above the limit.
        factor_N1 = torch.where(norm_N1 > self.max_norm, self.max_norm / (norm_N1 + 1e-7), 1)
        self.weight[used] *= factor_N1


class EmbeddingBag(nn.Module):
    """Looks up rows and reduces each bag of them to one vector, for inputs that are sets of ids.

    Args:
        num_embeddings: Rows V of the table.
        embedding_dim: Width D of a row.
        mode: ``"sum"``, ``"mean"`` or ``"max"``. An empty bag is zero.

    Shapes:
        ids ``(N,)``, all bags one after the other, and offsets ``(G,)``, where each begins -> ``(G, D)``.

    Raises:
        ValueError: If ``mode`` is another word, an id is no row, or offsets do not start at 0 and rise up to N.

    Examples:
        >>> bags = EmbeddingBag(10, 4, mode="sum")
        >>> bags(torch.tensor([1, 2, 7]), torch.tensor([0, 2])).shape
        torch.Size([2, 4])
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, mode: str = "mean") -> None:
        super().__init__()
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"mode={mode!r} is none of 'sum', 'mean', 'max'")
        self.mode = mode
        self.weight = nn.Parameter(_table(num_embeddings, embedding_dim))

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        expect("ids", ids, "n_ids", dtype="int")
        expect("offsets", offsets, "n_bags", dtype="int")
        check_range("ids", ids, len(self.weight))
        ends = torch.cat([offsets[1:], offsets.new_tensor([len(ids)])])
        if not torch.compiler.is_compiling() and len(offsets) and (offsets[0] != 0 or (ends < offsets).any()):
            raise ValueError(f"offsets={offsets.tolist()} must start at 0 and rise to at most {len(ids)}, the number of ids")
        rows_ND = self.weight[ids.long()]
        place_N = torch.arange(len(ids), device=ids.device)
        bag_ND = (torch.searchsorted(offsets.long(), place_N, right=True) - 1)[:, None].expand_as(rows_ND)
        out_GD = rows_ND.new_zeros(len(offsets), rows_ND.shape[1])
        if self.mode == "max":
            return out_GD.scatter_reduce(0, bag_ND, rows_ND, "amax", include_self=False)
        out_GD = out_GD.scatter_add(0, bag_ND, rows_ND)
        return out_GD / (ends - offsets).clamp(min=1)[:, None] if self.mode == "mean" else out_GD


def _table(rows: int, width: int) -> Tensor:
    for name, size in dict(num_embeddings=rows, embedding_dim=width).items():
        if size < 1:
            raise ValueError(f"{name}={size} is below 1")
    return torch.randn(rows, width)


def check_range(name: str, ids: Tensor, rows: int) -> None:
    # On a GPU this waits for the device; without it, one bad id kills the process with a message from another call.
    if torch.compiler.is_compiling() or not ids.numel():
        return
    bad = ids[(ids < 0) | (ids >= rows)]
    if bad.numel():
        raise ValueError(f"{name} holds {bad[0].item()}; expected 0 to {rows - 1}")
