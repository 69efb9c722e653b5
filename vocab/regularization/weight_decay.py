"""Weight decay: at each step every weight shrinks by the same share, whatever its gradient.

Source: Hanson and Pratt 1988 (NIPS 1); Loshchilov and Hutter 2019, arXiv:1711.05101, section 2 (decoupled from the gradient).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["decay_groups", "decoupled_weight_decay_", "equilibrium_norm", "listed"]


@torch.no_grad()
def decoupled_weight_decay_(params: Tensor | Iterable[Tensor], lr: float, wd: float) -> None:
    """Multiplies every weight by ``1 - lr * wd``, in place. Call it beside a step of an optimizer that has no decay of its own.

    Args:
        params: A tensor or several; those without a gradient shrink too.
        lr: The learning rate of this step: the decay follows its schedule.
        wd: Strength of the decay, 0 or more.

    Raises:
        ValueError: If ``lr`` or ``wd`` is negative, or their product is above 1: the weights would change their sign.

    Examples:
        >>> w = torch.tensor([1.0, -100.0])
        >>> decoupled_weight_decay_(w, lr=0.1, wd=0.5)
        >>> w
        tensor([  0.9500, -95.0000])
    """
    if not (lr >= 0 and wd >= 0 and lr * wd <= 1):
        raise ValueError(f"lr={lr}, wd={wd}: expected both 0 or more, and a product of 1 at most")
    for w in listed(params):
        w.mul_(1 - lr * wd)


def decay_groups(model: nn.Module, wd: float) -> list[dict]:
    """Parameter groups for an optimizer: ``wd`` for matrices and kernels, none for gains, biases and embeddings.

    Args:
        model: The model; what needs no gradient is left out, what is shared is taken once.
        wd: Strength of the decay for the first group.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 4), nn.LayerNorm(4))
        >>> [(len(group["params"]), group["weight_decay"]) for group in decay_groups(model, 0.1)]
        [(1, 0.1), (4, 0.0)]
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))}
    trained = [p for p in model.parameters() if p.requires_grad]
    shrinks = [p.ndim >= 2 and id(p) not in tables for p in trained]
    return [
        {"params": [p for p, yes in zip(trained, shrinks) if yes], "weight_decay": wd},
        {"params": [p for p, yes in zip(trained, shrinks) if not yes], "weight_decay": 0.0},
    ]


def equilibrium_norm(lr: float, wd: float, grad_norm: float) -> float:
    """The norm at which SGD leaves a weight that is normalized away, where growth and decay balance.

    A loss that does not depend on the norm of w has a gradient at right angles to w, of size ``grad_norm / norm(w)``. So a step takes
    ``norm**2`` to ``(1 - lr*wd)**2 * norm**2 + lr**2 * grad_norm**2 / norm**2``, which is the same number at the norm given here;
    for small ``lr * wd`` it is the fourth root of ``lr * grad_norm**2 / (2 * wd)``.

    Args:
        lr: Learning rate of SGD.
        wd: Strength of the decay.
        grad_norm: Norm of the gradient where w has norm 1.

    Examples:
        >>> round(equilibrium_norm(lr=0.1, wd=0.05, grad_norm=1.0), 3)  # near the fourth root of 1
        1.001
    """
    if not (lr > 0 and 0 < lr * wd < 2):
        raise ValueError(f"lr={lr}, wd={wd}: expected both above 0, and a product below 2")
    return (lr * grad_norm**2 / (wd * (2 - lr * wd))) ** 0.25


def listed(params: Tensor | Iterable[Tensor]) -> list[Tensor]:
    """One tensor or several as a list, which is not empty.

    Args:
        params: A tensor, or an iterable of them such as ``model.parameters()``.

    Raises:
        TypeError: If one of them is no floating-point tensor.
        ValueError: If there is none.

    Examples:
        >>> len(listed(nn.Linear(2, 2).parameters()))
        2
    """
    found = [params] if isinstance(params, Tensor) else list(params)
    if not found:
        raise ValueError("params is empty: an iterator such as model.parameters() can be walked through once")
    for i, w in enumerate(found):
        expect(f"params[{i}]", w, "...")
    return found
