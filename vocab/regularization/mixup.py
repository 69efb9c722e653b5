"""mixup: training on weighted means of pairs of examples, with labels that are mixed alike.

Source: Zhang et al. 2018, arXiv:1710.09412, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["batch_targets", "blend", "draw_weight", "mixup", "pairing"]

# B batch, C classes


def mixup(
    x: Tensor, y: Tensor, alpha: float = 0.2, *, n_classes: int | None = None, per_sample: bool = False,
    lam: float | None = None, permutation: Tensor | None = None, generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixes each example with another one of the batch: ``lam * own + (1 - lam) * other``, inputs and targets alike.

    Args:
        x: Inputs.
        y: Class numbers, or class probabilities or other numbers to be predicted.
        alpha: ``lam`` is drawn from Beta(alpha, alpha): near 0 or 1 for small ``alpha``, even on [0, 1] for 1. 0 mixes nothing.
        n_classes: How many classes there are; needed for class numbers.
        per_sample: Whether each example has a weight of its own, instead of one for the batch.
        lam: A weight to use instead of drawing one.
        permutation: The partner of each example, instead of a random order of the batch.
        generator: Of the draws, on the CPU.

    Shapes:
        x ``(B, ...)``, y ``(B,)`` or ``(B, ...)`` -> x_mix like x, y_mix ``(B, C)`` for class numbers and like y otherwise,
        lam ``()`` or ``(B,)`` with ``per_sample``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If shapes do not fit, a class number is out of range, or an option is.

    Examples:
        >>> x, y = torch.tensor([[0.0], [10.0]]), torch.tensor([0, 1])
        >>> mixup(x, y, n_classes=2, lam=0.8, permutation=torch.tensor([1, 0]))
        (tensor([[2.0000],
                [8.0000]]), tensor([[0.8000, 0.2000],
                [0.2000, 0.8000]]), tensor(0.8000))
    """
    expect("x", x, "...")
    y = batch_targets(x, y, n_classes)
    weight = draw_weight(len(x) if per_sample else None, alpha, lam, generator).to(x.device, x.dtype)
    order = pairing(x, permutation, generator)
    return blend(x, order, weight), blend(y, order, weight.to(y.dtype)), weight


def blend(a: Tensor, order: Tensor, weight: Tensor) -> Tensor:
    """``weight * a + (1 - weight) * a[order]``, with one weight or one for each row.

    Args:
        a: ``(B, ...)``.
        order: The partner of each row.
        weight: ``()`` or ``(B,)``.

    Examples:
        >>> blend(torch.tensor([0.0, 1.0]), torch.tensor([1, 0]), torch.tensor(0.75))
        tensor([0.2500, 0.7500])
    """
    weight = weight.view(-1, *[1] * (a.ndim - 1)) if weight.ndim else weight
    return weight * a + (1 - weight) * a[order]


def draw_weight(count: int | None, alpha: float, lam: float | None = None, generator: torch.Generator | None = None) -> Tensor:
    """Weights from Beta(alpha, alpha), in float64 on the CPU.

    Args:
        count: How many; ``None`` for a single one without dimension.
        alpha: Both parameters of the distribution; 0 gives 1.
        lam: A weight to take instead.
        generator: Of the draws.

    Raises:
        ValueError: If ``alpha`` is negative or ``lam`` not between 0 and 1.

    Examples:
        >>> draw_weight(3, alpha=0.0)
        tensor([1., 1., 1.], dtype=torch.float64)
    """
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha={alpha} is not 0 or a number above")
    if lam is not None and not 0 <= lam <= 1:
        raise ValueError(f"lam={lam} is not between 0 and 1")
    shape = () if count is None else (count,)
    if lam is not None or alpha == 0:
        return torch.full(shape, 1.0 if lam is None else lam, dtype=torch.float64)
    # Gamma draws of a small alpha underflow to 0 together, and 0/(0 + 0) is none. As logarithms, from those of alpha + 1, they do not.
    above = torch._standard_gamma(torch.full((*shape, 2), alpha + 1, dtype=torch.float64), generator)
    even = torch.empty_like(above).exponential_(generator=generator)
    log_gamma = above.log() - even / alpha
    return torch.sigmoid(log_gamma[..., 0] - log_gamma[..., 1])


def pairing(x: Tensor, permutation: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
    """The partner of each example of a batch.

    Args:
        x: The batch.
        permutation: The partners, if they are given.
        generator: Of a random order, on the CPU.

    Raises:
        ValueError: If ``permutation`` is not one number for each example.

    Examples:
        >>> sorted(pairing(torch.zeros(4, 2)).tolist())
        [0, 1, 2, 3]
    """
    if permutation is None:
        return torch.randperm(len(x), generator=generator).to(x.device)
    expect("permutation", permutation, "batch", dtype="int", batch=len(x))
    return permutation


def batch_targets(x: Tensor, y: Tensor, n_classes: int | None) -> Tensor:
    """Targets that can be mixed: class numbers become rows with a single 1.

    Args:
        x: The batch that they belong to.
        y: Class numbers ``(B,)``, or floating-point targets ``(B, ...)``.
        n_classes: How many classes; needed for class numbers.

    Raises:
        ValueError: If there is not one target for each example, or a class number is out of range.

    Examples:
        >>> batch_targets(torch.zeros(2, 1), torch.tensor([1, 0]), n_classes=3)
        tensor([[0., 1., 0.],
                [1., 0., 0.]])
    """
    if not x.ndim:
        raise ValueError("x has shape (); expected (batch, ...)")
    if not isinstance(y, Tensor):
        raise TypeError(f"y is a {type(y).__name__}; expected a tensor")
    if y.is_floating_point():
        if not y.ndim or len(y) != len(x):
            raise ValueError(f"y has shape {tuple(y.shape)}; expected one target for each of {len(x)} examples")
        return y
    expect("y", y, "batch", dtype="int", batch=len(x))
    if n_classes is None:
        raise ValueError("y holds class numbers, so n_classes must be given")
    if len(y) and not 0 <= int(y.min()) <= int(y.max()) < n_classes:
        raise ValueError(f"y holds classes {int(y.min())} to {int(y.max())}; expected 0 to {n_classes - 1}")
    return F.one_hot(y.long(), n_classes).to(x.dtype)
