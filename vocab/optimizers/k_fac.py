"""K-FAC: natural gradient steps, with the Fisher matrix of each layer as a Kronecker product of two small ones.

Source: Martens and Grosse 2015, arXiv:1503.05671, sections 3 and 6.3 (block-diagonal form, factored damping).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vocab.check import expect

__all__ = ["KFAC", "damped"]


class KFAC(Optimizer):
    """Kronecker-factored approximate curvature for the linear layers of a model; other parameters get plain SGD.

    For a layer with inputs ``a`` (a 1 appended for the bias) and gradients ``g`` of each example's loss at its outputs::

        A = mean of a a^T        G = mean of g g^T        (running means)
        w = w - lr * inverse(G) @ gradient @ inverse(A)

    The factors are collected within ``statistics()``. There, backward the mean loss of targets *drawn from the model*, not those of the data::

        with optimizer.statistics():
            sampled_loss(model(x)).backward()
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    The state per layer are both factors and both inverses, ``2 * (inputs**2 + outputs**2)`` numbers.

    Args:
        model: The model; each of its ``nn.Linear`` modules may be used once in a forward pass, on inputs (batch, features).
        lr: Learning rate.
        damping: Added to the curvature, split between the factors.
        stat_decay: Share of a running factor that is kept; the first one is taken whole.
        update_freq: Steps from one computation of the inverses to the next.

    Raises:
        ValueError: If an option is out of range, or a layer is used for many positions.
        RuntimeError: If there are no statistics yet, or a gradient is sparse.

    Examples:
        >>> layer = nn.Linear(3, 1, bias=False)
        >>> optimizer = KFAC(layer, lr=1.0, damping=0.0)
        >>> x, y = torch.eye(3) * torch.tensor([1.0, 10.0, 100.0]), torch.ones(3, 1)
        >>> with optimizer.statistics():
        ...     layer(x).sum().div(3).backward()  # outputs' gradients of 1: a unit variance, as for the squared loss
        >>> optimizer.zero_grad()
        >>> (layer(x) - y).square().sum().div(6).backward()
        >>> optimizer.step()
        >>> bool(torch.allclose(layer(x), y, atol=1e-4))  # one step to the least squares solution
        True
    """

    def __init__(
        self, model: nn.Module, lr: float = 1e-2, damping: float = 1e-3, stat_decay: float = 0.95, update_freq: int = 10,
    ) -> None:
        for name, value in (("lr", lr), ("damping", damping)):
            if not value >= 0:
                raise ValueError(f"{name}={value} is not 0 or more")
        if not 0 <= stat_decay < 1:
            raise ValueError(f"stat_decay={stat_decay} is not in [0, 1)")
        if not (isinstance(update_freq, int) and update_freq >= 1):
            raise ValueError(f"update_freq={update_freq} is not a whole number of 1 or more")
        self.layers = {m.weight: m for m in model.modules() if isinstance(m, nn.Linear)}
        super().__init__(model.parameters(), dict(lr=lr, damping=damping, stat_decay=stat_decay, update_freq=update_freq))

    @contextmanager
    def statistics(self):
        """Within this context, one forward and backward pass of a mean loss is taken into the factors."""
        inputs, grads, hooks = {}, {}, []
        for weight, layer in self.layers.items():
            def forward(layer, args, out, weight=weight):
                if args[0].ndim != 2 or weight in inputs:
                    raise ValueError(f"a linear layer of {tuple(weight.shape)} is used for many positions (input {tuple(args[0].shape)}); "
                                     "shared weights need KFC or K-FAC-reduce")
                inputs[weight] = args[0].detach()
                if out.requires_grad:
                    out.register_hook(lambda grad: grads.__setitem__(weight, grad.detach()))

            hooks.append(layer.register_forward_hook(forward))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        with torch.no_grad():
            for weight, g in grads.items():
                self._collect(weight, inputs[weight], g)

    def _collect(self, weight: Tensor, a: Tensor, g: Tensor) -> None:
        if self.layers[weight].bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], 1)
        group = next(group for group in self.param_groups if any(p is weight for p in group["params"]))
        # The loss is a mean, so g holds 1/n of each example's gradient: the mean of squares is n times the sum.
        for name, new in (("A", a.mT @ a / len(a)), ("G", g.mT @ g * len(g))):
            state = self.state[weight]
            state[name] = new if name not in state else group["stat_decay"] * state[name] + (1 - group["stat_decay"]) * new

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Takes one step.

        Args:
            closure: Computes the loss again, with gradients, and returns it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        biases = {layer.bias for layer in self.layers.values() if layer.bias is not None}
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None or p in biases:
                    continue  # a layer's bias moves with its weight
                if p.grad.is_sparse:
                    raise RuntimeError("KFAC takes no sparse gradients; build the embedding with sparse=False")
                if p in self.layers:
                    self._natural(p, group)
                else:
                    p.add_(p.grad, alpha=-group["lr"])
        return loss

    def _natural(self, weight: Tensor, group: dict) -> None:
        state, bias = self.state[weight], self.layers[weight].bias
        if "A" not in state:
            raise RuntimeError("step before any statistics(); see the class for the loop")
        step = state["step"] = state.get("step", 0) + 1
        if (step - 1) % group["update_freq"] == 0:
            A, G = damped(state["A"], state["G"], group["damping"])
            state["A_inverse"], state["G_inverse"] = torch.linalg.pinv(A, hermitian=True), torch.linalg.pinv(G, hermitian=True)
        with_bias = bias is not None and bias.grad is not None
        gradient = torch.cat([weight.grad, bias.grad[:, None]], 1) if with_bias else weight.grad
        A_inverse = state["A_inverse"][: gradient.shape[1], : gradient.shape[1]]
        move = state["G_inverse"] @ gradient @ A_inverse
        weight.sub_(group["lr"] * move[:, : weight.shape[1]])
        if with_bias:
            bias.sub_(group["lr"] * move[:, -1])


def damped(A: Tensor, G: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Both factors with the damping split between them, so that their product gets about ``damping`` on the diagonal.

    The share follows the factors' size: ``A + pi * sqrt(damping)`` and ``G + sqrt(damping) / pi`` on the diagonals, where ``pi**2`` is the ratio
    of their mean eigenvalues.

    Args:
        A: Factor of the inputs.
        G: Factor of the output gradients.
        damping: What is added to the curvature.

    Shapes:
        A (n, n), G (m, m) -> the same

    Examples:
        >>> A, G = damped(4 * torch.eye(2), torch.eye(3), damping=0.01)
        >>> A[0, 0], G[0, 0]  # a twentieth more of both
        (tensor(4.2000), tensor(1.0500))
    """
    expect("A", A, "n n")
    expect("G", G, "m m")
    ratio = (A.trace() / len(A)) / (G.trace() / len(G))
    pi = torch.where(torch.isfinite(ratio) & (ratio > 0), ratio, torch.ones_like(ratio)).sqrt()
    root = math.sqrt(damping)
    return (A + pi * root * torch.eye(len(A), dtype=A.dtype, device=A.device), G + root / pi * torch.eye(len(G), dtype=G.dtype, device=G.device))
