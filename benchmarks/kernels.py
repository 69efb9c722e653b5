"""Measures every kernel against its alternatives on the GPU of this machine: ``./dev bench kernels``.

A kernel that is wrong is not measured. Times come from CUDA graphs that walk through copies of the inputs larger than the
L2 cache, so neither launches nor warm caches flatter anyone; what a launch costs the CPU, and what a call costs without a
graph, are columns of their own. Appends one line of JSON a measurement to benchmarks/results/kernels.jsonl. An operation
whose advantage over the others shrank by more than a tenth since it was last measured on such a GPU is a failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vocab.kernels import specs
from vocab.kernels.spec import POINTER, Build, Spec, random

RESULTS = Path(__file__).parent / "results" / "kernels.jsonl"
CACHE = 3 * 60 * 2**20  # three times the L2 cache of an H200
REPEATS = 7
BAND = 0.9  # what may be left of an advantage before it counts as lost
DEVICE = "cuda"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def main() -> int:
    ask = argparse.ArgumentParser(prog="./dev bench kernels", description=__doc__.splitlines()[0])
    ask.add_argument("--only", choices=sorted(specs()), help="one kernel instead of all")
    only = ask.parse_args().only
    if not torch.cuda.is_available():
        print("There is no CUDA device here, so nothing was measured; run this on a machine with an NVIDIA GPU.", file=sys.stderr)
        return 2
    machine = describe()
    limits = {"bandwidth": measure_bandwidth(), "flops": {name: measure_flops(dtype) for name, dtype in DTYPES.items()}}
    print(f"{machine['gpu']}: {limits['bandwidth'] / 1e12:.2f} TB/s copied, {limits['flops']['bfloat16'] / 1e12:.0f} bf16 TFLOP/s")
    before, wrong = recorded(), []
    for spec in specs().values():
        if only in (None, spec.name):
            for dtype_name, dtype in DTYPES.items():
                wrong += measure(spec, dtype_name, dtype, machine, limits)
    wrong += lost(before, recorded()[len(before) :])
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


def describe() -> dict:
    import triton

    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    ).stdout.split("\n")[0]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    return {
        "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__, "driver": driver,
        "commit": commit, "date": datetime.date.today().isoformat(),
    }  # fmt: skip


def measure(spec: Spec, dtype_name: str, dtype: torch.dtype, machine: dict, limits: dict) -> list[str]:
    """Appends the records of one kernel in one dtype; returns what was wrong."""
    wrong = []
    for shape, sizes in spec.shapes.items():
        torch.manual_seed(0)
        torch._dynamo.reset()  # every size is compiled for itself, as someone who always has this size would have it
        inputs = spec.inputs(sizes, dtype, DEVICE)
        try:
            fault = gate(spec, inputs)
        except RuntimeError as error:
            if "cannot run with backend='triton'" not in str(error):
                raise
            print(f"{spec.name} {shape} {dtype_name}: skipped, {error}")  # this dtype or width is refused, which is no fault
            continue
        if fault:
            wrong.append(f"{spec.name} {shape} {dtype_name} is not measured: {fault}")
            continue
        runs = providers(spec)
        for direction in (*spec.directions, *(["both"] if len(spec.directions) > 1 else [])):
            found = {}
            for provider, run in runs.items():
                try:
                    found[provider] = timed(run, inputs, direction)
                except ImportError:
                    continue
                except Exception as error:  # a baseline that fails must not stop the others
                    print(f"{spec.name} {shape} {dtype_name} {direction} {provider}: {type(error).__name__}: {error}")
                torch.cuda.empty_cache()
            parts = spec.directions if direction == "both" else (direction,)
            costs = [spec.cost(sizes, dtype, part) for part in parts]
            for provider, result in found.items():
                seconds = result["p50_ms"] / 1e3
                record = {
                    "op": spec.name, "shape": shape, "sizes": dict(sizes), "dtype": dtype_name, "direction": direction,
                    "provider": provider, **result,
                    "bandwidth_share": round(sum(c.bytes for c in costs) / seconds / limits["bandwidth"], 3),
                    "flops_share": round(sum(c.flops for c in costs) / seconds / limits["flops"][dtype_name], 3),
                    "target": spec.targets.get(provider, {}).get(shape),
                    "config": [f"{b.kernel}: {b.num_warps} warps, {b.num_stages} stages" for b in used(spec, sizes, dtype)],
                    **machine,
                }  # fmt: skip
                if provider != "triton" and "triton" in found:
                    # Like with like: what cannot be recorded into a graph is compared with the kernel outside of one.
                    timing = "p50_ms" if result["graph"] and found["triton"]["graph"] else "no_graph_p50_ms"
                    record["ratio"] = round(result[timing] / found["triton"][timing], 3)
                append(record)
                show(record)
    return wrong


def used(spec: Spec, sizes: dict, dtype: torch.dtype) -> list[Build]:
    """The stored configurations that these sizes and this dtype run with; dtypes that share a table are stored in bfloat16."""
    fits = [build for build in spec.builds if build.at(sizes)]
    kind = {id(build): next(t for t in build.signature.values() if t in POINTER.values()) for build in fits}
    for wanted in (dtype, torch.bfloat16):
        found = [build for build in fits if kind[id(build)] == POINTER[wanted]]
        if found:
            return found
    return []


def providers(spec: Spec) -> dict[str, Callable]:
    def eager(*x):
        return spec.run(*x, backend="torch")

    compiled = torch.compile(eager, fullgraph=True, dynamic=False)
    return {"triton": lambda *x: spec.run(*x, backend="triton"), "eager": eager, "compile": compiled, **spec.baselines}


def tensors(result) -> list[torch.Tensor]:
    return [y for y in (result if isinstance(result, tuple) else (result,)) if isinstance(y, torch.Tensor)]


def gate(spec: Spec, inputs: tuple) -> str | None:
    """What is wrong with the kernel's results and gradients on these inputs, compared with plain torch in float64."""
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs]
    try:
        truth = everything(spec, wide, "torch", inputs[0].dtype)
        found = {b: everything(spec, inputs, b, inputs[0].dtype) for b in ("triton", "torch")}
    except torch.OutOfMemoryError:
        return "the comparison in float64 does not fit the memory"
    for (name, exact), (_, ours), (_, plain) in zip(truth, found["triton"], found["torch"], strict=True):
        if not exact.is_floating_point():
            continue  # of two equally close rows either is right: their distances are compared
        error, theirs = (((y.double() - exact).norm() / exact.norm()).item() for y in (ours, plain))
        if not error <= 3 * theirs + 1e-5:
            return f"{name} is off by {error:.2g}, plain torch by {theirs:.2g}"
    return None


def everything(spec: Spec, inputs: list[torch.Tensor], backend: str, dtype: torch.dtype) -> list[tuple[str, torch.Tensor]]:
    """Results and, where rounding changes them by little, gradients for the same random upstream, rounded to ``dtype``."""
    found = tensors(spec.run(*inputs, backend=backend))
    named = [(f"result {i}", y.detach()) for i, y in enumerate(found)]
    wanted, floats = [x for x in inputs if x.requires_grad], [y for y in found if y.requires_grad]
    if spec.smooth and floats:
        torch.manual_seed(1)
        upstream = [random(y.shape, dtype, y.device).to(y.dtype) for y in floats]
        gradients = torch.autograd.grad(floats, wanted, upstream, allow_unused=True)
        named += [(f"gradient {i}", g) for i, g in enumerate(gradients) if g is not None]
    return named


def timed(run: Callable, inputs: tuple, direction: str) -> dict:
    """Quantiles of the time of one call, the spread of two series, memory, and what launching costs."""
    size = sum(x.numel() * x.itemsize for x in inputs)
    copies = [tuple(x.detach().clone().requires_grad_(x.requires_grad) for x in inputs) for _ in range(max(2, math.ceil(CACHE / size)))]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        calls = [prepare(run, x, direction) for x in copies]
        for _ in range(3):
            for call in calls:
                call()
        torch.cuda.synchronize()
        peak = memory(calls[0])
        start = time.perf_counter()
        for call in calls:
            call()
        launch = (time.perf_counter() - start) / len(calls)
        torch.cuda.synchronize()
        wall = quantiles(lambda: [call() for call in calls], len(calls))
    graph, replay = torch.cuda.CUDAGraph(), None
    try:
        with torch.cuda.graph(graph, stream=stream):
            for call in calls:
                call()
        replay = graph.replay
    except RuntimeError as error:  # it asks the GPU for a number on its way
        print(f"measured without a graph: {str(error).splitlines()[0]}")
        torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        first, second = (quantiles(replay or (lambda: [call() for call in calls]), len(calls)) for _ in range(2))
    return {
        "p20_ms": first[0], "p50_ms": first[1], "p80_ms": first[2], "repeats": REPEATS, "spread": round(abs(first[1] / second[1] - 1), 3),
        "graph": replay is not None, "no_graph_p50_ms": wall[1], "launch_us": round(launch * 1e6, 1), "peak_mib": round(peak / 2**20, 1),
        "copies": len(copies),
    }  # fmt: skip


def prepare(run: Callable, inputs: tuple, direction: str) -> Callable[[], object]:
    wanted = [x for x in inputs if x.requires_grad]
    if direction == "forward":
        def forward():
            with torch.no_grad():
                return run(*inputs)

        return forward
    outputs = [y for y in tensors(run(*inputs)) if y.requires_grad]
    gradients = [torch.randn_like(y) for y in outputs]
    if direction == "backward":
        return lambda: torch.autograd.grad(outputs, wanted, gradients, retain_graph=True)
    return lambda: torch.autograd.grad([y for y in tensors(run(*inputs)) if y.requires_grad], wanted, gradients)


def memory(call: Callable) -> int:
    """Peak bytes beyond what was there before."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def quantiles(call: Callable, calls: int) -> list[float]:
    """20th, 50th and 80th percentile of milliseconds a call, each sample at least 20 ms of work."""
    call()
    torch.cuda.synchronize()
    estimate = span(call, 1)
    rounds = max(1, math.ceil(20 / max(estimate, 1e-3)))
    samples = [span(call, rounds) / rounds / calls for _ in range(REPEATS)]
    deciles = statistics.quantiles(samples, n=10, method="inclusive")
    return [round(deciles[i], 6) for i in (1, 4, 7)]


def span(call: Callable, rounds: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(rounds):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def measure_bandwidth() -> float:
    """Bytes a second that a large copy reads and writes."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (quantiles(lambda: target.copy_(source), 1)[1] / 1e3)


def measure_flops(dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product; float32 without TF32, as the kernels compute it."""
    a = torch.randn(8192, 8192, device="cuda").to(dtype)
    return 2 * 8192**3 / (quantiles(lambda: a @ a, 1)[1] / 1e3)


def recorded() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def lost(before: list[dict], now: list[dict]) -> list[str]:
    """The operations whose geometric mean advantage fell out of the band, against the last measurement of the same on such a GPU."""
    names = ("op", "shape", "dtype", "direction", "provider", "gpu")
    old = {tuple(r[n] for n in names): r["ratio"] for r in before if "ratio" in r}
    changes: dict[str, list[float]] = {}
    for r in now:
        key = tuple(r[n] for n in names)
        if "ratio" in r and key in old:
            changes.setdefault(r["op"], []).append(r["ratio"] / old[key])
    means = {op: statistics.geometric_mean(found) for op, found in changes.items()}
    return [f"{op} kept {mean:.0%} of its advantage over {len(changes[op])} measurements" for op, mean in means.items() if mean < BAND]


def append(record: dict) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def show(record: dict) -> None:
    ratio = f"  {record['ratio']:.2f}x the kernel's time" if "ratio" in record else ""
    print(
        f"{record['op']} {record['shape']} {record['dtype']} {record['direction']:8} {record['provider']:16} "
        f"{record['p50_ms']:.4f} ms (p20 {record['p20_ms']:.4f}, p80 {record['p80_ms']:.4f}, two series {record['spread']:.1%} apart), "
        f"{record['bandwidth_share']:.0%} of bandwidth, launch {record['launch_us']} us{ratio}"
    )


if __name__ == "__main__":
    sys.exit(main())
