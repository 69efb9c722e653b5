"""Spectral normalization: a weight divided by the largest factor by which it can stretch a vector.

Source: Miyato et al. 2018, arXiv:1802.05957, algorithm 1; exact norm of a convolution: Sedghi, Gupta and Long 2019, arXiv:1805.10408.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from vocab.check import expect

__all__ = ["conv_spectral_norm", "power_iteration", "spectral_norm"]

# W matrix (M rows, N columns), u (M,) and v (N,) its first singular vectors, sigma the first singular value


def spectral_norm(
    module: nn.Module, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int = 0
) -> nn.Module:
    """Replaces a weight by itself over its largest singular value, estimated by a few products per training step.

    A convolution's weight ``(O, C, k, k)`` is taken as a matrix of O rows: a surrogate for the norm of the convolution,
    which ``conv_spectral_norm`` computes.

    Args:
        module: Whose weight it is; changed in place.
        name: Name of the weight.
        n_power_iterations: Steps of power iteration per forward pass in training; there are none in evaluation.
        eps: Keeps a vector of zeros from being divided by its length.
        dim: The output dimension of the weight; 1 for transposed convolutions.

    Returns:
        The same module.

    Raises:
        ValueError: If the module has no such weight of two or more dimensions, or a number is out of range.

    Examples:
        >>> layer = spectral_norm(nn.Linear(5, 3))
        >>> for _ in range(50):
        ...     _ = layer.weight  # every look in training is a step of power iteration
        >>> round(torch.linalg.matrix_norm(layer.weight, 2).item(), 4)
        1.0
    """
    weight = getattr(module, name, None)
    if not isinstance(weight, nn.Parameter):
        raise ValueError(f"module {type(module).__name__} has no parameter name={name!r}")
    if weight.ndim < 2:
        raise ValueError(f"{name} has shape {tuple(weight.shape)}; a spectral norm needs two or more dimensions")
    if not -weight.ndim <= dim < weight.ndim:
        raise ValueError(f"dim={dim} is no dimension of {name} with shape {tuple(weight.shape)}")
    if n_power_iterations < 1:
        raise ValueError(f"n_power_iterations={n_power_iterations} is below 1")
    parametrize.register_parametrization(module, name, _OverSpectralNorm(weight, n_power_iterations, eps, dim))
    return module


def power_iteration(W: Tensor, u: Tensor, n: int = 1, eps: float = 1e-12) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates the first singular value of a matrix, and its vectors.

    The estimate never exceeds the true value. Per step its error shrinks by ``(s2 / s1)**4``.

    Args:
        W: The matrix.
        u: Where to start; not at right angles to the first left singular vector.
        n: Steps, two products with the matrix each.
        eps: Keeps a vector of zeros from being divided by its length.

    Shapes:
        W ``(M, N)``, u ``(M,)`` -> a number, u ``(M,)``, v ``(N,)``.

    Raises:
        ValueError: If the shapes do not fit or ``n`` is below 1.

    Examples:
        >>> sigma, u, v = power_iteration(torch.diag(torch.tensor([3.0, 1.0])), torch.tensor([0.6, 0.8]), n=10)
        >>> round(sigma.item(), 5), [round(x, 5) for x in u.tolist()]
        (3.0, [1.0, 0.0])
    """
    expect("W", W, "rows columns")
    expect("u", u, "rows", rows=W.shape[0])
    if n < 1:
        raise ValueError(f"n={n} is below 1")
    for _ in range(n):
        v = F.normalize(W.mT @ u, dim=0, eps=eps)
        u = F.normalize(W @ v, dim=0, eps=eps)
    return u @ (W @ v), u, v


def conv_spectral_norm(kernel: Tensor, input_hw: tuple[int, int]) -> Tensor:
    """The largest factor by which a convolution with circular padding and stride 1 can stretch an image.

    A Fourier transform turns the convolution into one small matrix per frequency; the largest of all their singular values
    is that of the whole.

    Args:
        kernel: Weights.
        input_hw: Height and width of the image.

    Shapes:
        kernel ``(O, C, k, k)`` -> a number.

    Raises:
        ValueError: If the kernel has other dimensions or is larger than the image.

    Examples:
        >>> conv_spectral_norm(torch.ones(1, 1, 3, 3), (8, 8)).item()  # a constant image comes out 9 times as bright
        9.0
    """
    expect("kernel", kernel, "out_channels in_channels height width")
    if kernel.shape[2] > input_hw[0] or kernel.shape[3] > input_hw[1]:
        raise ValueError(f"kernel is {tuple(kernel.shape[2:])} and larger than input_hw={tuple(input_hw)}")
    per_frequency = torch.fft.fft2(kernel, s=tuple(input_hw)).permute(2, 3, 0, 1)
    return torch.linalg.matrix_norm(per_frequency, 2).amax()


class _OverSpectralNorm(nn.Module):
    def __init__(self, weight: Tensor, n_power_iterations: int, eps: float, dim: int) -> None:
        super().__init__()
        self.n_power_iterations, self.eps, self.dim = n_power_iterations, eps, dim
        W = self._matrix(weight.detach())
        self.register_buffer("_u", F.normalize(torch.randn_like(W[:, 0]), dim=0, eps=eps))
        self.register_buffer("_v", F.normalize(torch.randn_like(W[0]), dim=0, eps=eps))
        self._iterate(W, 15)  # one step per forward pass follows a weight that moves slowly, but only once it has arrived

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    @torch.no_grad()
    def _iterate(self, W: Tensor, n: int) -> None:
        _, v, u = power_iteration(W.mT, self._v, n, self.eps)
        self._u.copy_(u)
        self._v.copy_(v)

    def forward(self, weight: Tensor) -> Tensor:
        W = self._matrix(weight)
        if self.training:
            self._iterate(W, self.n_power_iterations)
        # Two forward passes before one backward pass (real and fake images) must not share vectors that were overwritten.
        u, v = self._u.clone(), self._v.clone()
        return weight / (u @ (W @ v))

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight
