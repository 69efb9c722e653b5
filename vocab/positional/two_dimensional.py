"""2D positional embedding: half of the vector says the row, the other half the column; and tables for another resolution.

Source: Dosovitskiy et al. 2021, arXiv:2010.11929, sections 3.1 and 3.2; fixed 2D table: He et al. 2022, arXiv:2111.06377, appendix A.1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.check import expect
from vocab.positional.sinusoidal import sinusoidal_table

__all__ = ["interpolate_pos_embed", "sincos_2d"]

# H, W rows and columns of patches, D model width, N patches (and a class token)


def sincos_2d(grid_h: int, grid_w: int, d_model: int, *, base: float = 10000.0, cls_token: bool = False) -> Tensor:
    """Writes the row of each patch with the first half of the coordinates and its column with the second.

    Each half is ``sinusoidal_table`` in the concatenated layout. MAE's code has the column first.

    Args:
        grid_h: Rows H of patches.
        grid_w: Columns W of patches.
        d_model: Width D; a multiple of 4.
        base: Of the sinusoidal tables.
        cls_token: Whether a row of zeros for a class token comes first.

    Returns:
        ``(H * W, D)``, or one more row, in float64; patches in reading order, row by row.

    Raises:
        ValueError: If the grid is empty or ``d_model`` is no multiple of 4.

    Examples:
        >>> sincos_2d(2, 3, 4).shape, sincos_2d(14, 14, 768, cls_token=True).shape
        (torch.Size([6, 4]), torch.Size([197, 768]))
    """
    if grid_h < 1 or grid_w < 1:
        raise ValueError(f"a grid of grid_h={grid_h} by grid_w={grid_w} has no patch")
    if d_model % 4:
        raise ValueError(f"d_model={d_model} is not a multiple of 4: two axes, each with sines and cosines")
    rows, columns = (sinusoidal_table(n, d_model // 2, base, layout="concat") for n in (grid_h, grid_w))
    table_HWD = torch.cat((rows[:, None].expand(-1, grid_w, -1), columns.expand(grid_h, -1, -1)), -1)
    table = table_HWD.flatten(0, 1)
    return torch.cat((torch.zeros_like(table[:1]), table)) if cls_token else table


def interpolate_pos_embed(
    pe: Tensor,
    new_hw: tuple[int, int],
    *,
    old_hw: tuple[int, int] | None = None,
    has_cls: bool = True,
    mode: str = "bicubic",
) -> Tensor:
    """Resamples a trained table for another grid of patches; a class token's row is left as it is.

    Args:
        pe: ``(1, N, D)``, patches in reading order.
        new_hw: Rows and columns of the new grid.
        old_hw: Those of the old one; a square if not given.
        has_cls: Whether the first row belongs to a class token.
        mode: ``"bicubic"``, ``"bilinear"`` or ``"nearest"``, as of ``torch.nn.functional.interpolate``.

    Returns:
        ``(1, N', D)``.

    Raises:
        ValueError: If N does not fit the old grid, the new one is empty, or the mode is unknown.

    Examples:
        >>> trained = torch.randn(1, 197, 8)  # 14 by 14 patches of a 224-pixel image, and a class token
        >>> interpolate_pos_embed(trained, (24, 24)).shape  # 384 pixels
        torch.Size([1, 577, 8])
    """
    expect("pe", pe, "one positions d_model", one=1)
    if mode not in ("bicubic", "bilinear", "nearest"):
        raise ValueError(f"mode={mode!r} is not 'bicubic', 'bilinear' or 'nearest'")
    if min(new_hw) < 1:
        raise ValueError(f"new_hw={tuple(new_hw)} has no patch")
    cls, patches = pe[:, : int(has_cls)], pe[:, int(has_cls) :]
    n = patches.shape[1]
    h, w = old_hw or (math.isqrt(n), math.isqrt(n))
    if h * w != n or n == 0:
        expected = f"old_hw={tuple(old_hw)}" if old_hw else "a square grid; give old_hw, or check has_cls"
        raise ValueError(f"pe has {n} patches{' behind the class token' if has_cls else ''}, which is not {expected}")
    picture = patches.unflatten(1, (h, w)).movedim(-1, 1)  # the channels of an image
    corners = {} if mode == "nearest" else {"align_corners": False}
    resized = F.interpolate(picture, size=tuple(new_hw), mode=mode, **corners)
    return torch.cat((cls, resized.movedim(1, -1).flatten(1, 2)), 1)
