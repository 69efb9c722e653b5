"""RMSNorm: divide each vector by its root mean square and scale every component.

Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4; the weight as gamma - 1 is Gemma's, arXiv:2403.08295.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.kernels.rms_norm import applies, fused

__all__ = ["RMSNorm", "fold_into_linear", "rms_norm"]

# ... any leading dimensions, D the dimension that is normalised


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, unit_offset: bool = False) -> Tensor:
    """Scales each vector of the last dimension to a root mean square of one, then each component by gamma.

    Args:
        x: What is normalised.
        weight: gamma, or gamma - 1 with ``unit_offset``; none is gamma = 1.
        eps: Added to the mean square under the root.
        unit_offset: Whether one is added to ``weight``.

    Shapes:
        x ``(..., D)``, weight ``(D,)`` -> ``(..., D)``.

    Examples:
        >>> rms_norm(torch.tensor([3.0, -4.0, 0.0, 0.0]), eps=0.0)
        tensor([ 1.2000, -1.6000,  0.0000,  0.0000])
    """
    # The square of a half precision number overflows at 256: sums are kept in float32, and rounded once, at the end.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * (weight.to(y.dtype) + float(unit_offset))
    return y.to(x.dtype)


class RMSNorm(nn.Module):
    """RMSNorm with its gain, and the residual addition that comes before it in a Transformer.

    Args:
        dim: Size D of the last dimension.
        eps: Added to the mean square under the root.
        elementwise_affine: Whether there is a gain.
        unit_offset: Store gamma - 1, so that weight decay pulls gamma to one; Gemma's checkpoints do.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel for addition and norm).

    Shapes:
        x ``(..., D)`` -> ``(..., D)``; with a residual ``(..., D)`` of the same dtype -> the norm of ``x + residual`` and
        ``x + residual``, the stream that the next block adds to.

    Raises:
        TypeError: If ``x`` or ``residual`` is no floating-point tensor.
        ValueError: If the last dimension is not ``dim``, or residual and ``x`` differ.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> norm = RMSNorm(4)
        >>> y, stream = norm(torch.ones(2, 4), residual=torch.ones(2, 4))
        >>> stream[0].tolist(), [round(v, 4) for v in y[0].tolist()]
        ([2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0])
    """

    def __init__(
        self, dim: int, eps: float = 1e-6, *, elementwise_affine: bool = True, unit_offset: bool = False, backend: str = "auto"
    ) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim} is not positive")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        if unit_offset and not elementwise_affine:
            raise ValueError("unit_offset=True needs a weight, but elementwise_affine=False leaves it out")
        self.dim, self.eps, self.unit_offset, self.backend = dim, eps, unit_offset, backend
        self.weight = nn.Parameter(torch.full((dim,), 0.0 if unit_offset else 1.0)) if elementwise_affine else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        expect("x", x, "... dim", dim=self.dim)
        if residual is not None:
            expect("residual", residual, "... dim", dim=self.dim)
            if residual.shape != x.shape or residual.dtype != x.dtype:
                raise ValueError(
                    f"residual is {tuple(residual.shape)} {residual.dtype}; expected {tuple(x.shape)} {x.dtype} as x"
                )
        if applies(x, self.weight, self.backend):
            return fused(x, self.weight, residual, eps=self.eps, unit_offset=self.unit_offset)
        stream = x if residual is None else x + residual
        y = rms_norm(stream, self.weight, self.eps, unit_offset=self.unit_offset)
        return y if residual is None else (y, stream)

    def extra_repr(self) -> str:
        return f"{self.dim}, eps={self.eps}, unit_offset={self.unit_offset}"


def fold_into_linear(norm: RMSNorm, linear: nn.Linear) -> nn.Linear:
    """A linear layer that takes the norm's output without gain and gives what it gave with it.

    For inference: the gain costs nothing any more, and quantisation sees one matrix. Every layer that reads this norm must be
    folded, and the norm's own gain dropped.

    Args:
        norm: Whose gain is folded.
        linear: The layer that reads it.

    Returns:
        A new layer with ``weight * gamma``; bias as before.
    """
    if linear.in_features != norm.dim:
        raise ValueError(f"linear.in_features={linear.in_features} is not norm.dim={norm.dim}")
    folded = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None).to(linear.weight)
    folded.load_state_dict(linear.state_dict())
    if norm.weight is not None:
        with torch.no_grad():
            folded.weight *= norm.weight + float(norm.unit_offset)
    return folded
