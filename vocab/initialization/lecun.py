"""LeCun initialization: variance 1 / fan_in, which a linear layer needs to return a signal as large as it came.

Source: LeCun et al. 1998, Efficient BackProp, section 4.6 (equation 16); Klambauer et al. 2017, arXiv:1706.02515, section 2, for SELU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.initialization.xavier import fans

__all__ = ["lecun_normal_", "lecun_uniform_"]


@torch.no_grad()
def lecun_normal_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight in place with normal numbers of variance ``1 / fan_in``.

    Args:
        tensor: Weight of a linear layer or a convolution.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions or a fan of 0.

    Examples:
        >>> print(f"{lecun_normal_(torch.empty(1000, 400)).std():.2f}")
        0.05
    """
    return tensor.normal_(0, fans(tensor)[0] ** -0.5, generator=generator)


@torch.no_grad()
def lecun_uniform_(tensor: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fills a weight in place with uniform numbers within ``± sqrt(3 / fan_in)``, of the same variance.

    Args:
        tensor: Weight of a linear layer or a convolution.
        generator: Source of the random numbers.

    Shapes:
        tensor ``(out, in, ...)`` -> the same tensor.

    Raises:
        ValueError: If ``tensor`` has fewer than two dimensions or a fan of 0.

    Examples:
        >>> bool(lecun_uniform_(torch.empty(5, 300)).abs().max() <= 0.1)
        True
    """
    bound = (3 / fans(tensor)[0]) ** 0.5
    return tensor.uniform_(-bound, bound, generator=generator)
