"""Log-softmax and log-sum-exp: logarithms of probabilities that never pass through the probabilities.

Source: Blanchard, Higham and Higham 2021, doi:10.1093/imanum/draa038 (the forms shifted by the maximum).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.kernels.softmax import applies, fused

__all__ = ["LogSoftmax", "log_softmax", "logsumexp"]


def log_softmax(x: Tensor, dim: int = -1, *, backend: str = "auto") -> Tensor:
    """Computes the logarithm of the softmax along one axis; finite for all finite logits.

    Args:
        x: Logits, any shape.
        dim: The axis along which the exponentials of the result sum to 1.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        x ``(...)`` -> ``(...)``, 0 or below.

    Raises:
        ValueError: If ``dim`` is no axis of ``x``.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> log_softmax(torch.tensor([0.0, -1000.0]))
        tensor([    0., -1000.])
    """
    _check(x, dim)
    if x.ndim and applies(x, backend, "log_softmax"):
        return fused(x.movedim(dim, -1), kind="log_softmax").movedim(-1, dim)
    z, _ = _shifted(x, dim)
    return (z - z.exp().sum(dim, keepdim=True).log()).to(x.dtype)


def logsumexp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Computes log(sum(exp(x))) along one axis: a smooth maximum, whose gradient is the softmax.

    Args:
        x: Any shape.
        dim: The axis that is summed over.
        keepdim: Whether it stays, with length 1.

    Shapes:
        x ``(...)`` -> ``(...)`` without the axis ``dim``.

    Raises:
        ValueError: If ``dim`` is no axis of ``x``.

    Examples:
        >>> logsumexp(torch.tensor([1000.0, 1000.0]), 0)
        tensor(1000.6932)
    """
    _check(x, dim)
    z, top = _shifted(x, dim)
    y = z.exp().sum(dim, keepdim=True).log() + top
    return (y if keepdim else y.squeeze(dim)).to(x.dtype)


def _check(x: Tensor, dim: int) -> None:
    expect("x", x, "...")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim={dim} is not an axis of x, whose shape is {tuple(x.shape)}")


def _shifted(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The logits less their maximum, and the maximum."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    top = wide.detach().amax(dim, keepdim=True)
    top = top.masked_fill(top.isinf(), 0.0)  # -inf less -inf would be NaN: a row of nothing has the sum 0
    return wide - top, top


class LogSoftmax(nn.Module):
    """The function ``log_softmax`` as a layer without parameters.

    Args:
        dim: The axis along which the exponentials of the result sum to 1.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``dim`` is no axis of ``x``.

    Examples:
        >>> LogSoftmax()(torch.zeros(2))
        tensor([-0.6931, -0.6931])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return log_softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
