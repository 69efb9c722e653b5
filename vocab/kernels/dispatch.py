"""Which implementation of an operation runs: plain torch or its Triton kernel.

Importing this works without Triton and without a GPU; only asking for the kernel there is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # no wheels for macOS, and an optional dependency elsewhere
    triton = tl = None

__all__ = ["BACKENDS", "accumulate_in", "accumulator", "jit", "padded", "register", "tl", "triton", "use_triton", "watch"]

BACKENDS = ("auto", "torch", "triton")
interpreted = bool(triton and triton.knobs.runtime.interpret)  # TRITON_INTERPRET=1; `interpreting` changes it too
_watchers: list[list[str]] = []


def jit(function: Callable | None = None, **options) -> Callable:
    """``triton.jit``, or the function itself where Triton is missing, so that the file can still be imported."""
    if function is None:
        return lambda f: jit(f, **options)
    return triton.jit(function, **options) if triton else function


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in: at least float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def accumulate_in(dtype: torch.dtype):
    """``accumulator`` in Triton's own words, for a kernel's ``ACC``."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def padded(x: Tensor, *axes: int) -> Tensor:
    """``x`` with zeros behind it up to a multiple of 16 along ``axes``, given from the end: -1, -2 ...

    For products, which zeros do not change. Rows that begin at such multiples are read many numbers at a time; others take so
    many more registers that some spill.
    """
    behind = [-x.shape[axis] % 16 if axis in axes else 0 for axis in range(-1, min(axes) - 1, -1)]
    return F.pad(x, [n for number in behind for n in (0, number)]) if any(behind) else x


def use_triton(
    op: str, backend: str, tensor: Tensor, *, limit: str | None = None, worthwhile: bool = True
) -> bool:
    """Decides between the kernel and plain torch, and tells whoever watches.

    Args:
        op: The operation's name.
        backend: ``"torch"``, ``"triton"`` (the kernel or an error), or ``"auto"``: the kernel where it can run on a GPU
            and the work is large enough to pay for its launch.
        tensor: The main input; its device decides.
        limit: What about these inputs the kernel cannot do, as a sentence; ``None`` if nothing.
        worthwhile: Whether the work is above the operation's size threshold.

    Raises:
        ValueError: If ``backend`` is none of the three.
        RuntimeError: If ``"triton"`` was asked for and cannot run; the message says what is missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; expected one of {', '.join(map(repr, BACKENDS))}")
    obstacle = limit
    if triton is None:
        obstacle = "Triton is not installed here"
    elif not tensor.is_cuda and not interpreted:
        obstacle = f"the kernel needs a CUDA tensor, not one on {tensor.device} (vocab.kernels.interpret runs it without a GPU)"
    if backend == "triton" and obstacle:
        raise RuntimeError(f"{op} cannot run with backend='triton': {obstacle}; backend='torch' computes the same")
    chosen = backend == "triton" or (backend == "auto" and not obstacle and tensor.is_cuda and worthwhile)
    if _watchers and not torch.compiler.is_compiling():
        for seen in _watchers:
            seen.append(f"{op}:{'triton' if chosen else 'torch'}")
    return chosen


@contextmanager
def watch() -> Iterator[list[str]]:
    """Collects which path each operation takes, in order, as ``"op:torch"`` or ``"op:triton"``."""
    seen: list[str] = []
    _watchers.append(seen)
    try:
        yield seen
    finally:
        # Nested watchers hold equal lists: remove this one, not the first that compares equal.
        del _watchers[next(i for i, other in enumerate(_watchers) if other is seen)]


def register(name: str, schema: str, *, launch: Callable, plain: Callable, fake: Callable) -> Callable:
    """Registers one operator and returns its bound overload.

    ``define`` and ``impl`` cost half of what ``custom_op`` adds to every call, and unlike ``triton_op`` the result
    passes through fake tensors when the kernel is interpreted.

    Args:
        name: ``namespace::operator``.
        schema: Its arguments and results; nothing in it is mutated.
        launch: Allocates the results and launches the kernel.
        plain: The same results with plain torch, for a CPU that does not interpret.
        fake: Empty results with the same shapes, dtypes and strides.
    """
    torch.library.define(name, schema)
    torch.library.impl(name, "CUDA", launch)
    torch.library.impl(name, "CPU", lambda *args: (launch if interpreted else plain)(*args))
    torch.library.register_fake(name, fake)
    namespace, operator = name.split("::")
    return getattr(getattr(torch.ops, namespace), operator).default
