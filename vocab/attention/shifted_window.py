"""Shifted-window attention (Swin): attention within square windows of an image, which are shifted in every other layer.

Source: Liu et al. 2021, arXiv:2103.14030, section 3.2 and equation 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention, split_heads
from vocab.check import expect

__all__ = ["ShiftedWindowAttention", "relative_index", "shifted_window_mask", "window_partition", "window_reverse"]

# B batch, H height, W width, D model width, M side of a window, N windows of an image, h heads


class ShiftedWindowAttention(MultiHeadAttention):
    """Multi-head attention within windows of M × M pixels, with a learned bias for every relative position.

    With a shift, the image is rolled up and to the left first, so that windows lie across the borders of those before. The
    roll brings opposite borders of the image together; a mask keeps them apart.

    Args:
        d_model: Width D of a pixel's vector.
        n_heads: Heads.
        window: Side M of a window; height and width of the image are multiples of it.
        shift: Pixels by which the windows are shifted, from 0 to M - 1; usually 0 and M // 2 in turn.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Shapes:
        x ``(B, H, W, D)`` -> ``(B, H, W, D)``.

    Raises:
        ValueError: If ``shift`` is out of range, the image is not made of windows, or is a single window and shifted.

    Examples:
        >>> attention, x = ShiftedWindowAttention(8, 2, window=2), torch.randn(1, 4, 4, 8, requires_grad=True)
        >>> attention(x)[0, 1, 2].sum().backward()
        >>> (x.grad[0].abs().sum(-1) > 0).int()  # pixel (1, 2) read its window
        tensor([[0, 0, 1, 1],
                [0, 0, 1, 1],
                [0, 0, 0, 0],
                [0, 0, 0, 0]], dtype=torch.int32)
    """

    def __init__(
        self, d_model: int, n_heads: int, window: int = 7, shift: int = 0, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias, dropout=dropout)
        _check(window, shift)
        self.window, self.shift = window, shift
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, n_heads))
        nn.init.trunc_normal_(self.relative_bias, std=0.02)
        self.register_buffer("index", relative_index(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch height width d_model", d_model=self.d_model)
        B, H, W, _ = x.shape
        _check_image(H, W, self.window)
        if self.shift and max(H, W) == self.window:
            raise ValueError(f"shift={self.shift}, but the image of {H} × {W} is a single window: the shift must be 0")
        bias_hMM = self.relative_bias[self.index].movedim(-1, 0)
        attn_mask = bias_hMM[None]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
            seen_NMM = shifted_window_mask(H, W, self.window, self.shift).to(x.device)
            attn_mask = attn_mask.masked_fill(~seen_NMM[:, None], -torch.inf).repeat(B, 1, 1, 1)
        windows = window_partition(x, self.window).flatten(0, 1)
        q, (k, v) = split_heads(self.q_proj(windows), self.head_dim), self.keys_and_values(windows)
        mixed = self.attend(q, k, v, attn_mask=attn_mask).unflatten(0, (B, -1))
        out = window_reverse(mixed, self.window, H, W)
        return out.roll((self.shift, self.shift), (1, 2))


def window_partition(x: Tensor, window: int) -> Tensor:
    """Cuts images into windows, row by row.

    Args:
        x: ``(B, H, W, D)``.
        window: Side M of a window.

    Returns:
        ``(B, N, M * M, D)`` with N = H W / M².

    Examples:
        >>> window_partition(torch.arange(16).view(1, 4, 4, 1), 2)[0, 1].flatten()  # the window at the upper right
        tensor([2, 3, 6, 7])
    """
    _check_image(*x.shape[1:3], window)
    return x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def window_reverse(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Puts windows together again: the inverse of ``window_partition``.

    Args:
        windows: ``(B, N, M * M, D)``.
        window: Side M of a window.
        height: H of the image.
        width: W of the image.

    Returns:
        ``(B, H, W, D)``.

    Examples:
        >>> x = torch.randn(2, 4, 6, 3)
        >>> torch.equal(window_reverse(window_partition(x, 2), 2, 4, 6), x)
        True
    """
    _check_image(height, width, window)
    tiles = windows.unflatten(2, (window, window)).unflatten(1, (height // window, width // window))
    return tiles.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Which pixels of a window were neighbours before the roll, true where they may read each other.

    Args:
        height: H of the image.
        width: W of the image.
        window: Side M of a window.
        shift: Pixels by which the image was rolled.

    Returns:
        Booleans ``(N, M * M, M * M)``.
    """
    _check_image(height, width, window)
    _check(window, shift)
    # What was rolled in from the other side is the last ``shift`` rows and columns: another region than the rest.
    rolled_H, rolled_W = (torch.arange(size) >= size - shift for size in (height, width))
    region = (2 * rolled_H[:, None] + rolled_W.int())[None, :, :, None]
    region_NM = window_partition(region, window)[0, :, :, 0]
    return region_NM[:, :, None] == region_NM[:, None]


def relative_index(window: int) -> Tensor:
    """The row of the bias table for each pair of pixels in a window: one for each relative position, (2 M - 1)² in all.

    Args:
        window: Side M of a window.

    Returns:
        Integers ``(M * M, M * M)``, query by key.
    """
    place = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    offset = place[:, None] - place + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def _check(window: int, shift: int) -> None:
    if not 0 <= shift < window:
        raise ValueError(f"shift={shift} is not from 0 to {window - 1}, less than window={window}")


def _check_image(height: int, width: int, window: int) -> None:
    if height % window or width % window:
        raise ValueError(f"an image of {height} × {width} is not made of windows of {window} × {window}: pad it first")
