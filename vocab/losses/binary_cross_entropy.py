"""Binary cross-entropy of logits: one yes-or-no question per element.

Source: Bishop 2006, Pattern Recognition and Machine Learning, equations 4.90 and 4.91.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["BCEWithLogits"]


class BCEWithLogits(nn.Module):
    """Minus the logarithm of the probability that the sigmoid of a logit gives to the truth, for each element by itself.

    Logits of 16 bits are widened to 32, and the loss stays there. The mean over no element is 0.

    Args:
        weight: A factor per element, of a shape that broadcasts to that of the logits.
        pos_weight: A factor of the "yes" part of the loss, one number per question, of a shape that broadcasts likewise.
        reduction: ``"mean"`` (over all elements, whatever their weights), ``"sum"`` or ``"none"``.

    Shapes:
        logits ``(...)``, target ``(...)`` from 0 to 1 -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If a weight is negative or does not broadcast, a target is not between 0 and 1 (not looked for while compiling),
            shapes differ, or ``reduction`` is another word.

    Examples:
        >>> loss = BCEWithLogits(reduction="none")
        >>> loss(torch.tensor([0.0, 1000.0, -1000.0]), torch.tensor([1.0, 1.0, 1.0]))
        tensor([6.9315e-01, 0.0000e+00, 1.0000e+03])
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, pos_weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__()
        for name, factor in (("weight", weight), ("pos_weight", pos_weight)):
            if factor is not None:
                expect(name, factor, "...")
                if not (factor >= 0).all():
                    raise ValueError(f"{name} holds {factor[~(factor >= 0)][0].item()}; expected numbers of 0 or more")
            self.register_buffer(name, factor)
        check_reduction(reduction)
        self.reduction = reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        expect("logits", logits, "...")
        expect("target", target, "...")
        same_shape("target", target, "logits", logits)
        if not torch.compiler.is_compiling() and ((target < 0) | (target > 1)).any():
            raise ValueError(f"target holds {target[(target < 0) | (target > 1)][0].item()}; expected numbers from 0 to 1")
        z, y = widen(logits), widen(target)
        # -log sigmoid(z) is softplus(-z) and -log(1 - sigmoid(z)) is softplus(z): no probability is ever rounded to 0 or 1.
        yes, no = y * F.softplus(-z), (1 - y) * F.softplus(z)
        if self.pos_weight is not None:
            yes = self._for("pos_weight", z) * yes
        loss = yes + no
        if self.weight is not None:
            loss = self._for("weight", z) * loss
        return reduced(loss, self.reduction)

    def _for(self, name: str, z: Tensor) -> Tensor:
        factor = getattr(self, name)
        if factor.ndim > z.ndim or any(f not in (1, n) for f, n in zip(reversed(factor.shape), reversed(z.shape))):
            raise ValueError(f"{name} has shape {tuple(factor.shape)}, which does not broadcast to that of logits, {tuple(z.shape)}")
        return factor.to(z.dtype)
