"""What the optimizers of the encyclopedia share: checked groups, the closure, and one formula for a tensor or for many at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

__all__ = ["Descent", "State", "Tensors", "each"]


class Tensors(list):
    """Many tensors, computed with as if they were one.

    ``+ - * /`` and every method that torch has as ``torch._foreach_<method>`` (``lerp_``, ``addcmul_``, ``sqrt``, ``sign`` ...) act on all of
    them; on a GPU that is a few launches instead of a few per tensor. Methods that end in ``_`` work in place.
    """

    def __getattr__(self, name: str) -> Callable:
        function = getattr(torch, f"_foreach_{name}", None)
        if function is None:
            raise AttributeError(f"torch has no _foreach_{name}")

        def method(*args, **options):
            result = function(self, *args, **options)
            return self if name.endswith("_") else Tensors(result)

        return method

    def __add__(self, other):
        return self.add(other)

    def __sub__(self, other):
        return self.sub(other)

    def __mul__(self, other):
        return self.mul(other)

    def __truediv__(self, other):
        return self.div(other)

    def __neg__(self):
        return self.neg()

    __radd__, __rmul__ = __add__, __mul__


def each(function: Callable[..., Tensor], *values: Tensor | Tensors) -> Tensor | Tensors:
    """``function`` of tensors; of lists, one tensor after the other, for what torch cannot do with many at once."""
    return Tensors(map(function, *values)) if isinstance(values[0], Tensors) else function(*values)


class State:
    """The buffers of the tensors that are updated together.

    Args:
        stores: Of each tensor, the dictionary in which the optimizer keeps its state.
        values: The tensors, complex ones as pairs of real numbers.
        ndims: Their numbers of dimensions, without the one for the pairs.
        many: Whether buffers are handed out as ``Tensors``.
    """

    def __init__(self, stores: list[dict[str, Any]], values: list[Tensor], ndims: list[int], many: bool) -> None:
        self.stores, self.values, self.many = stores, values, many
        self.ndim = ndims if many else ndims[0]

    def buffer(self, name: str, start: float = 0.0) -> Tensor | Tensors:
        """The buffer of this name, to be changed in place; filled with ``start`` where it is new."""
        for store, value in zip(self.stores, self.values):
            if name not in store:
                store[name] = torch.full_like(value, start, memory_format=torch.preserve_format)
        found = [store[name] for store in self.stores]
        return Tensors(found) if self.many else found[0]


class Descent(Optimizer):
    """An optimizer that is given by the formula of one step.

    A subclass passes its options to ``super().__init__`` and has ``update``, in which ``w``, ``g`` and the buffers are one tensor or many
    (``Tensors``): written with operators and methods that both have, one formula serves both. Complex parameters come as pairs of real numbers.
    Parameters without a gradient are left as they are, and their count of steps does not move.

    Args:
        params: Parameters, or dictionaries of parameter groups.
        foreach: Whether the tensors of a group are updated together; by default where all of them are on a GPU.
        maximize: Whether to climb instead of descend.
        options: What else a group has, with defaults.

    Raises:
        ValueError: If an option of a group is out of range.
        RuntimeError: If a gradient is sparse and the optimizer does not take such.
    """

    takes_sparse = False
    """Whether ``update`` can work with sparse gradients."""

    def __init__(self, params: ParamsT, *, foreach: bool | None = None, maximize: bool = False, **options: Any) -> None:
        super().__init__(params, {**options, "foreach": foreach, "maximize": maximize})

    def update(self, w: Tensor | Tensors, g: Tensor | Tensors, state: State, t: int, group: dict[str, Any]) -> None:
        """Changes ``w`` in place by step number ``t``, counted from 1; ``g`` is not to be changed."""
        raise NotImplementedError

    def check(self, options: dict[str, Any]) -> None:
        """Raises ``ValueError`` if an option of a group is out of range. A subclass adds what is its own."""
        for name in ("lr", "eps", "weight_decay"):
            if name in options and not options[name] >= 0:
                raise ValueError(f"{name}={options[name]} is not 0 or more")
        if "betas" in options and not all(0 <= beta < 1 for beta in options["betas"]):
            raise ValueError(f"betas={options['betas']} are not all in [0, 1)")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        # Groups bring their own options, so this, and not the constructor, is the place that sees them all.
        self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)

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
        todo = [(group, [p for p in group["params"] if p.grad is not None]) for group in self.param_groups]
        if not self.takes_sparse and any(p.grad.is_sparse for _, params in todo for p in params):  # before anything has moved
            raise RuntimeError(f"{type(self).__name__} takes no sparse gradients; build the embedding with sparse=False, "
                               "or use SparseAdam, Adagrad or SGD for it")
        for group, params in todo:
            many = group["foreach"]
            if many is None:
                many = bool(params) and all(p.is_cuda for p in params)
            for t, together in self._counted(params, many and not any(p.grad.is_sparse for p in params)):
                values = [torch.view_as_real(p) if p.is_complex() else p for p in together]
                grads = [torch.view_as_real(p.grad) if p.is_complex() else p.grad for p in together]
                if group["maximize"]:
                    grads = [-g for g in grads]
                state = State([self.state[p] for p in together], values, [p.ndim for p in together], many)
                self.update(Tensors(values) if many else values[0], Tensors(grads) if many else grads[0], state, t, group)
        return loss

    def _counted(self, params: list[Tensor], many: bool) -> list[tuple[int, list[Tensor]]]:
        """Counts the step, and puts together what can be updated together: the same step of tensors of one kind."""
        sets = defaultdict(list)
        for i, p in enumerate(params):
            t = self.state[p]["step"] = self.state[p].get("step", 0) + 1
            sets[(t, p.device, p.dtype) if many else (t, i)].append(p)
        return [(key[0], together) for key, together in sets.items()]
