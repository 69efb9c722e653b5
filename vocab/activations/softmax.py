"""Softmax: turns any numbers into positive ones that sum to 1 and keep their order.

Source: Bridle 1990, doi:10.1007/978-3-642-76153-9_28.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.kernels.softmax import applies, fused

__all__ = ["Softmax", "softmax"]


def softmax(x: Tensor, dim: int = -1, temperature: float = 1.0, mask: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """Exponentiates and divides by the sum along one axis.

    Args:
        x: Logits, any shape.
        dim: The axis that sums to 1.
        temperature: Divides the logits: below 1 sharper, above 1 flatter. 0 is the limit, a one at the (first) largest
            logit and zeros elsewhere; infinity is uniform.
        mask: True where a logit takes part; the others get 0. Where none takes part, the result is NaN.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel takes positive finite temperatures.

    Shapes:
        x ``(...)``, mask of a shape that broadcasts to it -> ``(...)``.

    Raises:
        ValueError: If ``dim`` is no axis of ``x``, ``temperature`` is negative, or ``mask`` does not broadcast.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> softmax(torch.tensor([1000.0, 1000.0, 999.0]))
        tensor([0.4223, 0.4223, 0.1554])
        >>> softmax(torch.tensor([1.0, 3.0, 2.0]), temperature=0, mask=torch.tensor([True, False, True]))
        tensor([0., 0., 1.])
    """
    expect("x", x, "...")
    if not -x.ndim <= dim < x.ndim:
        raise ValueError(f"dim={dim} is not an axis of x, whose shape is {tuple(x.shape)}")
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} is negative or no number")
    if mask is not None:
        expect("mask", mask, "...", dtype="bool")
        if mask.ndim > x.ndim or any(m not in (1, n) for m, n in zip(mask.shape[::-1], x.shape[::-1])):
            raise ValueError(f"mask has shape {tuple(mask.shape)}, which does not broadcast to that of x, {tuple(x.shape)}")
    limit = None if 0 < temperature < float("inf") else f"temperature={temperature} is a limit"
    if x.ndim and applies(x, backend, limit=limit):
        rows = x.movedim(dim, -1)
        shown = None if mask is None else mask.expand(x.shape).movedim(dim, -1)
        return fused(rows, shown, kind="softmax", temperature=temperature).movedim(-1, dim)

    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    z = wide / temperature if temperature else wide
    if mask is not None:
        z = z.masked_fill(~mask, -torch.inf)
    top = z.detach().amax(dim, keepdim=True)
    if not temperature:
        winner = torch.zeros_like(z).scatter(dim, z.argmax(dim, keepdim=True), 1.0)
        return winner.masked_fill(~(top > -torch.inf), torch.nan).to(x.dtype)
    # A constant added to all logits cancels; this one makes the largest exponential 1.
    e = torch.exp(z - top)
    return (e / e.sum(dim, keepdim=True)).to(x.dtype)


class Softmax(nn.Module):
    """The function ``softmax`` as a layer without parameters.

    Args:
        dim: The axis that sums to 1.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If ``dim`` is no axis of ``x``.

    Examples:
        >>> Softmax(dim=0)(torch.zeros(4))
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return softmax(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
