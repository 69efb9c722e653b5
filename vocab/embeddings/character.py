"""Character-level word embedding: narrow convolutions read a word's spelling, and the strongest match of each is kept.

Source: Kim et al. 2016, arXiv:1508.06615, section "Character-level Convolutional Neural Network"; projection as in
Peters et al. 2018, arXiv:1802.05365, section 3.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.blocks.highway import HighwayLayer
from vocab.check import expect
from vocab.convolution.conv1d import Conv1d
from vocab.layers.embedding import Embedding, check_range
from vocab.pooling.global_max import GlobalMaxPool

__all__ = ["CharCNNEmbedding"]

# B batch, T words, W characters of the longest word, N = B·T, E character width, O filters of one width, D width of a word


class CharCNNEmbedding(nn.Module):
    """Computes a word's vector from its characters, so that every spelling has one.

    Args:
        n_chars: Characters, padding included: id 0 fills words up and counts as nothing.
        char_dim: Width E of a character.
        filters: Pairs of a width in characters and a number of filters.
        n_highway: Highway layers after the maximum.
        out_dim: Width D of the result, by a linear layer; the number of filters if not given, without that layer.

    Shapes:
        chars ``(B, T, W)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If an id has no row, padding stands before a character, or a setting cannot be.

    Examples:
        >>> embed = CharCNNEmbedding(n_chars=100)
        >>> chars = torch.tensor([[[3, 1, 20], [19, 0, 0]]])  # words of three letters and of one
        >>> embed(chars).shape
        torch.Size([1, 2, 256])
        >>> torch.allclose(embed(F.pad(chars, (0, 7))), embed(chars))
        True
    """

    def __init__(
        self,
        n_chars: int,
        char_dim: int = 16,
        filters: Sequence[tuple[int, int]] = ((1, 32), (2, 32), (3, 64), (4, 128)),
        *,
        n_highway: int = 2,
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not filters:
            raise ValueError("filters is empty; expected pairs of a width and a number")
        if n_highway < 0:
            raise ValueError(f"n_highway={n_highway} is negative")
        if out_dim is not None and out_dim < 1:
            raise ValueError(f"out_dim={out_dim} is below 1")
        self.chars = Embedding(n_chars, char_dim, padding_idx=0)
        self.convs = nn.ModuleList(Conv1d(char_dim, count, width) for width, count in filters)
        self.pool = GlobalMaxPool((-1,))
        total = sum(count for _, count in filters)
        self.highways = nn.Sequential(*[HighwayLayer(total) for _ in range(n_highway)])
        self.proj = nn.Identity() if out_dim is None else nn.Linear(total, out_dim)

    def forward(self, chars: Tensor) -> Tensor:
        expect("chars", chars, "batch words characters", dtype="int")
        check_range("chars", chars, len(self.chars.weight))
        words_NW = chars.flatten(0, 1)  # a convolution takes one batch dimension: words do not see each other
        is_char_NW = words_NW != 0
        length_N = is_char_NW.sum(1)
        if not torch.compiler.is_compiling() and (is_char_NW[:, 1:] & ~is_char_NW[:, :-1]).any():
            raise ValueError("chars has padding (0) before a character of the same word; expected it at the end only")
        # Times the mask, since what writes over all weights after construction makes the padding's row something.
        x_NEW = (self.chars(words_NW) * is_char_NW.unsqueeze(-1)).mT
        y_ND = self.proj(self.highways(torch.cat([self._strongest(conv, x_NEW, length_N) for conv in self.convs], 1)))
        return y_ND.unflatten(0, chars.shape[:2])

    def _strongest(self, conv: Conv1d, x_NEW: Tensor, length_N: Tensor) -> Tensor:
        """The largest response of each filter over the windows that lie within the word."""
        k = conv.kernel_size[0]
        y_NOP = torch.tanh(conv(F.pad(x_NEW, (0, k - 1))))  # one window for each first character
        # A word shorter than the filter has one window, filled up with zeros.
        windows_N1 = (length_N - k + 1).clamp(min=1).unsqueeze(1)
        return self.pool(y_NOP, torch.arange(y_NOP.shape[2], device=y_NOP.device) < windows_N1)
