"""Bilinear layer: every output weighs all products of one number of each of two inputs.

Source: Tenenbaum and Freeman 2000, doi:10.1162/089976600300015349, equation 1; low rank: Kim et al. 2017,
arXiv:1610.04325, equations 2 to 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.layers.linear import Linear

__all__ = ["Bilinear"]

# M and N numbers of the two inputs, K outputs, R rank


class Bilinear(nn.Module):
    """Map ``y_k = x1 W_k x2 + b_k`` of two vectors, linear in each of them.

    With a rank the K matrices are not stored: both inputs are mapped to R numbers, multiplied one by one, and mapped to
    the outputs. That is ``W_k = U^T diag(P_k) V``.

    Args:
        in1_features: Size M of ``x1``.
        in2_features: Size N of ``x2``.
        out_features: Outputs K.
        bias: Whether ``b`` is added.
        rank: R, or None for matrices without that limit, M·N·K numbers.

    Shapes:
        x1 ``(..., M)`` and x2 ``(..., N)`` -> ``(..., K)``.

    Raises:
        ValueError: If a size is below 1 or the inputs do not fit.

    Examples:
        >>> layer = Bilinear(3, 3, 1, bias=False)
        >>> with torch.no_grad():
        ...     _ = layer.weight.copy_(torch.eye(3))
        >>> layer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 0.0, -1.0])).tolist()
        [-2.0]
    """

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, rank: int | None = None
    ) -> None:
        super().__init__()
        sizes = dict(in1_features=in1_features, in2_features=in2_features, out_features=out_features)
        for name, size in (sizes if rank is None else {**sizes, "rank": rank}).items():
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        self.in1_features, self.in2_features, self.rank = in1_features, in2_features, rank
        if rank is None:
            # An output is a sum of M·N products: this keeps it small when both inputs have numbers of size 1.
            bound = (in1_features * in2_features) ** -0.5
            self.weight = nn.Parameter(torch.empty(out_features, in1_features, in2_features).uniform_(-bound, bound))
        else:
            self.u = Linear(in1_features, rank, bias=False)
            self.v = Linear(in2_features, rank, bias=False)
            self.p = Linear(rank, out_features, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        expect("x1", x1, "... in1_features", in1_features=self.in1_features)
        expect("x2", x2, "... in2_features", in2_features=self.in2_features)
        if x1.shape[:-1] != x2.shape[:-1]:
            raise ValueError(f"x1 has rows {tuple(x1.shape[:-1])} and x2 {tuple(x2.shape[:-1])}; expected the same")
        if self.rank is None:
            y = torch.einsum("...m, kmn, ...n -> ...k", x1, self.weight, x2)
        else:
            y = self.p(self.u(x1) * self.v(x2))
        return y if self.bias is None else y + self.bias

    def full_weight(self) -> Tensor:
        """The matrices ``(K, M, N)``, also of a layer that does not store them."""
        if self.rank is None:
            return self.weight
        return torch.einsum("rm, kr, rn -> kmn", self.u.weight, self.p.weight, self.v.weight)
