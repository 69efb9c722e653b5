"""Linear layer: every output is a weighted sum of all inputs, plus a bias.

Source: Rosenblatt 1958, doi:10.1037/h0042519 (sums with learned weights); gradients as in Rumelhart, Hinton and
Williams 1986, doi:10.1038/323533a0; starting values as in torch.nn.Linear.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Linear", "linear_backward"]

# I inputs, O outputs; the dimensions before the last are rows that do not see each other


class Linear(nn.Module):
    """Affine map ``y = x W^T + b`` of the last dimension.

    The weight has one row per output, ``(O, I)``, so it is transposed for inputs that are rows.

    Args:
        in_features: Inputs I.
        out_features: Outputs O.
        bias: Whether ``b`` is added.

    Shapes:
        x ``(..., I)`` -> ``(..., O)``.

    Raises:
        ValueError: If a size is below 1 or the last dimension of ``x`` is not I.

    Examples:
        >>> layer = Linear(2, 1)
        >>> with torch.no_grad():
        ...     _, _ = layer.weight.copy_(torch.tensor([[3.0, -1.0]])), layer.bias.fill_(0.5)
        >>> layer(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist()
        [[2.5], [-1.5]]
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        for name, size in dict(in_features=in_features, out_features=out_features).items():
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        self.in_features, self.out_features = in_features, out_features
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.in_features)
        y = x @ self.weight.T
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


def linear_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a loss with respect to the input, weight and bias of a linear layer, written out.

    Two matrix products of the size of the forward one: that is why a training step costs three forward passes.

    Args:
        grad: The loss's gradient with respect to the output, ``(..., O)``.
        x: The input, ``(..., I)``.
        weight: The weight, ``(O, I)``.

    Returns:
        The gradients with respect to ``x`` ``(..., I)``, ``weight`` ``(O, I)`` and the bias ``(O,)``.

    Raises:
        ValueError: If the shapes do not fit each other.

    Examples:
        >>> dx, dw, db = linear_backward(torch.ones(3, 1), torch.arange(6.0).view(3, 2), torch.tensor([[2.0, -1.0]]))
        >>> dx[0], dw, db
        (tensor([ 2., -1.]), tensor([[6., 9.]]), tensor([3.]))
    """
    expect("weight", weight, "out_features in_features")
    expect("grad", grad, "... out_features", out_features=weight.shape[0])
    expect("x", x, "... in_features", in_features=weight.shape[1])
    if grad.shape[:-1] != x.shape[:-1]:
        raise ValueError(f"grad has rows {tuple(grad.shape[:-1])} and x has {tuple(x.shape[:-1])}; expected the same")
    # All rows share one weight, so its gradient is the sum over them: a product of two tall matrices does the summing.
    grad_NO, x_NI = grad.reshape(-1, weight.shape[0]), x.reshape(-1, weight.shape[1])
    return grad @ weight, grad_NO.T @ x_NI, grad_NO.sum(0)
