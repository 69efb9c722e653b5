"""Adafactor: Adam's second moment of a matrix, kept as its row sums and column sums.

Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5, and section 8 for the relative step.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from vocab.optimize import Descent, State, Tensors, each

__all__ = ["Adafactor", "rms", "rank_one"]


class Adafactor(Descent):
    """Adaptive rates for every weight from n + m numbers of an n x m matrix.

    The last two dimensions of a tensor are its rows and columns; a vector keeps its second moment whole. For a matrix::

        rows = beta * rows + (1 - beta) * (g**2 + eps[0]).mean(-1)        beta = 1 - t**decay_rate
        columns = beta * columns + (1 - beta) * (g**2 + eps[0]).mean(-2)
        u = g / sqrt(rank_one(rows, columns))
        u = u / max(1, rms(u) / clip_threshold)
        w = w - lr_t * u        lr_t = max(eps[1], rms(w)) * min(0.01, 1 / sqrt(t))

    ``lr_t`` is the relative step; ``relative_step=False`` takes ``lr`` instead of the minimum, ``scale_parameter=False`` leaves the
    factor before it out. All options but ``params`` can be set for each parameter group.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        lr: Learning rate, where ``relative_step`` is off; otherwise ``None``.
        eps: What is added to squared gradients, and the smallest size that a tensor of weights is taken for.
        clip_threshold: Largest root mean square of an update, before the learning rate.
        decay_rate: Power of the step's number, below 0; the second moment forgets the share ``t**decay_rate`` at step ``t``.
        beta1: Decay rate of the mean of updates, in [0, 1); ``None`` keeps none, and its memory is saved.
        weight_decay: Share of the weights, times ``lr_t``, by which they shrink at every step.
        scale_parameter: Whether steps are relative to the root mean square of the weights.
        relative_step: Whether the rate follows from the step's number.
        warmup_init: Whether the relative rate begins at 1e-6 and grows by 1e-6 a step, up to ``1 / sqrt(t)``.
        foreach: Accepted as in every optimizer here; each tensor is factored by itself all the same.
        maximize: Whether to climb instead of descend.

    Raises:
        ValueError: If an option is out of range, or ``lr`` and ``relative_step`` exclude each other.
        RuntimeError: If a gradient is sparse.

    Examples:
        >>> weight = torch.nn.Parameter(torch.ones(3, 4))
        >>> optimizer = Adafactor([weight])
        >>> (weight * 1000).sum().backward()
        >>> optimizer.step()
        >>> weight.data[0]  # by a hundredth of their root mean square
        tensor([0.9900, 0.9900, 0.9900, 0.9900])
        >>> optimizer.state[weight]["rows"].numel() + optimizer.state[weight]["columns"].numel()  # instead of 12
        7
    """

    def __init__(
        self, params: ParamsT, lr: float | None = None, eps: tuple[float, float] = (1e-30, 1e-3), clip_threshold: float = 1.0,
        decay_rate: float = -0.8, beta1: float | None = None, weight_decay: float = 0.0, scale_parameter: bool = True,
        relative_step: bool = True, warmup_init: bool = False, *, foreach: bool | None = None, maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, clip_threshold=clip_threshold, decay_rate=decay_rate, beta1=beta1,
                         weight_decay=weight_decay, scale_parameter=scale_parameter, relative_step=relative_step,
                         warmup_init=warmup_init, foreach=foreach, maximize=maximize)

    def check(self, options: dict) -> None:
        super().check({"weight_decay": options["weight_decay"]})
        lr, relative = options["lr"], options["relative_step"]
        if relative and lr is not None:
            raise ValueError(f"lr={lr} with relative_step=True, which sets the rate itself; leave lr at None, or relative_step=False")
        if not relative and (lr is None or not lr >= 0):
            raise ValueError(f"lr={lr} with relative_step=False; expected a number of 0 or more")
        if options["warmup_init"] and not relative:
            raise ValueError("warmup_init=True with relative_step=False, whose rate it is; warm lr up with a scheduler")
        if not all(e >= 0 for e in options["eps"]):
            raise ValueError(f"eps={options['eps']} are not both 0 or more")
        if not options["clip_threshold"] > 0:
            raise ValueError(f"clip_threshold={options['clip_threshold']} is not above 0")
        if not options["decay_rate"] < 0:
            raise ValueError(f"decay_rate={options['decay_rate']} is not below 0")
        if options["beta1"] is not None and not 0 <= options["beta1"] < 1:
            raise ValueError(f"beta1={options['beta1']} is not in [0, 1); None keeps no mean")

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict) -> None:
        stores = state.stores if state.many else state.stores[0]
        each(lambda w, g, store: self._move(w, g, store, t, group), w, g, stores)

    @staticmethod
    def _move(w: Tensor, g: Tensor, store: dict, t: int, group: dict) -> Tensor:
        """One tensor's step, whose rows and columns are its own."""
        if g.dtype in (torch.float16, torch.bfloat16):
            g = g.float()  # 1e-30 is 0 in half precision, and 0 / sqrt(0) is NaN
        small, smallest = group["eps"]
        rate = min(1e-6 * t if group["warmup_init"] else 1e-2, 1 / math.sqrt(t)) if group["relative_step"] else group["lr"]
        if group["scale_parameter"]:
            rate = rate * rms(w).clamp(min=smallest)
        forgotten = t ** group["decay_rate"]  # all of it at the first step, so no bias needs correction
        squared = g * g + small

        def mean(name: str, value: Tensor) -> Tensor:
            old = store.get(name)
            store[name] = value if old is None else old + forgotten * (value - old)
            return store[name]

        if w.ndim >= 2:
            second = rank_one(mean("rows", squared.mean(-1)), mean("columns", squared.mean(-2)))
        else:
            second = mean("v", squared)
        u = g * second.rsqrt()
        u = rate * u / (rms(u) / group["clip_threshold"]).clamp(min=1.0)
        if group["beta1"] is not None:
            u = store["m"] = group["beta1"] * store.get("m", 0.0) + (1 - group["beta1"]) * u
        return w.sub_(group["weight_decay"] * rate * w).sub_(u)


def rank_one(rows: Tensor, columns: Tensor) -> Tensor:
    """The matrix that has these means of rows and columns and is a product of two vectors.

    Args:
        rows: Mean of each row.
        columns: Mean of each column.

    Shapes:
        rows (..., N), columns (..., M) -> (..., N, M)

    Examples:
        >>> rank_one(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor([[0.5000, 1.0000, 1.5000],
                [1.5000, 3.0000, 4.5000]])
    """
    return (rows / rows.mean(-1, keepdim=True)).unsqueeze(-1) * columns.unsqueeze(-2)


def rms(x: Tensor) -> Tensor:
    """The root of the mean square of all numbers of ``x``.

    Args:
        x: Any tensor.

    Examples:
        >>> rms(torch.tensor([[1.0, -7.0]]))
        tensor(5.)
    """
    return x.square().mean().sqrt()
