"""Weight normalization: a weight written as a length times a direction, both learned.

Source: Salimans and Kingma 2016, arXiv:1602.07868, equations 2 to 6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from vocab.check import expect

__all__ = ["data_dependent_init", "direction_and_length", "remove_weight_norm", "weight_norm"]

# g lengths, v directions (of any length themselves), w = g v / |v| the weight


def weight_norm(module: nn.Module, name: str = "weight", dim: int = 0) -> nn.Module:
    """Replaces a weight by ``g * v / |v|``, with one length g for each index of ``dim``.

    At the start v is the weight and g its lengths, so the module computes what it did. The two are found as
    ``module.parametrizations.weight.original0`` (g) and ``original1`` (v), as in ``torch.nn.utils.parametrizations``.

    Args:
        module: Whose weight it is; changed in place.
        name: Name of the weight.
        dim: The dimension that keeps a length of its own; 0, the output units, of linear layers and convolutions.

    Returns:
        The same module.

    Raises:
        ValueError: If the module has no such weight, ``dim`` is none of its dimensions, or a direction is zero.

    Examples:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> g = weight_norm(layer).parametrizations.weight.original0
        >>> g.item()
        5.0
        >>> g.data.fill_(10.0).item(), layer.weight.tolist()
        (10.0, [[6.0, 8.0]])
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"module {type(module).__name__} has no parameter name={name!r}")
    if not -weight.ndim <= dim < weight.ndim:
        raise ValueError(f"dim={dim} is no dimension of {name} with shape {tuple(weight.shape)}")
    zero = (_length(weight, dim) == 0).sum().item()
    if zero:
        raise ValueError(f"{name} has {zero} direction(s) of length 0: g v / |v| would divide by zero")
    parametrize.register_parametrization(module, name, _LengthTimesDirection(dim))
    return module


def remove_weight_norm(module: nn.Module, name: str = "weight") -> nn.Module:
    """Makes the weight an ordinary parameter again, with its present value; for inference and export.

    Args:
        module: Whose weight it is; changed in place.
        name: Name of the weight.

    Returns:
        The same module.

    Examples:
        >>> layer = remove_weight_norm(weight_norm(nn.Linear(2, 1)))
        >>> type(layer).__name__, [name for name, _ in layer.named_parameters()]
        ('Linear', ['bias', 'weight'])
    """
    if not _normalized(module, name):
        raise ValueError(f"module has no weight norm on name={name!r}")
    parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return module


@torch.no_grad()
def data_dependent_init(module: nn.Module, x: Tensor) -> None:
    """Sets length and bias so that on this batch every output unit has mean 0 and deviation 1.

    Args:
        module: A linear layer or convolution with weight norm (``dim=0``) and a bias; changed in place.
        x: A first batch.

    Raises:
        ValueError: If the module has no weight norm on its weight or no bias, or a unit's output is constant on ``x``.

    Examples:
        >>> layer, x = weight_norm(nn.Linear(3, 4)), torch.randn(50, 3) + 7
        >>> data_dependent_init(layer, x)
        >>> torch.allclose(layer(x).std(0, correction=0), torch.ones(4), atol=1e-4)
        True
    """
    expect("x", x, "...")
    if not _normalized(module, "weight"):
        raise ValueError("module has no weight norm on name='weight'")
    if module.bias is None:
        raise ValueError("module has no bias to take the mean away")
    y = module(x)
    units = y.movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
    mean, std = units.mean(1), units.std(1, correction=0)
    if not (std > 0).all():
        raise ValueError(f"x leaves {(~(std > 0)).sum().item()} output unit(s) constant: their deviation cannot be made 1")
    g = module.parametrizations.weight.original0
    g /= std.view(-1, *[1] * (g.ndim - 1))
    # y = g t + b with t = v x / |v|; (y - mean) / std has the length g / std and the bias (b - mean) / std.
    module.bias.sub_(mean).div_(std)


def direction_and_length(g: Tensor, v: Tensor, dim: int = 0) -> Tensor:
    """Computes the weight ``g * v / |v|``.

    Args:
        g: Lengths, of v's shape with 1 in all dimensions but ``dim``.
        v: Directions.
        dim: The dimension that keeps a length of its own.

    Shapes:
        v ``(O, ...)``, g ``(O, 1, ...)`` -> ``(O, ...)``.

    Raises:
        ValueError: If g has another shape.

    Examples:
        >>> direction_and_length(torch.tensor([[10.0]]), torch.tensor([[3.0, 4.0]]))
        tensor([[6., 8.]])
    """
    expect("g", g, "...")
    expect("v", v, "...")
    length = _length(v, dim)
    if g.shape != length.shape:
        raise ValueError(f"g has shape {tuple(g.shape)}; expected {tuple(length.shape)} for v of shape {tuple(v.shape)}")
    return g * (v / length)


def _length(v: Tensor, dim: int) -> Tensor:
    others = [d for d in range(v.ndim) if d != dim % v.ndim]
    return torch.linalg.vector_norm(v, dim=others, keepdim=True) if others else v.abs()


def _normalized(module: nn.Module, name: str) -> bool:
    return parametrize.is_parametrized(module, name) and isinstance(module.parametrizations[name][0], _LengthTimesDirection)


class _LengthTimesDirection(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return direction_and_length(g, v, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return _length(weight, self.dim), weight
