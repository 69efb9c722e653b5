"""Every kernel in Triton's interpreter against plain torch: what holds for all of them."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vocab.kernels.interpret import interpreting
from vocab.kernels.tests import harness
from vocab.kernels.tests.harness import SPECS, check, outputs, own, relative, results


pytestmark = pytest.mark.interp
NAMES = sorted(SPECS)


@pytest.fixture(autouse=True)
def _interpreted():
    with interpreting():
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize(("name", "sizes"), [(n, s) for n in NAMES for s in SPECS[n].tails])
def test_equals_plain_torch_at_the_tails(name, sizes, dtype, monkeypatch):
    check(SPECS[name], sizes, dtype, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_accumulates_in_single(name, monkeypatch):
    check(SPECS[name], SPECS[name].probe, torch.float16, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_order_of_programs_makes_no_difference(name, monkeypatch):
    with harness.reversed_grid(monkeypatch):
        check(SPECS[name], SPECS[name].probe, torch.float64, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_strided_inputs_give_the_same_and_are_left_alone(name):
    spec = SPECS[name]
    plain = spec.inputs(spec.probe, torch.float64, "cpu")
    strided = []
    for x in plain:
        wide = torch.zeros(*(2 * n for n in x.shape), dtype=x.dtype)
        view = wide[tuple(slice(None, None, 2) for _ in x.shape)]
        view.copy_(x.detach())
        strided.append(view.requires_grad_(x.requires_grad))
    kept = [x.detach().clone() for x in strided]
    expected = results(spec, plain, spec.variants[0], "torch")
    for a, b in zip(results(spec, strided, spec.variants[0], "triton"), expected, strict=True):
        assert relative(a, b) <= 1e-12
    assert all(torch.equal(x, y) for x, y in zip(strided, kept))


@pytest.mark.parametrize("name", [n for n in NAMES if "backward" in SPECS[n].directions])
def test_gradient_of_a_sum_is_expanded_and_still_right(name):
    spec = SPECS[name]
    gradients = []
    for backend in ("triton", "torch"):
        torch.manual_seed(0)
        inputs = spec.inputs(spec.probe, torch.float64, "cpu")
        wanted = [x for x in inputs if x.requires_grad]
        # sum() hands back a gradient with strides of zero
        total = sum(y.sum() for y in outputs(spec, inputs, backend=backend) if y.requires_grad)
        gradients.append(torch.autograd.grad(total, wanted))
    for a, b in zip(*gradients, strict=True):
        # The sum of a softmax does not depend on its input: a gradient of nothing but rounding.
        assert relative(a, b) <= 1e-12 or max(a.norm(), b.norm()) <= 1e-12


@pytest.mark.parametrize("name", [n for n in NAMES if "backward" in SPECS[n].directions])
def test_gradient_when_only_one_result_is_used(name):
    spec = SPECS[name]
    gradients = []
    for backend in ("triton", "torch"):
        torch.manual_seed(0)
        inputs = spec.inputs(spec.probe, torch.float64, "cpu")
        wanted = [x for x in inputs if x.requires_grad]
        gradients.append([])
        for output in outputs(spec, inputs, **spec.variants[0], backend=backend):
            if output.requires_grad:
                found = torch.autograd.grad(output.square().sum(), wanted, retain_graph=True, allow_unused=True)
                gradients[-1] += [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found)]
    for a, b in zip(*gradients, strict=True):
        assert relative(a, b) <= 1e-12


def operator_calls(name):
    """The arguments with which ``run`` and its backward pass call the registered operators."""
    spec, calls = SPECS[name], []
    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "vocab":
                kept = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in args]
                calls.append((function, tuple(kept)))
            return function(*args, **(kwargs or {}))

    with Record():
        results(spec, spec.inputs(spec.probe, torch.float64, "cpu"), spec.variants[0], "triton")
    assert {f._schema.name.split("::")[1] for f, _ in calls} == set(spec.operators)
    return calls


@pytest.mark.parametrize("name", NAMES)
def test_registered_operators_pass_opcheck(name):
    for function, args in operator_calls(name):
        torch.library.opcheck(function, args)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_one_graph_and_agrees(name):
    spec = SPECS[name]
    torch._dynamo.reset()
    inputs = spec.inputs(spec.probe, torch.float64, "cpu")
    compiled = torch.compile(lambda *x: spec.run(*x, **spec.variants[0], backend="triton"), fullgraph=True, backend="aot_eager")

    class Compiled:
        run = staticmethod(lambda *x, backend: compiled(*x))

    for a, b in zip(results(Compiled, inputs, {}, "triton"), results(spec, inputs, spec.variants[0], "torch"), strict=True):
        assert relative(a, b) <= 1e-12


# What triton-viz cannot follow is left to the bounds check that every comparison above runs under.
SANITIZED = [name for name in NAMES if own(name).SANITIZED]
SANITIZE = """
import sys, torch, triton_viz
from triton.runtime.interpreter import InterpretedFunction
from triton_viz.clients import Sanitizer
from vocab.kernels.tests import harness

folder, *names = sys.argv[1:]
for which in ("sound", "broken"):
    for name in names:
        direction, mask, none = harness.own(name).SANITIZED
        module = harness.altered(name, mask, mask if which == "sound" else none, folder)
        for kernel, value in list(vars(module).items()):
            if isinstance(value, InterpretedFunction):
                setattr(module, kernel, triton_viz.trace(Sanitizer(abort_on_error=True))(value))
        inputs = module.SPEC.inputs(module.SPEC.probe, torch.float32, "cpu")
        # Between margins, so that what lies beyond one tensor is not by chance another.
        inputs = [harness.embedded(x if direction == "both" else x.detach()) for x in inputs]
        print("RUN", name, which)
        try:
            harness.results(module.SPEC, inputs, module.SPEC.variants[0], "triton")
        except SystemExit:
            pass
"""


def test_triton_viz_finds_no_access_out_of_bounds_and_would_find_one(tmp_path):
    pytest.importorskip("triton_viz", reason="triton-viz is not installed")
    # A process of its own: triton-viz patches the interpreter and does not put it back.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, "-c", SANITIZE, str(tmp_path), *SANITIZED], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    reports = dict(part.split("\n", 1) for part in run.stdout.split("RUN ")[1:])
    for name in SANITIZED:
        assert "ILLEGAL MEMORY ACCESS" not in reports[f"{name} sound"]
        assert "ILLEGAL MEMORY ACCESS" in reports[f"{name} broken"] and own(name).SANITIZED[2] in reports[f"{name} broken"]
