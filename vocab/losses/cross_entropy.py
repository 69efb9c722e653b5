"""Cross-entropy of class logits, and what all losses share: the reduction and the checks of targets.

Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 4.104 to 4.109.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.kernels.cross_entropy import applies, fused

__all__ = ["CrossEntropy", "check_classes", "check_reduction", "reduced", "same_shape", "widen"]

# N examples, C classes; "..." more positions of each example: time, or height and width.


class CrossEntropy(nn.Module):
    """Minus the logarithm of the probability that the softmax of the logits gives to the truth.

    Logits of 16 bits are widened to 32 before the exponentials, and the loss stays there. The mean over nothing, when every
    target is ``ignore_index`` or the batch is empty, is 0 with gradient 0 (PyTorch's is NaN).

    Args:
        weight: One factor per class, ``(C,)``; 1 for all by default. The mean divides by the sum of the weights of the targets.
        ignore_index: A class number that stands for "no target here". Such places neither cost nor count.
        label_smoothing: Share of every target that is spread evenly over all classes, 0 to 1.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel takes class numbers, and no smoothing together with class weights.

    Shapes:
        logits ``(N, C, ...)``, target ``(N, ...)`` of class numbers, or ``(N, C, ...)`` of probabilities -> a scalar, or ``(N, ...)``
        without reduction.

    Raises:
        TypeError: If target is neither whole numbers nor probabilities of the shape of the logits.
        ValueError: If an option is out of range, a shape does not fit, or a class is not there (not looked for while compiling).
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> loss = CrossEntropy()
        >>> loss(torch.zeros(2, 10), torch.tensor([3, 7]))  # knows nothing: ln 10
        tensor(2.3026)
        >>> loss(torch.zeros(2, 10), torch.tensor([3, -100]))  # padding does not count
        tensor(2.3026)
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100, label_smoothing: float = 0.0,
                 reduction: str = "mean", *, backend: str = "auto") -> None:
        super().__init__()
        if weight is not None:
            expect("weight", weight, "classes")
            if not (weight >= 0).all():
                raise ValueError(f"weight holds {weight[~(weight >= 0)][0].item()}; expected numbers of 0 or more")
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing={label_smoothing} is not between 0 and 1")
        check_reduction(reduction)
        self.register_buffer("weight", weight)
        self.ignore_index, self.label_smoothing, self.reduction = ignore_index, label_smoothing, reduction
        self.backend = backend

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        expect("logits", logits, "...")
        if logits.ndim < 2 or not logits.shape[1]:
            raise ValueError(f"logits has shape {tuple(logits.shape)}; expected (N, C) or (N, C, ...)")
        N, C, *rest = logits.shape
        if self.weight is not None and self.weight.shape != (C,):
            raise ValueError(f"weight has {len(self.weight)} classes; logits has {C}")
        shares = isinstance(target, Tensor) and target.is_floating_point() and target.ndim == logits.ndim
        limit = "target holds probabilities" if shares else None
        if self.label_smoothing and self.weight is not None:
            limit = "label smoothing has class weights"
        if applies(logits, self.backend, limit):
            return self._by_kernel(logits, target)

        cost = -F.log_softmax(widen(logits), 1)  # of every class, were it the truth
        weight = cost.new_ones(C) if self.weight is None else self.weight.to(cost.dtype)
        weight = weight.view(C, *[1] * len(rest))
        if shares:
            same_shape("target", target, "logits", logits)
            share = (1 - self.label_smoothing) * target.to(cost.dtype) + self.label_smoothing / C
            # A class with logit -inf and share 0 is impossible and never asked for: it costs 0, not 0 times infinity.
            cost = torch.where(cost.isposinf() & (share == 0), 0.0, cost)
            return reduced((weight * share * cost).sum(1), self.reduction)

        check_classes(target, C, (N, *rest), self.ignore_index)
        kept = target != self.ignore_index
        index = torch.where(kept, target, 0).long().unsqueeze(1)
        counts = torch.where(kept, weight.expand_as(cost).gather(1, index).squeeze(1), 0.0)
        loss = torch.where(kept, counts * cost.gather(1, index).squeeze(1), 0.0)
        if self.label_smoothing:
            evenly = torch.where(kept, (weight * cost).mean(1), 0.0)
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * evenly
        return reduced(loss, self.reduction, counts)

    def _by_kernel(self, logits: Tensor, target: Tensor) -> Tensor:
        C = logits.shape[1]
        check_classes(target, C, (len(logits), *logits.shape[2:]), self.ignore_index)
        rows = logits.movedim(1, -1).reshape(-1, C)
        loss, _ = fused(rows, target.reshape(-1).long(), ignore_index=self.ignore_index, label_smoothing=self.label_smoothing, softcap=0.0)
        loss, kept = loss.view(target.shape), target != self.ignore_index
        if self.weight is None:
            return reduced(loss, self.reduction, kept.to(loss.dtype))
        counts = torch.where(kept, self.weight.to(loss.dtype)[torch.where(kept, target, 0).long()], 0.0)
        return reduced(counts * loss, self.reduction, counts)


def check_reduction(reduction: str) -> None:
    """Raises unless the reduction is one of the three words.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: If it is another word.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r} is not 'mean', 'sum' or 'none'")


def reduced(loss: Tensor, reduction: str, counts: Tensor | None = None) -> Tensor:
    """Makes one number of the losses of all elements; the mean over nothing is 0.

    Args:
        loss: The losses, of any shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        counts: How much each element counts in the mean; 1 by default. The losses are already multiplied by it.

    Examples:
        >>> reduced(torch.tensor([1.0, 0.0]), "mean", torch.tensor([1.0, 0.0]))
        tensor(1.)
    """
    if reduction == "none":
        return loss
    if reduction == "sum":
        return loss.sum()
    if counts is None:
        return loss.sum() / max(loss.numel(), 1)
    total = counts.sum()
    return loss.sum() / torch.where(total == 0, 1.0, total)


def same_shape(name: str, x: Tensor, like: str, reference: Tensor) -> None:
    """Raises unless two arguments have one shape: broadcasting would compare every element with every target.

    Args:
        name: Name of the argument.
        x: The argument.
        like: Name of the argument whose shape it must have.
        reference: That argument.

    Raises:
        ValueError: If the shapes differ.
    """
    if x.shape != reference.shape:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected that of {like}, {tuple(reference.shape)}")


def check_classes(target: Tensor, classes: int, shape: tuple[int, ...], ignore_index: int, name: str = "target") -> None:
    """Raises unless the targets are class numbers. The numbers are not looked at while compiling.

    Args:
        target: The targets.
        classes: How many classes there are.
        shape: The shape that the targets must have.
        ignore_index: A number that is allowed beside those of the classes.
        name: Name of the argument.

    Raises:
        TypeError: If they are not whole numbers.
        ValueError: If the shape differs or a class is not there.
    """
    expect(name, target, "...", dtype="int")
    if target.shape != shape:
        raise ValueError(f"{name} has shape {tuple(target.shape)}; expected {tuple(shape)}, one class per row of logits")
    if not torch.compiler.is_compiling():
        wrong = (target != ignore_index) & ((target < 0) | (target >= classes))
        if wrong.any():
            raise ValueError(f"{name} holds {target[wrong][0].item()}; expected 0 to {classes - 1}, or {ignore_index} for none")


def widen(x: Tensor) -> Tensor:
    """Makes 32 bits of 16: a sum or a square of 16-bit numbers overflows or loses what it adds.

    Args:
        x: A floating-point tensor.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
