"""Variance propagation: the size of signals and gradients in a random network, predicted and measured.

Source: Poole et al. 2016, arXiv:1606.05340, equation 3; Schoenholz et al. 2017, arXiv:1611.01232, equations 3 and 8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Measured", "empirical_variance", "normal_mean", "propagate_variance"]


def propagate_variance(
    depth: int,
    width: int,
    activation: Callable[[Tensor], Tensor],
    weight_std: float,
    bias_std: float = 0.0,
    *,
    input_moment: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Predicts the variance before each activation of an infinitely wide random network, and the growth of gradients.

    Layer ``l`` computes ``z_l = W h_(l-1) + b`` with ``h_0`` the input and ``h_l = activation(z_l)``.

    Args:
        depth: Layers.
        width: Numbers that each unit sums over (fan_in), the input's included.
        activation: Maps each number by itself, differentiable.
        weight_std: Standard deviation of one weight.
        bias_std: Standard deviation of one bias.
        input_moment: Mean square of the input's numbers.

    Returns:
        ``q``: variance of ``z_l`` for l = 1 ... depth. ``chi``: by what the mean square of a gradient is multiplied when it
        goes back through layer l + 1 and the activation between: ``width weight_std² E[activation'(z_l)²]``.

    Raises:
        ValueError: If ``depth`` or ``width`` is below 1, or a deviation or ``input_moment`` is negative.

    Examples:
        >>> q, chi = propagate_variance(3, 100, torch.relu, weight_std=0.1)
        >>> [[round(v, 4) for v in found.tolist()] for found in (q, chi)]
        [[1.0, 0.5, 0.25], [0.5, 0.5, 0.5]]
    """
    for name, value in [("depth", depth), ("width", width)]:
        if value < 1:
            raise ValueError(f"{name}={value} is below 1")
    for name, value in [("weight_std", weight_std), ("bias_std", bias_std), ("input_moment", input_moment)]:
        if not value >= 0:
            raise ValueError(f"{name}={value} is not a number from 0 up")
    gain, offset = width * weight_std**2, bias_std**2
    q, chi = [gain * input_moment + offset], []
    for _ in range(depth):
        std = q[-1] ** 0.5
        chi.append(gain * normal_mean(lambda z: _slope(activation, z) ** 2, std))
        q.append(gain * normal_mean(lambda z: activation(z) ** 2, std) + offset)
    return torch.tensor(q[:-1], dtype=torch.float64), torch.tensor(chi, dtype=torch.float64)


class Measured(NamedTuple):
    """What ``empirical_variance`` found, one number per layer in the order in which the layers ran.

    ``variance`` and ``second_moment`` (the mean square) are over all numbers that a layer put out, ``gradient`` is the mean
    square of the gradient with respect to them.
    """

    variance: Tensor
    second_moment: Tensor
    gradient: Tensor


def empirical_variance(
    model: nn.Module,
    x: Tensor,
    *,
    of: type | tuple[type, ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    generator: torch.Generator | None = None,
) -> Measured:
    """Measures the outputs of a model's layers, and the gradients that reach them from random ones at the end.

    Args:
        model: Runs on ``x`` and returns one tensor.
        x: A batch of inputs.
        of: The kinds of layers whose outputs are measured; ``nn.ReLU``, for example, for what comes after activations.
        generator: Source of the standard normal gradient that is sent back from the output.

    Shapes:
        x ``(...)`` -> three tensors ``(layers,)``: variance and mean square over all numbers of an output, and the mean
        square of the gradient with respect to it.

    Raises:
        ValueError: If the model has no layer of these kinds.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        >>> empirical_variance(model, torch.randn(5, 8)).second_moment.shape
        torch.Size([2])
    """
    expect("x", x, "...")
    outputs, moments = [], []

    def keep(module, args, output):
        outputs.append(output)
        moments.append((output.detach().var(correction=0), output.detach().square().mean()))
        return output.clone()  # an activation in place must not overwrite what is differentiated

    hooks = [module.register_forward_hook(keep) for module in model.modules() if isinstance(module, of)]
    try:
        with torch.enable_grad():
            y = model(x.detach().clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not outputs:
        raise ValueError(f"model has no layer of the kinds {of}")
    g = torch.randn(y.shape, generator=generator, dtype=y.dtype, device=y.device)
    gradients = torch.autograd.grad(y, outputs, g)
    variance, second = (torch.stack(m) for m in zip(*moments))
    return Measured(variance, second, torch.stack([g.square().mean() for g in gradients]))


def normal_mean(function: Callable[[Tensor], Tensor], std: float = 1.0) -> float:
    """Computes E[function(std · z)] for a standard normal z, to about twelve digits.

    Each side of zero is integrated by itself, so that a kink there, as ReLU's, costs nothing.

    Args:
        function: Maps each number by itself; smooth on both sides of zero.
        std: Standard deviation of the argument.

    Examples:
        >>> round(normal_mean(lambda z: torch.relu(z) ** 2), 6)
        0.5
    """
    return float((_WEIGHTS * function(std * _NODES)).sum())


def _slope(function, z):
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(function(z).sum(), z)
    return slope


def _rule():
    # Short panels near zero, as a wide input makes a saturating function steep there.
    edges = np.append(0.0, np.geomspace(1e-3, 13, 20))
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + half * (1 + nodes)).ravel()
    w = (half * weights).ravel() * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return torch.from_numpy(np.concatenate([-z[::-1], z])), torch.from_numpy(np.concatenate([w[::-1], w]))


_NODES, _WEIGHTS = _rule()
