"""Learned positional embedding: a trained vector for every position, added to the token there.

Source: Gehring et al. 2017, arXiv:1705.03122, section 3.1; Devlin et al. 2019, arXiv:1810.04805, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["LearnedPositionalEmbedding"]

# B batch, T time, D model width, N rows of the table


class LearnedPositionalEmbedding(nn.Module):
    """Adds row ``position`` of a trained table to each token.

    Args:
        max_len: Rows N of the table: there are no others.
        d_model: Width D of the tokens.
        init_std: Standard deviation of the first values.
        padding_idx: A row for padding, as in RoBERTa: it is zero and stays so, and the first token has the row after it.
            The table then has ``max_len - padding_idx - 1`` positions.

    Shapes:
        x ``(B, T, D)``, position_ids ``(T,)`` or ``(B, T)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a setting cannot be, or a position has no row.

    Examples:
        >>> embed = LearnedPositionalEmbedding(max_len=512, d_model=768)
        >>> sum(p.numel() for p in embed.parameters())
        393216
    """

    def __init__(self, max_len: int, d_model: int, *, init_std: float = 0.02, padding_idx: int | None = None) -> None:
        super().__init__()
        self.first = 0 if padding_idx is None else padding_idx + 1
        if not 0 <= self.first < max_len:
            raise ValueError(f"padding_idx={padding_idx} leaves no position in a table of max_len={max_len} rows")
        if init_std < 0:
            raise ValueError(f"init_std={init_std} is negative")
        self.max_len, self.d_model, self.padding_idx = max_len, d_model, padding_idx
        self.weight = nn.Parameter(torch.randn(max_len, d_model) * init_std)
        if padding_idx is not None:
            with torch.no_grad():
                self.weight[padding_idx] = 0

    def forward(self, x: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Adds the positions' rows.

        Args:
            x: Token vectors.
            position_ids: Rows of the table; counts up from the first if not given. With padding on the left, or with
                several texts in one row, positions must be given.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        batch, time, _ = x.shape
        if position_ids is None:
            if self.first + time > self.max_len:
                raise ValueError(f"x has {time} tokens; the table has {self.max_len - self.first} positions (max_len={self.max_len})")
            position_ids = torch.arange(self.first, self.first + time, device=x.device)
        else:
            each = isinstance(position_ids, Tensor) and position_ids.ndim == 2
            expect("position_ids", position_ids, "batch time" if each else "time", dtype="int", batch=batch, time=time)
            # A row that is not there would be an assertion on a GPU, which ends the process. Reading a number back breaks a graph.
            if not torch.compiler.is_compiling() and not 0 <= position_ids.min() <= position_ids.max() < self.max_len:
                low, high = position_ids.min().item(), position_ids.max().item()
                raise ValueError(f"position_ids are from {low} to {high}; the table has rows 0 to {self.max_len - 1}")
        return x + F.embedding(position_ids, self.weight, padding_idx=self.padding_idx)

    def extend(self, new_len: int, method: str = "interpolate") -> LearnedPositionalEmbedding:
        """Makes a longer table for further training; this one stays as it is.

        Args:
            new_len: Rows of the new table.
            method: ``"interpolate"`` stretches the positions over the new length, first and last row kept;
                ``"repeat"`` writes them again and again from the start.

        Returns:
            The module with the new table.

        Raises:
            ValueError: If ``new_len`` is smaller than ``max_len``, or the method is unknown.
        """
        if new_len < self.max_len:
            raise ValueError(f"new_len={new_len} is less than max_len={self.max_len}; cut the table instead")
        old_ND = self.weight[self.first :]
        n = new_len - self.first
        if method == "repeat":
            rows_ND = old_ND[torch.arange(n, device=old_ND.device) % len(old_ND)]
        elif method == "interpolate":
            rows_ND = F.interpolate(old_ND.T[None], size=n, mode="linear", align_corners=True)[0].T
        else:
            raise ValueError(f"method={method!r} is not 'repeat' or 'interpolate'")
        longer = LearnedPositionalEmbedding(new_len, self.d_model, padding_idx=self.padding_idx).to(old_ND)
        with torch.no_grad():
            longer.weight[: self.first] = self.weight[: self.first]
            longer.weight[self.first :] = rows_ND
        return longer
