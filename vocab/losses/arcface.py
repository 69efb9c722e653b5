"""ArcFace: a classifier of directions whose truth is seen from an angle that is larger by a margin.

Source: Deng et al. 2019, arXiv:1801.07698, equation 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vocab.losses.cosface import CosineHead

__all__ = ["ArcFaceHead"]


class ArcFaceHead(CosineHead):
    """Cosines times ``s``, where the angle to the truth is made larger by ``m``: ``s * cos(angle + m)``.

    For training: ``loss = CrossEntropy()(head(x, label), label)``. In use features are compared by their cosine, or ``head(x)`` ranks
    the known classes. The gradient is finite everywhere: no arc cosine is taken.

    Args:
        in_features: Width of a feature.
        n_classes: Number of classes.
        s: What the cosines are multiplied by.
        m: The margin in radians. May be changed during training.
        easy_margin: Whether features more than 90 degrees from their class are spared the margin. Otherwise those beyond ``pi - m``,
            where the cosine would rise again, are charged ``m * sin(m)`` instead.
        ignore_index: The label of an example without a class.

    Shapes:
        x ``(N, D)``, label ``(N,)`` of whole numbers -> ``(N, C)``. Without labels (in use, not in training) there is no margin.

    Raises:
        ValueError: If ``m`` is not between 0 and pi/2, another number is out of range, a shape does not fit, or a class is not there (not
            looked for while compiling).

    Examples:
        >>> head = ArcFaceHead(2, 2, s=10.0, m=math.pi / 6)
        >>> _ = head.weight.data.copy_(torch.eye(2))
        >>> head(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).detach()  # 0 degrees away, and 30 more
        tensor([[8.6603, 0.0000]])
    """

    def __init__(self, in_features: int, n_classes: int, s: float = 64.0, m: float = 0.5, *, easy_margin: bool = False,
                 ignore_index: int = -100) -> None:
        super().__init__(in_features, n_classes, s, ignore_index=ignore_index)
        if not 0 <= m <= math.pi / 2:
            raise ValueError(f"m={m} is not between 0 and pi/2: the margin is in radians")
        self.m, self.easy_margin = m, easy_margin

    def handicap(self, cosine: Tensor, x: Tensor, w: Tensor) -> Tensor:
        # What is left of x beside w. The root of 1 - cosine**2 is the same, but rounds small angles away and has no slope at 0.
        sine = torch.linalg.vector_norm(x - cosine[:, None] * w, dim=-1)
        turned = cosine * math.cos(self.m) - sine * math.sin(self.m)
        if self.easy_margin:
            return torch.where(cosine > 0, turned, cosine)
        return torch.where(cosine > -math.cos(self.m), turned, cosine - self.m * math.sin(self.m))
