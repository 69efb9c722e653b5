"""Sinusoidal positional encoding: each position gets the readings of clocks that turn at different speeds.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["SinusoidalPositionalEncoding", "sinusoidal_table"]

# B batch, T time, D model width


class SinusoidalPositionalEncoding(nn.Module):
    """Adds ``sinusoidal_table`` to token vectors. It has no parameters and no buffers.

    Args:
        d_model: Width D of the tokens; even.
        max_len: Positions from here on are an error: the model was not trained on them.
        base: The slowest clock turns once in nearly ``2 pi base`` positions.
        layout: ``"interleaved"`` is sine, cosine, sine, ..., as in the paper; ``"concat"`` is all sines, then all cosines.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``d_model`` is odd, ``base`` or ``layout`` cannot be, or ``x`` goes beyond ``max_len``.

    Examples:
        >>> SinusoidalPositionalEncoding(4)(torch.zeros(1, 2, 4)).round(decimals=2)
        tensor([[[0.0000, 1.0000, 0.0000, 1.0000],
                 [0.8400, 0.5400, 0.0100, 1.0000]]])
    """

    def __init__(self, d_model: int, max_len: int = 5000, base: float = 10000.0, *, layout: str = "interleaved") -> None:
        super().__init__()
        sinusoidal_table(1, d_model, base, layout=layout)  # what cannot be should not wait for the first batch
        self.d_model, self.max_len, self.base, self.layout = d_model, max_len, base, layout

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """Adds the positions ``offset``, ``offset + 1``, ...

        Args:
            x: Token vectors; where they are trained embeddings, usually multiplied by ``d_model ** 0.5`` before.
            offset: Position of the first token; with a cache, how many came before.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        end = offset + x.shape[1]
        if offset < 0 or end > self.max_len:
            raise ValueError(f"positions {offset} to {end - 1} are not all from 0 to {self.max_len - 1} (max_len={self.max_len})")
        table_TD = sinusoidal_table(x.shape[1], self.d_model, self.base, layout=self.layout, start=offset, device=x.device)
        return x + table_TD.to(x.dtype)


def sinusoidal_table(
    length: int,
    d_model: int,
    base: float = 10000.0,
    *,
    layout: str = "interleaved",
    start: int = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Computes the sine and cosine of ``position / base ** (2 i / d_model)`` for i = 0 ... d_model / 2 - 1.

    Args:
        length: Rows T.
        d_model: Columns D; even.
        base: Pair i makes one turn in ``2 pi base ** (2 i / D)`` positions.
        layout: ``"interleaved"`` or ``"concat"``.
        start: Position of the first row.
        device: Where to make it.

    Returns:
        ``(T, D)`` in float64: round once, at the end. A rate that is computed in half precision is off by up to one part
        in 2,000, and position 2,000 then by a whole radian.

    Raises:
        ValueError: If ``d_model`` is odd, or ``base`` or ``layout`` cannot be.

    Examples:
        >>> sinusoidal_table(2, 4, base=100.0, layout="concat").round(decimals=2)
        tensor([[0.0000, 0.0000, 1.0000, 1.0000],
                [0.8400, 0.1000, 0.5400, 1.0000]], dtype=torch.float64)
    """
    if d_model < 2 or d_model % 2:
        raise ValueError(f"d_model={d_model} is not an even number: every sine has its cosine")
    if not base > 0:
        raise ValueError(f"base={base} is not positive")
    if layout not in ("interleaved", "concat"):
        raise ValueError(f"layout={layout!r} is not 'interleaved' or 'concat'")
    position = torch.arange(start, start + length, dtype=torch.float64, device=device)
    rate = base ** (-torch.arange(0, d_model, 2, dtype=torch.float64, device=device) / d_model)
    angle = position[:, None] * rate
    pair = angle.sin(), angle.cos()
    return torch.stack(pair, -1).flatten(-2) if layout == "interleaved" else torch.cat(pair, -1)
