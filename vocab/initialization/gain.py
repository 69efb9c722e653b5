"""Gain: the factor on the initial weights that makes up for what an activation takes from the signal.

Source: He et al. 2015, arXiv:1502.01852, section 2.2 (ReLU and leaky ReLU); the other values of ``calculate_gain`` are those of
torch.nn.init, ``variance_gain`` is the definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from vocab.initialization.variance_propagation import normal_mean

__all__ = ["calculate_gain", "variance_gain"]

_LINEAR = ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_GAINS = {**dict.fromkeys(_LINEAR, 1.0), "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def variance_gain(fn: Callable[[Tensor], Tensor], std: float = 1.0) -> float:
    """Computes the gain at which a layer keeps the variance of a normal signal: ``std / sqrt(E[fn(std z)²])``.

    Weights of standard deviation ``gain / sqrt(fan_in)`` behind ``fn`` then give back ``std``.

    Args:
        fn: Activation that maps each number by itself, smooth on both sides of zero.
        std: Standard deviation of the signal that is to be kept. It matters for every function but ReLU and its leaky kin.

    Raises:
        ValueError: If ``std`` is not above 0, or ``fn`` is zero throughout.

    Examples:
        >>> import torch
        >>> round(variance_gain(torch.tanh), 3), round(variance_gain(torch.nn.functional.gelu), 3)
        (1.593, 1.534)
    """
    if not 0 < std < math.inf:
        raise ValueError(f"std={std} is not a number above 0")
    moment = normal_mean(lambda z: fn(z) ** 2, std)
    if moment == 0:
        raise ValueError("fn is zero for all numbers; no gain brings a signal back")
    return std / math.sqrt(moment)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Looks up the gain that is customary for an activation, the same as ``torch.nn.init.calculate_gain``.

    Args:
        nonlinearity: ``"linear"`` (or the name of a convolution), ``"sigmoid"``, ``"tanh"``, ``"relu"``, ``"leaky_relu"`` or
            ``"selu"``.
        param: Slope of the leaky ReLU below zero, 0.01 if not given. Other functions have none.

    Raises:
        ValueError: If no value is customary for ``nonlinearity``, or ``param`` is no number or given in vain.

    Examples:
        >>> calculate_gain("leaky_relu", 1.0), calculate_gain("selu")
        (1.0, 0.75)
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"param={param!r} is not the slope of a leaky ReLU, a number")
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        known = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"nonlinearity={nonlinearity!r} has no customary gain (there are {known}): compute it with variance_gain")
    if param is not None:
        raise ValueError(f"param={param!r} is given, but {nonlinearity} has no parameter")
    return _GAINS[nonlinearity]
