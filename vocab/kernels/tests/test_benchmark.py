"""What of ``./dev bench kernels`` can be tried without a GPU."""

import dataclasses
import sys

import pytest
import torch

from benchmarks import kernels as bench
from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import SPECS, outputs

NAMES = sorted(SPECS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_without_a_gpu_it_says_so_and_writes_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results" / "kernels.jsonl")
    assert bench.main() == 2
    assert "no CUDA device" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.interp
@pytest.mark.parametrize("name", NAMES)
def test_gate_lets_the_kernel_pass_and_stops_a_wrong_one(name):
    spec = SPECS[name]
    inputs = spec.inputs(spec.probe, torch.float32, "cpu")

    def wrong(*x, backend):
        found = outputs(spec, x, backend=backend)
        return tuple(y * 1.001 if y.is_floating_point() and backend == "triton" else y for y in found)

    with interpreting():
        assert bench.gate(spec, inputs) is None
        assert "is off by" in bench.gate(dataclasses.replace(spec, run=wrong), inputs)


@pytest.mark.parametrize("name", NAMES)
def test_every_provider_that_is_installed_computes_the_same(name):
    """A baseline that computes something else would make its ratio worthless."""
    spec = SPECS[name]
    inputs = [x.detach() for x in spec.inputs(spec.probe, torch.float64, "cpu")]
    expected = bench.tensors(spec.run(*inputs, backend="torch"))
    for provider, run in bench.providers(spec).items():
        if provider in ("triton", "compile"):
            continue
        try:
            found = bench.tensors(run(*inputs))
        except ImportError:
            continue
        for ours, theirs in zip(found, expected):
            torch.testing.assert_close(ours, theirs, msg=lambda m, p=provider: f"{p}: {m}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_measured_shape_has_a_stored_configuration_and_a_cost(name, dtype):
    spec = SPECS[name]
    for sizes in spec.shapes.values():
        for direction in spec.directions:
            cost = spec.cost(sizes, dtype, direction)
            assert cost.bytes > 0 and cost.flops > 0
        if spec.builds:
            assert bench.used(spec, sizes, dtype), sizes
