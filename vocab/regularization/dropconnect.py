"""DropConnect: dropout of the weights of a linear layer instead of its inputs.

Source: Wan et al. 2013, ICML ("Regularization of Neural Networks using DropConnect"), section 3; masks per batch as in
Merity, Keskar and Socher 2017, arXiv:1708.02182.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.regularization.dropout import check_probability, dropout, dropout_mask

__all__ = ["DropConnectLinear", "output_variance"]

# B batch, I input features, O output features


class DropConnectLinear(nn.Linear):
    """A linear layer whose weights are dropped in training, each with probability ``p``; the others are divided by ``1 - p``.

    The bias is kept. In evaluation it is a linear layer with the mean of the weights.

    Args:
        in_features: Width I of the input.
        out_features: Width O of the output.
        p: Probability that a weight is dropped, from 0 to 1.
        per_sample: Whether each example has a mask of its own, which needs O·I numbers for each.

    Shapes:
        x ``(B, I)`` -> ``(B, O)``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``p`` is not between 0 and 1, or ``x`` has another shape.

    Examples:
        >>> layer, x = DropConnectLinear(3, 2, p=0.5), torch.ones(4, 3)
        >>> bool((layer(x) == layer.eval()(x)).all())
        False
    """

    def __init__(self, in_features: int, out_features: int, p: float = 0.5, per_sample: bool = False) -> None:
        super().__init__(in_features, out_features)
        check_probability("p", p)
        self.p, self.per_sample = p, per_sample

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Multiplies ``x`` by the weights that are left.

        Args:
            x: Features.
            generator: Of the masks; the global one if not given.
        """
        expect("x", x, "batch in_features", in_features=self.in_features)
        if not self.training:
            return F.linear(x, self.weight, self.bias)
        if not self.per_sample:
            return F.linear(x, dropout(self.weight, self.p, generator=generator), self.bias)
        mask_BOI = dropout_mask(self.weight, self.p, (len(x), *self.weight.shape), generator)
        return torch.einsum("bi,boi->bo", x, self.weight * mask_BOI) + self.bias

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}, per_sample={self.per_sample}"


def output_variance(weight: Tensor, x: Tensor, p: float) -> Tensor:
    """Variance of each output over the masks: ``p / (1 - p) * sum(weight**2 * x**2)``.

    With the output of evaluation as the mean, it is the Gaussian from which the paper draws at test time.

    Args:
        weight: Of the layer.
        x: Features.
        p: Probability that a weight is dropped, below 1.

    Shapes:
        weight ``(O, I)``, x ``(B, I)`` -> ``(B, O)``.

    Raises:
        ValueError: If ``p`` is not from 0 to below 1.

    Examples:
        >>> output_variance(torch.tensor([[3.0, 4.0]]), torch.ones(1, 2), p=0.5)
        tensor([[25.]])
    """
    expect("weight", weight, "out_features in_features")
    expect("x", x, "batch in_features", in_features=weight.shape[1])
    if not 0 <= p < 1:
        raise ValueError(f"p={p} is not from 0 to below 1")
    return p / (1 - p) * F.linear(x.square(), weight.square())
