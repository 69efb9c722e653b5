"""Where the norm stands in a residual layer: before, behind the sum, around the sublayer, or behind the sublayer.

Source: Xiong et al. 2020, arXiv:2002.04745, table 1 (post and pre); OLMo Team 2025, arXiv:2501.00656, section 3.2 (reordered).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.normalization.layer import LayerNorm
from vocab.normalization.rms import RMSNorm

__all__ = ["ResidualNorm"]

# B batch, T tokens, D model width

NORMS = {"layer": LayerNorm, "rms": RMSNorm}
PLACEMENTS = ("pre", "post", "sandwich", "reordered")


class ResidualNorm(nn.Module):
    """A sublayer with its residual sum and its norms.

    ``pre`` computes ``x + f(N(x))``, ``post`` ``N(x + f(x))``, ``sandwich`` ``x + N(f(N(x)))``, ``reordered`` ``x + N(f(x))``.
    A stack of any but ``post`` needs one more norm at its end, since nothing bounds the sum.

    Args:
        sublayer: The function f, attention or a feed-forward network; gives what has the shape of its input.
        d_model: Width D.
        placement: ``"pre"``, ``"post"``, ``"sandwich"`` or ``"reordered"``.
        norm: ``"layer"`` or ``"rms"``.
        eps: Added under the root of the norms.
        dropout: Share of the sublayer's result that is set to zero in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``. What comes after ``x``, such as a mask, is handed to the sublayer.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``placement`` or ``norm`` is another word, ``dropout`` is no share, or ``x`` or the
            sublayer's result has another shape.

    Examples:
        >>> x, silent = torch.randn(1, 4, 8), nn.Linear(8, 8)
        >>> _ = nn.init.zeros_(silent.weight), nn.init.zeros_(silent.bias)
        >>> torch.equal(ResidualNorm(silent, 8, placement="pre")(x), x)
        True
    """

    def __init__(
        self,
        sublayer: nn.Module,
        d_model: int,
        *,
        placement: str = "pre",
        norm: str = "layer",
        eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if placement not in PLACEMENTS:
            raise ValueError(f"placement={placement!r} is none of {', '.join(PLACEMENTS)}")
        if norm not in NORMS:
            raise ValueError(f"norm={norm!r} is none of {', '.join(NORMS)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not from 0 to below 1")
        self.d_model, self.placement, self.sublayer, self.dropout = d_model, placement, sublayer, dropout
        self.norm = NORMS[norm](d_model, eps=eps)
        self.norm_out = NORMS[norm](d_model, eps=eps) if placement == "sandwich" else None

    def forward(self, x: Tensor, *args: object, **kwargs: object) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        f = self.sublayer(self.norm(x) if self.placement in ("pre", "sandwich") else x, *args, **kwargs)
        if f.shape != x.shape:
            raise ValueError(f"sublayer returned {tuple(f.shape)}; a residual sum needs {tuple(x.shape)}")
        f = F.dropout(f, self.dropout, self.training)
        if self.placement == "post":
            return self.norm(x + f)
        if self.placement == "reordered":
            return x + self.norm(f)
        return x + (f if self.norm_out is None else self.norm_out(f))

    def extra_repr(self) -> str:
        return f"placement={self.placement!r}"
