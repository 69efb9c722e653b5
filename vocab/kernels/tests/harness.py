"""What the kernels' tests share: poisoned memory, a backward grid, deliberately broken copies."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from vocab.kernels import specs
from vocab.kernels.interpret import interpreting

MARGIN = 8192  # numbers before and after every buffer, more than any block of the tests is wide
POISON = {torch.uint8: 173, torch.int32: -7_777_777, torch.int64: -7_777_777}
SPECS = specs()
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
_counter = itertools.count()


def own(name):
    """The tests that an operation has for itself, with its MUTANTS and what of it triton-viz can follow."""
    return importlib.import_module(f"vocab.kernels.tests.test_{name}")


def free_memory_or_skip(gigabytes):
    if torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
        pytest.skip(f"needs CUDA with {gigabytes} GiB free")


def outputs(spec, inputs, **options):
    """What ``run`` returns, as a tuple."""
    found = spec.run(*inputs, **options)
    return found if isinstance(found, tuple) else (found,)


def poison(dtype):
    return POISON.get(dtype, torch.nan)


def embedded(x):
    """A copy of ``x`` in the middle of poison, so that reading outside of it shows."""
    buffer = torch.full((x.numel() + 2 * MARGIN,), poison(x.dtype), dtype=x.dtype)
    copy = buffer[MARGIN : MARGIN + x.numel()].view(x.shape)
    copy.copy_(x.detach())
    return copy.requires_grad_(x.requires_grad)


@contextmanager
def poisoned_memory(monkeypatch):
    """``torch.empty`` gives poison between poisoned margins; whoever wrote into a margin fails on leaving."""
    buffers = []

    def empty(*shape, dtype=torch.float32, device="cpu"):
        shape = torch.Size(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
        buffer = torch.full((shape.numel() + 2 * MARGIN,), poison(dtype), dtype=dtype, device=device)
        buffers.append((buffer, shape.numel()))
        return buffer[MARGIN : MARGIN + shape.numel()].view(shape)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        yield
    for buffer, used in buffers:
        for margin in (buffer[:MARGIN], buffer[MARGIN + used :]):
            untouched = margin.isnan() if buffer.dtype.is_floating_point else margin == poison(buffer.dtype)
            assert untouched.all(), "a kernel wrote outside of its buffer"


@contextmanager
def bounds_checked(monkeypatch):
    """Every address that an interpreted kernel touches must lie in one of its arguments."""
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    allowed, outside = [], []
    prepare, load, store = GridExecutor._init_args_hst, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def span(x):  # of a view, from its first number to its last
        return 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride())) if x.numel() else 0

    def remember(self, args_dev, kwargs):
        args, named = prepare(self, args_dev, kwargs)
        tensors = [x for x in (*args, *named.values()) if isinstance(x, torch.Tensor)]
        # A table of addresses says whose they are.
        tensors += [y for x in args_dev for y in getattr(x, "reached", ())]
        allowed[:] = [(x.data_ptr(), span(x) * x.itemsize) for x in tensors]
        return args, named

    def look(ptrs, mask):
        assert mask.data.dtype == bool  # Triton 3.9 takes nothing else for a mask
        touched = ptrs.data[np.broadcast_to(mask.data.astype(bool), ptrs.data.shape)].astype(np.int64)
        inside = np.zeros(touched.shape, dtype=bool)
        for start, size in allowed:
            inside |= (touched >= start) & (touched < start + size)
        outside.extend(touched[~inside])

    def checked_load(self, ptrs, mask, *rest):
        look(ptrs, mask)
        return load(self, ptrs, mask, *rest)

    def checked_store(self, ptrs, value, mask, *rest):
        look(ptrs, mask)
        return store(self, ptrs, value, mask, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(GridExecutor, "_init_args_hst", remember)
        patch.setattr(InterpreterBuilder, "create_masked_load", checked_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", checked_store)
        yield
    assert not outside, f"{len(outside)} accesses outside of the kernel's arguments"


@contextmanager
def reversed_grid(monkeypatch):
    """Programs run last to first: a result that needs another program's result changes."""
    from triton.runtime.interpreter import InterpreterBuilder

    def set_grid_idx(self, x, y, z):
        self.grid_idx = tuple(n - 1 - i for n, i in zip(self.grid_dim, (x, y, z)))

    with monkeypatch.context() as patch:
        patch.setattr(InterpreterBuilder, "set_grid_idx", set_grid_idx)
        yield


def results(spec, inputs, variant, backend):
    """Outputs and, where there are any, gradients for a gradient that is no constant."""
    found = outputs(spec, inputs, **variant, backend=backend)
    wanted = [x for x in inputs if x.requires_grad]
    floats = [y for y in found if y.requires_grad]
    if not floats:
        return found
    torch.manual_seed(3)
    gradients = torch.autograd.grad(floats, wanted, [torch.randn(y.shape).to(y) for y in floats], allow_unused=True)
    return *found, *(torch.zeros_like(x) if g is None else g for x, g in zip(wanted, gradients))


@contextmanager
def unless_refused():
    """Goes on where the kernel says that it cannot run with these sizes and this dtype."""
    try:
        yield
    except RuntimeError as error:
        if "cannot run with backend='triton'" not in str(error):
            raise


def relative(ours, reference):
    """L2 norm of the difference over that of the reference; NaN anywhere counts as infinitely wrong."""
    assert ours.shape == reference.shape and ours.dtype == reference.dtype
    difference = (ours - reference).double().norm() / reference.double().norm().clamp(min=1e-300)
    return difference.nan_to_num(nan=float("inf")).item()


def check(spec, sizes, dtype, monkeypatch, variants=None):
    """The interpreted kernel against plain torch, on poisoned memory; raises AssertionError where they differ."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3}[dtype]
    for variant in spec.variants if variants is None else variants:
        torch.manual_seed(0)
        inputs = spec.inputs(sizes, dtype, "cpu")
        expected = results(spec, inputs, variant, "torch")
        inputs = [embedded(x) for x in inputs]
        with poisoned_memory(monkeypatch), bounds_checked(monkeypatch):
            found = results(spec, inputs, variant, "triton")
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            assert relative(a, b) <= tolerance, f"result {i} of {spec.name} {sizes} {variant}: off by {relative(a, b):.2g}"


def altered(name, old, new, folder):
    """A copy of a kernel's file with one piece of source replaced and operators of its own."""
    path = Path(sys.modules[f"vocab.kernels.{name}"].__file__)
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} occurs {source.count(old)} times in {path.name}"
    number = next(_counter)
    file = Path(folder) / f"altered_{number}.py"
    file.write_text(source.replace(old, new).replace('"vocab::', f'"altered_{number}::'), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"altered_{number}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_noticed(name, old, new, monkeypatch, folder):
    """Fails unless ``check`` rejects the altered kernel."""
    module = altered(name, old, new, folder)
    with interpreting(module):
        try:
            check(module.SPEC, module.SPEC.probe, torch.float32, monkeypatch)
        except AssertionError:
            return
    raise AssertionError(f"no check notices {old!r} -> {new!r}")
