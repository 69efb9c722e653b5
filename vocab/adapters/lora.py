"""LoRA: a frozen linear layer plus a trained change of low rank.

Source: Hu et al. 2021, arXiv:2106.09685, equation 3 and section 4.1; rank-stabilised scaling: Kalajdzievski 2023,
arXiv:2312.03732, theorem 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["LoRALinear", "apply_lora"]

# I inputs, O outputs, r rank


class LoRALinear(nn.Module):
    """A linear layer whose weight W stays frozen, and a trained change ``scaling * B @ A`` of rank r.

    B starts at zero, so at first nothing is changed at all.

    Args:
        base: The layer to adapt; it is taken over, and its parameters are frozen.
        r: Rank of the change.
        alpha: ``scaling`` is ``alpha / r``: the size of the change does not depend on the rank much.
        dropout: Share of inputs of A set to zero in training.
        rslora: Whether ``scaling`` is ``alpha / sqrt(r)``, for large ranks.

    Shapes:
        x ``(..., I)`` -> ``(..., O)``.

    Raises:
        TypeError: If ``base`` is no linear layer.
        ValueError: If the rank is not from 1 to the smaller side of W, ``dropout`` cannot be, or ``x`` has another width.

    Examples:
        >>> base = nn.Linear(64, 32)
        >>> layer = LoRALinear(base, r=4)
        >>> x = torch.randn(2, 64)
        >>> torch.equal(layer(x), base(x)), sum(p.numel() for p in layer.parameters() if p.requires_grad)
        (True, 384)
    """

    def __init__(
        self, base: nn.Linear, r: int = 8, alpha: float = 16.0, *, dropout: float = 0.0, rslora: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(base, nn.Linear):
            raise TypeError(f"base is a {type(base).__name__}; expected torch.nn.Linear")
        smaller = min(base.weight.shape)
        if not 1 <= r <= smaller:
            raise ValueError(f"r={r} is not from 1 to {smaller}, the smaller side of the weight")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not from 0 up to 1")
        self.base = base.requires_grad_(False)
        self.scaling = alpha / r**0.5 if rslora else alpha / r
        self.dropout, self.merged = dropout, False
        like = dict(dtype=base.weight.dtype, device=base.weight.device)
        bound = base.in_features**-0.5  # as torch.nn.Linear draws its weights
        self.A = nn.Parameter(torch.empty(r, base.in_features, **like).uniform_(-bound, bound))
        self.B = nn.Parameter(torch.zeros(base.out_features, r, **like))

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.base.in_features)
        if self.merged:
            return self.base(x)
        return self.base(x) + self.change_of(x)

    def change_of(self, x: Tensor) -> Tensor:
        """What the change adds to the output for ``x``: two thin products, never the full matrix."""
        return self.scaling * F.dropout(x, self.dropout, self.training) @ self.A.T @ self.B.T

    def change(self) -> Tensor:
        """The change of the weight, ``scaling * B @ A``, ``(O, I)``."""
        return self.scaling * self.B @ self.A

    @torch.no_grad()
    def merge(self) -> LoRALinear:
        """Adds the change to the weight: from here on the layer costs what the plain one costs."""
        if not self.merged:
            self.base.weight += self.change()
            self.merged = True
        return self

    @torch.no_grad()
    def unmerge(self) -> LoRALinear:
        """Takes the change out of the weight again, to train on or to put in another one."""
        if self.merged:
            self.base.weight -= self.change()
            self.merged = False
        return self


def apply_lora(
    model: nn.Module, target_modules: Iterable[str], r: int = 8, alpha: float = 16.0, **settings: float
) -> list[str]:
    """Freezes a model and replaces linear layers by ``LoRALinear``, in place.

    Args:
        model: The model.
        target_modules: Names of the layers, each the last part of its path: ``("q_proj", "v_proj")``.
        r: Rank of each change.
        alpha: See ``LoRALinear``.
        settings: Further settings of ``LoRALinear``.

    Returns:
        The paths of the layers that were replaced.

    Raises:
        ValueError: If no linear layer has such a name, or one shares its weight with another module.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> apply_lora(model, ["0"], r=2)
        ['0']
    """
    wanted = set(target_modules)
    uses = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    found = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear) and path.split(".")[-1] in wanted]
    if not found:
        linear = sorted({path.split(".")[-1] for path, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ValueError(f"target_modules={sorted(wanted)}: no linear layer has such a name; there are {linear}")
    for path, module in found:
        if uses[id(module.weight)] > 1:
            raise ValueError(f"{path} shares its weight with another module (tied embeddings?): merging would change both")
    model.requires_grad_(False)
    for path, module in found:
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, LoRALinear(module, r, alpha, **settings))
    return [path for path, _ in found]
