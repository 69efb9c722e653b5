"""Residual scaling: branches start small enough that a deep stack behaves like a shallow one.

Source: Radford et al. 2019 (GPT-2), section 2.3; Zhang et al. 2019 (Fixup), arXiv:1901.09321, section 3; Bachlechner et al. 2020 (ReZero),
arXiv:2003.04887, equation 6; Touvron et al. 2021 (LayerScale), arXiv:2103.17239, section 2; Wang et al. 2022 (DeepNorm), arXiv:2203.00555,
figure 2; Goyal et al. 2017, arXiv:1706.02677, section 5.1 (the zero scale).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.blocks.residual import Residual
from vocab.check import expect

__all__ = ["LayerScale", "ReZero", "deepnorm_constants", "scale_residual_"]

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_QUERIES_AND_KEYS = ("q", "k", "q_proj", "k_proj", "query", "key")


@torch.no_grad()
def scale_residual_(model: nn.Module, rule: str, depth: int | None = None) -> nn.Module:
    """Shrinks the branches of all ``Residual`` blocks of a model in place, after its usual initialization.

    - ``"gpt2"``: the last matrix of each branch is divided by ``sqrt(depth)``.
    - ``"zero"``: the last scale of each branch (of a norm or a matrix) and its bias become 0.
    - ``"fixup"``: the last matrix becomes 0, each of the m - 1 before it is multiplied by ``depth^(-1/(2m - 2))``, biases become 0.
    - ``"layerscale"``: a trained factor per channel, near 0 at the start, is put behind each branch.
    - ``"deepnorm"``: matrices but those of queries and keys are multiplied by beta, the way around by alpha; the norm after the sum,
      without which this rule explodes, is the model's.

    Args:
        model: Holds blocks of the class ``vocab.blocks.residual.Residual``.
        rule: One of the words above.
        depth: Branches in a row, two for each layer of a Transformer; counted if not given.

    Returns:
        The model.

    Raises:
        ValueError: If ``rule`` is another word, ``depth`` is below 1, or the model or a branch has nothing to scale.

    Examples:
        >>> model = nn.Sequential(*[Residual(nn.Linear(4, 4)) for _ in range(9)])
        >>> x = torch.randn(2, 4)
        >>> torch.equal(scale_residual_(model, "zero")(x), x)
        True
    """
    rules = {"gpt2": _gpt2, "zero": _zero, "fixup": _fixup, "layerscale": _layerscale, "deepnorm": _deepnorm}
    if rule not in rules:
        raise ValueError(f"rule={rule!r} is not one of {', '.join(rules)}")
    blocks = [module for module in model.modules() if isinstance(module, Residual)]
    if not blocks:
        raise ValueError("model has no Residual block")
    depth = len(blocks) if depth is None else depth
    if depth < 1:
        raise ValueError(f"depth={depth} is below 1")
    for block in blocks:
        rules[rule](block, depth)
    return model


def deepnorm_constants(n_layers: float) -> tuple[float, float]:
    """Computes DeepNorm's factors for an encoder or a decoder alone: ``norm(alpha x + branch(x))``, matrices times beta.

    Args:
        n_layers: Layers of two branches each.

    Raises:
        ValueError: If ``n_layers`` is not above 0.

    Examples:
        >>> alpha, beta = deepnorm_constants(8)
        >>> alpha, round(beta, 4)
        (2.0, 0.3536)
    """
    if not n_layers > 0:
        raise ValueError(f"n_layers={n_layers} is not above 0")
    return (2 * n_layers) ** 0.25, (8 * n_layers) ** -0.25


class ReZero(nn.Module):
    """A residual block whose branch has one trained factor that starts at 0: ``x + alpha · branch(x)``.

    Args:
        branch: Maps a tensor to one of the same shape.

    Shapes:
        x ``(...)`` -> ``(...)``.

    Raises:
        ValueError: If the branch changes the shape.

    Examples:
        >>> x = torch.randn(3, 4)
        >>> torch.equal(ReZero(nn.Linear(4, 4))(x), x)
        True
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "...")
        branch = self.branch(x)
        if branch.shape != x.shape:
            raise ValueError(f"the branch gives {tuple(branch.shape)}, x is {tuple(x.shape)}; they must agree")
        return x + self.alpha * branch


class LayerScale(nn.Module):
    """Multiplies each channel, the last dimension, by a trained factor that starts near 0.

    Args:
        dim: Channels.
        init: Where all factors start. CaiT: 0.1 up to 18 layers, 1e-5 for 24, 1e-6 beyond.

    Shapes:
        x ``(..., dim)`` -> ``(..., dim)``.

    Raises:
        ValueError: If ``dim`` is below 1 or ``x`` has other channels.

    Examples:
        >>> LayerScale(2, init=0.1)(torch.tensor([[10.0, 20.0]]))
        tensor([[1., 2.]], grad_fn=<MulBackward0>)
    """

    def __init__(self, dim: int, init: float = 1e-5) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim={dim} is below 1")
        self.dim = dim
        self.gamma = nn.Parameter(torch.full((dim,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... dim", dim=self.dim)
        return x * self.gamma


class _Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def _matrices(block):
    found = [(name, module) for name, module in block.branch.named_modules() if isinstance(module, _MATRICES)]
    if not found:
        raise ValueError(f"a branch has no matrix to scale: {block.branch}")
    return found


def _gpt2(block, depth):
    _matrices(block)[-1][1].weight.div_(depth**0.5)


def _zero(block, depth):
    scales = [m for m in block.branch.modules() if isinstance(m, (*_MATRICES, *_NORMS)) and m.weight is not None]
    if not scales:
        raise ValueError(f"a branch has no scale to set to zero: {block.branch}")
    _clear(scales[-1].weight, getattr(scales[-1], "bias", None))


def _fixup(block, depth):
    *before, (_, last) = _matrices(block)
    for _, matrix in before:
        matrix.weight.mul_(depth ** (-1 / (2 * len(before))))
        _clear(matrix.bias)
    _clear(last.weight, last.bias)


def _layerscale(block, depth):
    last = _matrices(block)[-1][1]
    if not isinstance(last, nn.Linear):
        raise ValueError(f"layerscale needs channels last, so a branch that ends with nn.Linear, not {last}")
    layers = depth / 2
    init = 0.1 if layers <= 18 else 1e-5 if layers <= 24 else 1e-6
    block.branch = nn.Sequential(block.branch, LayerScale(last.out_features, init).to(last.weight))


def _deepnorm(block, depth):
    alpha, beta = deepnorm_constants(depth / 2)
    for name, matrix in _matrices(block):
        if name.rpartition(".")[2] not in _QUERIES_AND_KEYS:
            matrix.weight.mul_(beta)
    block.shortcut = _Scaled(alpha) if block.shortcut is None else nn.Sequential(block.shortcut, _Scaled(alpha))


def _clear(*tensors):
    for tensor in tensors:
        if tensor is not None:
            tensor.zero_()
