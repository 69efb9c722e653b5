"""HiPPO: a linear system whose state is the best polynomial for all it has read.

Source: Gu et al. 2020, arXiv:2008.07669, theorems 1 (LegT) and 2 (LegS); LegT in other units is the Legendre memory unit of Voelker et al. 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["HippoMemory", "hippo_legs", "hippo_legt", "legendre", "reconstruct"]

# B batch, T time, N coefficients, X points of a reconstruction


def hippo_legs(N: int) -> tuple[Tensor, Tensor]:
    """A ``(N, N)`` and B ``(N,)`` of ``dc/dt = (A c + B f) / t``: the whole past, every moment with the same weight.

    In float64. The coefficients belong to the polynomials of ``legendre``, stretched over ``[0, t]``.

    Args:
        N: Coefficients.

    Raises:
        ValueError: If ``N`` is below 1.

    Examples:
        >>> hippo_legs(2)[0]
        tensor([[-1.0000, -0.0000],
                [-1.7321, -2.0000]], dtype=torch.float64)
    """
    n, weight = _weights(N)
    lower = torch.ones(N, N, dtype=weight.dtype).tril(-1)
    return -weight[:, None] * weight * lower - torch.diag(n + 1), weight


def hippo_legt(N: int) -> tuple[Tensor, Tensor]:
    """A ``(N, N)`` and B ``(N,)`` of ``dc/dt = (A c + B f) / window``: a window that slides along, its end forgotten.

    In float64. The coefficients belong to the polynomials of ``legendre``, stretched over ``[t - window, t]``.

    Args:
        N: Coefficients.

    Raises:
        ValueError: If ``N`` is below 1.

    Examples:
        >>> hippo_legt(2)[0]
        tensor([[-1.0000,  1.7321],
                [-1.7321, -3.0000]], dtype=torch.float64)
    """
    n, weight = _weights(N)
    sign = torch.where(n[:, None] < n, (-1.0) ** (n - n[:, None]), 1.0)
    return -weight[:, None] * weight * sign, weight


class HippoMemory(nn.Module):
    """Reads a signal sample by sample and keeps N numbers, from which ``reconstruct`` draws the past again.

    Between two samples the signal is taken to stand still, and the system is integrated exactly. It has no parameters.

    Args:
        N: Coefficients.
        method: ``"legs"`` for the whole past, ``"legt"`` for a window.
        window: Length of that window in samples; for ``"legt"`` only.

    Shapes:
        f ``(B, T)`` -> c ``(B, T, N)``, the coefficients after each sample.

    Raises:
        ValueError: If ``method`` is unknown, the window is missing, not positive or not wanted, or ``f`` has another shape.

    Examples:
        >>> memory, ramp = HippoMemory(2), torch.arange(1000.0) / 1000
        >>> c = memory(ramp[None])[0, -1]
        >>> reconstruct(c, torch.tensor([0.2, 0.5, 1.0])).round(decimals=2)  # 1 is now
        tensor([0.2000, 0.5000, 1.0000])
    """

    def __init__(self, N: int, method: str = "legs", *, window: float | None = None) -> None:
        super().__init__()
        _weights(N)
        if method not in ("legs", "legt"):
            raise ValueError(f"method={method!r} is neither 'legs' nor 'legt'")
        if method == "legs" and window is not None:
            raise ValueError(f"window={window} with method='legs', whose window is the whole past")
        if method == "legt" and (window is None or not window > 0):
            raise ValueError(f"window={window} with method='legt'; expected a number of samples above 0")
        self.N, self.method, self.window = N, method, window

    def forward(self, f: Tensor) -> Tensor:
        expect("f", f, "batch time")
        time = f.shape[1]
        if self.method == "legs":
            # In the logarithm of time the system does not change; sample t takes log(t) - log(t - 1) of it.
            A, _ = hippo_legs(self.N)
            t = torch.arange(2, time + 1, dtype=A.dtype)
            steps = torch.linalg.matrix_exp(A * (t / (t - 1)).log()[:, None, None])
            steps = torch.cat([torch.zeros(1, self.N, self.N, dtype=A.dtype), steps])[:time]  # nothing is left of what was before
        else:
            A, _ = hippo_legt(self.N)
            steps = torch.linalg.matrix_exp(A / self.window).expand(time, -1, -1)
        f = f.to(torch.promote_types(f.dtype, torch.float32))
        steps = steps.to(f)
        c = f.new_zeros(len(f), self.N)
        seen = []
        for t in range(time):
            # A signal that stands still has the coefficients (f, 0, 0 ...): the distance to them is what decays.
            still = nn.functional.pad(f[:, t : t + 1], (0, self.N - 1))
            c = still + (c - still) @ steps[t].T
            seen.append(c)
        return torch.stack(seen, 1)


def reconstruct(c: Tensor, t: Tensor) -> Tensor:
    """The signal that coefficients stand for.

    Args:
        c: Coefficients ``(..., N)``.
        t: Points ``(X,)`` of what is remembered: 0 is its oldest end, 1 is now.

    Returns:
        ``(..., X)``.

    Raises:
        ValueError: If a shape does not fit.

    Examples:
        >>> reconstruct(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]))
        tensor([3., 3.])
    """
    expect("c", c, "... coefficients")
    return c @ legendre(t, c.shape[-1]).to(c).T


def legendre(t: Tensor, N: int) -> Tensor:
    """Legendre polynomials on [0, 1], scaled so that the mean of each one's square is 1.

    Args:
        t: Points ``(X,)``.
        N: How many polynomials, of degrees 0 to N - 1.

    Returns:
        ``(X, N)``.

    Examples:
        >>> legendre(torch.tensor([0.0, 1.0]), 2)
        tensor([[ 1.0000, -1.7321],
                [ 1.0000,  1.7321]])
    """
    expect("t", t, "points")
    _, weight = _weights(N)
    x = 2 * t - 1
    values = [torch.ones_like(x), x]
    for n in range(1, N - 1):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values[:N], -1) * weight.to(t)


def _weights(N: int) -> tuple[Tensor, Tensor]:
    if not isinstance(N, int) or N < 1:
        raise ValueError(f"N={N!r} is not a whole number above 0")
    n = torch.arange(N, dtype=torch.float64)
    return n, (2 * n + 1).sqrt()
