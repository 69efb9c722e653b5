"""Axial attention: in an image, each pixel reads its row, then its column.

Source: Ho et al. 2019, arXiv:1912.12180, section 3; with positions in all three parts: Wang et al. 2020, arXiv:2003.07853.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention
from vocab.check import expect

__all__ = ["AxialAttention"]

# B batch, H height, W width, D model width

AXES = {"height": ("height",), "width": ("width",), "both": ("height", "width")}


class AxialAttention(nn.Module):
    """Multi-head attention along one axis of an image, or along both, one after the other.

    Every line of the image is a sequence of its own. Two lines suffice to connect any two pixels: along the column of the
    one, then along the row of the other. There is no residual connection in between; that belongs to the block around it.

    Args:
        d_model: Width D of a pixel's vector.
        n_heads: Heads.
        axis: ``"height"`` lets a pixel read its column, ``"width"`` its row, ``"both"`` first its column, then its row, with
            weights for each.
        bias: Whether the projections have a bias.
        dropout: Share of attention weights set to zero in training.

    Shapes:
        x ``(B, H, W, D)`` -> ``(B, H, W, D)``.

    Raises:
        ValueError: If ``axis`` is another word, or the shape does not fit.

    Examples:
        >>> import torch
        >>> x = torch.randn(1, 3, 4, 8, requires_grad=True)
        >>> AxialAttention(8, 2, axis="width")(x)[0, 1, 2].sum().backward()
        >>> (x.grad[0].abs().sum(-1) > 0).int()  # pixel (1, 2) read row 1
        tensor([[0, 0, 0, 0],
                [1, 1, 1, 1],
                [0, 0, 0, 0]], dtype=torch.int32)
    """

    def __init__(self, d_model: int, n_heads: int, *, axis: str = "both", bias: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        if axis not in AXES:
            raise ValueError(f"axis={axis!r} is not 'height', 'width' or 'both'")
        self.d_model = d_model
        self.along = nn.ModuleDict({name: MultiHeadAttention(d_model, n_heads, bias=bias, dropout=dropout) for name in AXES[axis]})

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch height width d_model", d_model=self.d_model)
        for name, attention in self.along.items():
            lines = x.transpose(1, 2) if name == "height" else x  # the axis to read along goes last but one
            mixed = attention(lines.flatten(0, 1)).unflatten(0, lines.shape[:2])
            x = mixed.transpose(1, 2) if name == "height" else mixed
        return x
