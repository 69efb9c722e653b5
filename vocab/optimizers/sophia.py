"""Sophia: momentum divided by an estimate of the curvature, and clipped where that would go too far.

Source: Liu et al. 2023, arXiv:2305.14342, algorithms 1 (Hutchinson), 2 (Gauss-Newton-Bartlett) and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import ParamsT

from vocab.check import expect
from vocab.kernels.multi_tensor import applies, fused
from vocab.optimize import Descent, State, Tensors

__all__ = ["SophiaG", "hutchinson", "sampled_cross_entropy"]


class SophiaG(Descent):
    """Clipped steps with a diagonal estimate of the curvature.

    ::

        m = betas[0] * m + (1 - betas[0]) * g
        w = w * (1 - lr * weight_decay) - lr * clip(m / max(rho * h, eps), -1, 1)

    ``h`` is a running mean of the curvature of every weight. It moves when ``update_hessian`` is called, every ``update_period``
    steps (``due`` says when)::

        if optimizer.due:
            sampled_cross_entropy(model(x)).backward()    # labels drawn from the model, not those of the data
            optimizer.update_hessian(bs=number of labels)
            optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()

    Before the first call, ``h`` is 0, everything is clipped, and the step is the sign of ``m``. The state is two buffers per parameter,
    as Adam's. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate, the longest step of a weight.
        betas: Decay rates of the mean gradient and of the curvature, each in [0, 1).
        rho: Factor of the curvature; a weight is clipped where ``abs(m)`` exceeds ``rho * h``.
        weight_decay: Share of the weights, times ``lr``, by which they shrink at every step.
        update_period: Steps from one estimate of the curvature to the next.
        eps: Smallest denominator, for weights without curvature or with negative one.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``; the kernel steps all tensors that are updated together in one launch.

    Raises:
        ValueError: If an option is out of range.
        RuntimeError: If a gradient is sparse, or ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([0.5, 1.0]))
        >>> optimizer = SophiaG([weight], lr=1.0, betas=(0.0, 0.0), rho=1.0, weight_decay=0.0)
        >>> optimizer.update_hessian([torch.tensor([100.0, 0.01])])  # one sharp direction, one flat one
        >>> weight.grad = weight.data * torch.tensor([100.0, 0.01])
        >>> optimizer.step()
        >>> weight.data  # Newton's step
        tensor([0., 0.])
    """

    def __init__(
        self, params: ParamsT, lr: float = 6e-4, betas: tuple[float, float] = (0.965, 0.99), rho: float = 0.04,
        weight_decay: float = 0.1, update_period: int = 10, eps: float = 1e-15, *,
        foreach: bool | None = None, maximize: bool = False, backend: str = "auto",
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, rho=rho, weight_decay=weight_decay, update_period=update_period, eps=eps,
                         foreach=foreach, maximize=maximize, backend=backend)

    def check(self, options: dict) -> None:
        super().check(options)
        if not options["rho"] > 0:
            raise ValueError(f"rho={options['rho']} is not above 0")
        if not options["eps"] > 0:
            raise ValueError(f"eps={options['eps']} is not above 0; a weight without gradient and curvature would be 0 / 0")
        if not (isinstance(options["update_period"], int) and options["update_period"] >= 1):
            raise ValueError(f"update_period={options['update_period']} is not a whole number of 1 or more")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        m, h = state.buffer("m"), state.buffer("h")
        if applies(group["backend"], w, m, h):
            return fused("sophia", w, g, m, h, lr=group["lr"], decay=group["weight_decay"], betas=(group["betas"][0], group["rho"]),
                         eps=group["eps"])
        m.mul_(group["betas"][0]).add_(g, alpha=1 - group["betas"][0])
        size = (h * group["rho"]).clamp_min(group["eps"])
        direction = (m / size).clamp_max(1.0).clamp_min(-1.0)
        w.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction, alpha=-group["lr"])

    @property
    def due(self) -> bool:
        """Whether the curvature is to be estimated before the next step."""
        taken = max((self.state[p].get("step", 0) for group in self.param_groups for p in group["params"] if p in self.state), default=0)
        return taken % self.param_groups[0]["update_period"] == 0

    @torch.no_grad()
    def update_hessian(self, curvature: Sequence[Tensor] | None = None, *, bs: int | None = None) -> None:
        """Takes a new estimate of the curvature into the running mean.

        Args:
            curvature: One tensor for each parameter that has a gradient (or for each parameter, where none has one), such as what
                ``hutchinson`` returns.
            bs: Instead of ``curvature``: how many labels the mean loss was over whose gradients the parameters hold. The estimate is
                then ``bs * gradient**2``.
        """
        if (curvature is None) == (bs is None):
            raise ValueError("update_hessian takes either curvature or bs")
        all_params = [(p, group) for group in self.param_groups for p in group["params"]]
        todo = [(p, group) for p, group in all_params if p.grad is not None] or all_params * (bs is None)
        if curvature is not None and len(curvature) != len(todo):
            raise ValueError(f"curvature has {len(curvature)} tensors for {len(todo)} parameters")
        for i, (p, group) in enumerate(todo):
            new = p.grad if curvature is None else curvature[i]
            if new.shape != p.shape:
                raise ValueError(f"curvature[{i}] has shape {tuple(new.shape)}; expected {tuple(p.shape)}")
            value, new = (torch.view_as_real(x) if x.is_complex() else x for x in (p, new))
            h = State([self.state[p]], [value], [p.ndim], many=False).buffer("h")
            h.lerp_(new if curvature is not None else bs * new * new, 1 - group["betas"][1])

    @torch.no_grad()
    def clipped(self) -> float:
        """The share of weights whose next step is clipped as things stand: near 1, this is sign descent."""
        cut = total = 0
        for group in self.param_groups:
            for p in group["params"]:
                if "m" in self.state.get(p, {}):
                    m, h = self.state[p]["m"], self.state[p]["h"]
                    cut += int((m.abs() >= (group["rho"] * h).clamp(min=group["eps"])).sum())
                    total += m.numel()
        return cut / total if total else 0.0


def hutchinson(loss: Tensor, params: Iterable[Tensor], generator: torch.Generator | None = None) -> list[Tensor]:
    """One unbiased, noisy estimate of the diagonal of the Hessian: ``u * (H u)`` with normal ``u``.

    Args:
        loss: Loss, still with its graph.
        params: What the Hessian is of.
        generator: Source of ``u``.

    Returns:
        One tensor for each parameter.

    Examples:
        >>> w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        >>> mean = sum(hutchinson((w**2).sum(), [w])[0] for _ in range(2000)) / 2000
        >>> bool(((mean - 2).abs() < 0.4).all())
        True
    """
    expect("loss", loss, "")
    params = list(params)
    grads = torch.autograd.grad(loss, params, create_graph=True)
    probes = [torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=generator) for p in params]
    products = torch.autograd.grad(grads, params, grad_outputs=probes)
    return [u * Hu for u, Hu in zip(probes, products)]


def sampled_cross_entropy(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The mean cross-entropy of labels that are drawn from the model's own softmax.

    Its gradient, squared and times the number of labels, is in the mean the diagonal of the Gauss-Newton matrix, which for this
    loss is the Fisher matrix. With the labels of the data it is not.

    Args:
        logits: Scores of the classes.
        generator: Source of the labels.

    Shapes:
        logits (..., classes) -> ()

    Examples:
        >>> sampled_cross_entropy(torch.tensor([[50.0, 0.0], [0.0, 50.0]]))  # a sure model agrees with itself
        tensor(0.)
    """
    expect("logits", logits, "... classes")
    flat = logits.reshape(-1, logits.shape[-1])
    labels = torch.multinomial(flat.detach().softmax(-1), 1, generator=generator).squeeze(-1)
    return cross_entropy(flat, labels)
