"""Layer normalization: subtract the mean of each vector, divide by its standard deviation, scale and shift every component.

Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equations 3 and 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["LayerNorm", "layer_norm", "moments", "standardize"]

# ... any leading dimensions, then the dimensions that are normalised together (usually one, of size D)


class LayerNorm(nn.Module):
    """Layer normalization, and the residual addition that comes before it in a Transformer.

    Args:
        normalized_shape: Sizes of the trailing dimensions that share one mean and deviation; a number for one dimension.
        eps: Added to the variance under the root.
        elementwise_affine: Whether there is a gain per component.
        bias: Whether there is a shift per component too; without a gain there is none.

    Shapes:
        x ``(..., *normalized_shape)`` -> the same; with a residual like ``x`` -> the norm of ``x + residual`` and
        ``x + residual``, the stream that the next block adds to.

    Raises:
        TypeError: If ``x`` or ``residual`` is no floating-point tensor.
        ValueError: If the trailing dimensions are not ``normalized_shape``, or residual and ``x`` differ.

    Examples:
        >>> norm = LayerNorm(4)
        >>> [round(v, 4) for v in norm(torch.tensor([1.0, 1.0, 3.0, 3.0])).tolist()]
        [-1.0, -1.0, 1.0, 1.0]
    """

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not shape or min(shape) < 1:
            raise ValueError(f"normalized_shape={shape} needs one or more sizes from 1 upwards")
        if not eps >= 0:
            raise ValueError(f"eps={eps} is negative")
        self.normalized_shape, self.eps = shape, eps
        self.weight = nn.Parameter(torch.ones(shape)) if elementwise_affine else None
        self.bias = nn.Parameter(torch.zeros(shape)) if elementwise_affine and bias else None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        expect("x", x, "...")
        if tuple(x.shape[-len(self.normalized_shape) :]) != self.normalized_shape:
            raise ValueError(f"x has shape {tuple(x.shape)}; its last dimensions must be normalized_shape={self.normalized_shape}")
        if residual is None:
            return layer_norm(x, self.weight, self.bias, self.eps, n_dims=len(self.normalized_shape))
        expect("residual", residual, "...")
        if residual.shape != x.shape or residual.dtype != x.dtype:
            raise ValueError(f"residual is {tuple(residual.shape)} {residual.dtype}; expected {tuple(x.shape)} {x.dtype} as x")
        stream = x + residual
        return layer_norm(stream, self.weight, self.bias, self.eps, n_dims=len(self.normalized_shape)), stream

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


def layer_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *, n_dims: int = 1
) -> Tensor:
    """Gives each vector mean 0 and deviation 1, then each component its gain and shift.

    Args:
        x: What is normalised.
        weight: gamma, the gain; none is 1.
        bias: beta, the shift; none is 0.
        eps: Added to the variance under the root.
        n_dims: How many trailing dimensions form one vector.

    Shapes:
        x ``(..., D)``, weight ``(D,)``, bias ``(D,)`` -> ``(..., D)``.

    Examples:
        >>> layer_norm(torch.tensor([1.0, 1.0, 3.0, 3.0]), weight=torch.full((4,), 5.0), eps=0.0)
        tensor([-5., -5.,  5.,  5.])
    """
    y = standardize(x, moments(x, tuple(range(-n_dims, 0))), eps)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y.to(x.dtype)


def moments(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over some dimensions: all that tells one normalization from another is which.

    Args:
        x: Any tensor.
        dims: The dimensions whose elements share one mean.

    Returns:
        Mean and variance, with those dimensions kept at size 1, in float32 or better.

    Examples:
        >>> moments(torch.tensor([[1.0, 3.0], [5.0, 9.0]]), (1,))
        (tensor([[2.],
                [7.]]), tensor([[1.],
                [4.]]))
    """
    # Squares of half precision numbers overflow at 256, and E[x²] - E[x]² loses all digits where the mean is large.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean = wide.mean(dims, keepdim=True)
    return mean, (wide - mean).square().mean(dims, keepdim=True)


def standardize(x: Tensor, mean_and_variance: tuple[Tensor, Tensor], eps: float) -> Tensor:
    """Subtracts a mean and divides by a standard deviation.

    Args:
        x: What is normalised.
        mean_and_variance: From ``moments``, or running averages of them.
        eps: Added to the variance under the root.

    Returns:
        The result in float32 or better: the caller rounds once, after gain and shift.

    Examples:
        >>> standardize(torch.tensor([1.0, 3.0]), (torch.tensor(2.0), torch.tensor(4.0)), eps=0.0)
        tensor([-0.5000,  0.5000])
    """
    mean, variance = mean_and_variance
    return (x - mean) * torch.rsqrt(variance + eps)
