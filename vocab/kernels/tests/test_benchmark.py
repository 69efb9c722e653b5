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


@pytest.mark.interp
@pytest.mark.parametrize("name", [n for n in NAMES if "backward" in SPECS[n].directions and SPECS[n].smooth])
def test_gate_stops_a_wrong_gradient(name):
    spec = SPECS[name]

    def wrong(*x, backend):
        found = outputs(spec, x, backend=backend)
        for y in found:
            if y.requires_grad and backend == "triton":
                y.register_hook(lambda g: g * 1.001)
        return found

    with interpreting():
        assert "gradient" in bench.gate(dataclasses.replace(spec, run=wrong), spec.inputs(spec.probe, torch.float32, "cpu"))


@pytest.mark.interp
@pytest.mark.parametrize("name", NAMES)
def test_measures_every_provider_in_every_direction_and_leaves_out_what_is_wrong(name, monkeypatch, tmp_path):
    """The whole way but for the clock, which needs a GPU: plain torch, compiled or not, takes 3 times as long as the kernel."""
    spec = SPECS[name]
    asked = []

    def timed(run, inputs, direction):
        asked.append((run, direction))
        slow, graph = (3.0, True) if run.__name__ == "eager" else (1.0, run.__name__ != "_sdpa")
        return {"p50_ms": slow, "p20_ms": slow, "p80_ms": slow, "spread": 0.0, "graph": graph, "no_graph_p50_ms": 2 * slow, "launch_us": 1.0}

    monkeypatch.setattr(bench, "timed", timed)
    monkeypatch.setattr(bench, "DEVICE", "cpu")
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "kernels.jsonl")
    machine, limits = {"gpu": "none", "date": "2026-01-01"}, {"bandwidth": 1e9, "flops": {"float32": 1e9}}
    small = dataclasses.replace(spec, shapes={"probe": spec.probe})
    with interpreting():
        assert bench.measure(small, "float32", torch.float32, machine, limits) == []
        directions = [*spec.directions, *(["both"] if len(spec.directions) > 1 else [])]
        assert [(r["provider"], r["direction"]) for r in bench.recorded()] == [(p, d) for d in directions for p in bench.providers(spec)]
        assert all(r["ratio"] == (3.0 if r["provider"] in ("eager", "compile") else 1.0) for r in bench.recorded() if r["provider"] != "triton")
        broken = dataclasses.replace(small, run=lambda *x, backend: tuple(2 * y if backend == "triton" else y for y in outputs(spec, x, backend=backend)))
        assert "is not measured" in bench.measure(broken, "float32", torch.float32, machine, limits)[0]
    assert len(bench.recorded()) == len(asked)


def test_an_advantage_that_shrank_by_more_than_a_tenth_is_reported():
    row = {"op": "scan", "shape": "long", "dtype": "bfloat16", "direction": "forward", "provider": "eager", "gpu": "H200", "ratio": 4.0}
    before = [{**row, "ratio": 9.0}, row, {**row, "shape": "short"}, {**row, "op": "other"}, {**row, "provider": "triton", "ratio": 1.0}]
    now = [{**row, "ratio": 3.0}, {**row, "shape": "short", "ratio": 3.9}, {**row, "op": "other", "ratio": 3.7}, {**row, "op": "new", "ratio": 0.1}]
    assert bench.lost(before, now) == ["scan kept 86% of its advantage over 2 measurements"]  # the root of 0.75 times 0.975
    assert bench.lost(before, [{**r, "gpu": "another"} for r in now]) == [] and bench.lost([], now) == []


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
