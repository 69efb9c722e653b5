"""Adversarial losses: what a discriminator and a generator make small, in the five pairs that are in use.

Source: Goodfellow et al. 2014, arXiv:1406.2661, equation 1 and section 3; least squares: Mao et al. 2017, arXiv:1611.04076,
section 3; hinge: Miyato et al. 2018, arXiv:1802.05957, section 4; critic: Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["GANLoss"]


def _yes(d: Tensor) -> Tensor:
    """Minus the logarithm of the probability of "real", for a logit."""
    return -F.logsigmoid(d)


def _no(d: Tensor) -> Tensor:
    return -F.logsigmoid(-d)


# What it costs the discriminator to answer d to a real sample and to a generated one, and what the second answer costs the generator.
_COSTS = {
    "nonsaturating": (_yes, _no, _yes),
    "minimax": (_yes, _no, lambda d: -_no(d)),
    "lsgan": (lambda d: (d - 1).square() / 2, lambda d: d.square() / 2, lambda d: (d - 1).square() / 2),
    "hinge": (lambda d: F.relu(1 - d), lambda d: F.relu(1 + d), torch.neg),
    "wgan": (torch.neg, lambda d: d, torch.neg),
}


class GANLoss:
    """A pair of losses, one for the discriminator and one for the generator. Both are to be made small.

    They take what the discriminator answers: logits, never probabilities. Answers of 16 bits are widened to 32, and the losses stay
    there. The mean over no answer is 0.

    Args:
        mode: ``"nonsaturating"``: is it real, yes or no; the generator wants "yes" to its samples. ``"minimax"``: the same
            question; the generator wants not "no", which is flat where the discriminator is sure. ``"lsgan"``: squared distance to 1
            for real and 0 for generated. ``"hinge"``: at least 1 for real, at most -1 for generated. ``"wgan"``: as far apart as
            can be; only with a discriminator of bounded slope.
        reduction: ``"mean"``, ``"sum"``, or ``"none"``: over the answers of each argument.

    Raises:
        ValueError: If ``mode`` or ``reduction`` is another word.

    Examples:
        >>> loss = GANLoss()
        >>> undecided = torch.zeros(4)
        >>> loss.discriminator(undecided, undecided), loss.generator(undecided)  # 2 ln 2 and ln 2
        (tensor(1.3863), tensor(0.6931))
    """

    def __init__(self, mode: str = "nonsaturating", reduction: str = "mean") -> None:
        if mode not in _COSTS:
            raise ValueError(f"mode={mode!r} is none of {', '.join(_COSTS)}")
        check_reduction(reduction)
        self.mode, self.reduction = mode, reduction

    def discriminator(self, real: Tensor, fake: Tensor) -> Tensor:
        """Loss of the discriminator. Detach the samples, not the answers, that ``fake`` comes from.

        Args:
            real: Its answers to real samples, of any shape: one per image or one per patch.
            fake: Its answers to generated samples; as many or not.

        Returns:
            A scalar, or without reduction the sum of both costs, for which the shapes must be equal.

        Raises:
            ValueError: If the shapes differ and nothing is reduced.
        """
        expect("real", real, "...")
        expect("fake", fake, "...")
        if self.reduction == "none":
            same_shape("fake", fake, "real", real)
        of_real, of_fake, _ = _COSTS[self.mode]
        return reduced(of_real(widen(real)), self.reduction) + reduced(of_fake(widen(fake)), self.reduction)

    def generator(self, fake: Tensor) -> Tensor:
        """Loss of the generator.

        Args:
            fake: What the discriminator answers to generated samples, not detached.

        Returns:
            A scalar, or the shape of ``fake`` without reduction.
        """
        expect("fake", fake, "...")
        return reduced(_COSTS[self.mode][2](widen(fake)), self.reduction)
