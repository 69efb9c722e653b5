"""Normal initialization with a small fixed deviation, and its truncated form.

Source: Radford et al. 2019 (GPT-2), section 2.3; Nguyen and Salazar 2019, arXiv:1910.05895, section 2.2 (small init). The sampler inverts
the normal distribution function.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["small_init_", "trunc_normal_"]


@torch.no_grad()
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 0.02,
    a: float = -2.0,
    b: float = 2.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fills a tensor in place with normal numbers that are drawn again, in effect, until they lie between two bounds.

    Args:
        tensor: Weight of any shape.
        mean: Of the normal distribution before it is cut.
        std: Its standard deviation. What is left has a smaller one: 0.88 of it for bounds at two deviations.
        a: Lower bound, a number like the weights, not a multiple of ``std``.
        b: Upper bound, likewise.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(...)`` -> the same tensor.

    Raises:
        ValueError: If ``std`` is not above 0, ``a`` is not below ``b``, or both lie more than 37 deviations off ``mean``, on one side.

    Examples:
        >>> w = trunc_normal_(torch.empty(1000), std=0.02, a=-0.04, b=0.04)
        >>> bool(w.abs().max() <= 0.04)
        True
    """
    expect("tensor", tensor, "...")
    if not 0 < std < math.inf:
        raise ValueError(f"std={std} is not a number above 0")
    if not a < b:
        raise ValueError(f"a={a} is not below b={b}")
    low, high = (a - mean) / std, (b - mean) / std
    sign = 1.0
    if low > 0:  # in the upper tail the distribution function is too near 1 to be inverted: take the mirror image
        low, high, sign = -high, -low, -1.0
    p_low, p_high = (0.5 * math.erfc(-v / math.sqrt(2)) for v in (low, high))
    if p_high < 1e-300:
        raise ValueError(f"a={a} and b={b} lie too far from mean={mean} for std={std}")
    u = torch.empty(tensor.shape, dtype=torch.float64, device=tensor.device).uniform_(generator=generator)
    z = torch.special.ndtri(p_low + (p_high - p_low) * u)
    return tensor.copy_((mean + sign * std * z).clamp(a, b))


@torch.no_grad()
def small_init_(tensor: Tensor, d_model: int, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight in place with normal numbers of variance ``2 / (5 d_model)``, whatever its own shape is.

    For a matrix from ``d_model`` to ``4 d_model`` this is Xavier's variance; all matrices of a Transformer get it.

    Args:
        tensor: Weight of any shape.
        d_model: Width of the Transformer's stream.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(...)`` -> the same tensor.

    Raises:
        ValueError: If ``d_model`` is below 1.

    Examples:
        >>> print(f"{small_init_(torch.empty(300, 400), d_model=1000).std():.3f}")
        0.020
    """
    expect("tensor", tensor, "...")
    if d_model < 1:
        raise ValueError(f"d_model={d_model} is below 1")
    return tensor.normal_(0, math.sqrt(2 / (5 * d_model)), generator=generator)
