"""What the tests of the activations share."""

import numpy as np
import torch

GRID = torch.arange(-1600, 1601, dtype=torch.float64) / 200  # zero is one of them


def slope(function, x=GRID):
    """The derivative that autograd finds at each number."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]


def same(ours, theirs, x=GRID, atol=1e-14):
    """Equal values and equal derivatives."""
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-13, atol=atol)
    torch.testing.assert_close(slope(ours, x), slope(theirs, x), rtol=1e-13, atol=atol)


def expectation(function, mean=0.0, std=1.0, kinks=(0.0,)):
    """E[function(z)] for a normal z, by Gauss-Legendre quadrature between the kinks of the function."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    edges = [mean - 13 * std, *sorted(kinks), mean + 13 * std]
    total = 0.0
    for a, b in zip(edges, edges[1:]):
        z = torch.from_numpy((a + b) / 2 + (b - a) / 2 * nodes)
        density = torch.exp(-(((z - mean) / std) ** 2) / 2) / (std * (2 * torch.pi) ** 0.5)
        total += (b - a) / 2 * (torch.from_numpy(weights) * density * function(z)).sum().item()
    return total
