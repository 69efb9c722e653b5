"""Compiles every stored configuration for Hopper, without a GPU, and looks at what came out."""

import json
import re

import pytest
import torch

from benchmarks import gate
from vocab.kernels import dispatch, specs
from vocab.kernels.tests.harness import results, unless_refused

triton = pytest.importorskip("triton", reason="Triton is not installed")

SHARED_MEMORY = 227 * 1024
# Bytes of a thread at the odd sizes of the tests: numbers of channels and of states that no model has.
SPILLED = {"selective_scan": {"_forward_kernel": 8, "_backward_kernel": 24}}
BUILDS = [pytest.param(s.name, build, id=gate.label(s.name, build)) for s in specs().values() for build in s.builds]
# One build a kernel, its first, for the checks that do not depend on the configuration.
KERNELS = [pytest.param(name, builds[kernel], id=f"{name}{kernel.removesuffix('_kernel')}")
           for name, builds in {s.name: {b.kernel: b for b in reversed(s.builds)} for s in specs().values()}.items()
           for kernel in sorted(builds)]  # fmt: skip


@pytest.fixture(autouse=True)
def _not_interpreted():
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing can be compiled in this process")


def recorded():
    return {line["config"]: line for line in map(json.loads, gate.RESULTS.read_text(encoding="utf-8").splitlines())}


@pytest.mark.aot
@pytest.mark.parametrize(("name", "build"), BUILDS)
def test_compiles_for_sm_90_within_its_resources(name, build):
    kernel = gate.compiled(name, build)
    used = gate.resources(kernel.asm["cubin"])
    record = recorded()[gate.label(name, build)]
    assert kernel.metadata.shared <= SHARED_MEMORY
    instructions = kernel.asm["ptx"]
    found = "wgmma" if "wgmma" in instructions else "mma" if "mma.sync" in instructions else ""
    assert found == build.tensor_cores
    # The trace of a transposed accumulator, which Triton 3.4 to 3.7 multiplies wrongly on Hopper.
    assert not re.search(r"local_alloc[^\n]*#linear", kernel.asm["ttgir"])
    # LOCAL stays 0 even where registers spill: since sm_90 the spills are counted as stack.
    spilled = used["LOCAL"] + used["STACK"]
    if record["triton"] == triton.__version__:
        assert not spilled, f"registers spill: {used}"
        assert (record["registers"], record["shared"]) == (used["REG"], kernel.metadata.shared), "./dev bench gate renews the record"
    elif spilled:
        pytest.skip(f"Triton {triton.__version__} spills {spilled} bytes; what is stored was chosen with {record['triton']}, which spills none")


@pytest.mark.aot
def test_the_report_names_every_stored_configuration_and_no_other():
    names = [gate.label(*p.values) for p in BUILDS]
    assert len(set(names)) == len(names), "two configurations have one name"
    assert list(recorded()) == names


@pytest.mark.aot
@pytest.mark.parametrize(("name", "build"), KERNELS)
def test_compiles_when_a_size_is_one(name, build):
    gate.compiled(name, build, ones=True)


@pytest.mark.aot
def test_the_gate_sees_spilled_registers():
    name, build = next(p.values for p in KERNELS if p.values[0] == "rms_norm")
    assert gate.resources(gate.compiled(name, build, maxnreg=24).asm["cubin"])["STACK"] > 0


class _NoGPU:
    """What Triton's launcher asks of a driver, for a Hopper GPU that runs nothing: all but the last step of a launch is the real one."""

    def __init__(self):
        self.launched, self.spilled, self.utils = [], {}, self

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*gate.HOPPER)

    def get_current_device(self):
        return "none"  # a place of its own among what is compiled

    def get_current_stream(self, device):
        return 0

    def get_device_properties(self, device):
        return {"max_shared_mem": SHARED_MEMORY}

    def load_binary(self, name, binary, shared, device):
        used = gate.resources(binary)
        if spilled := used["LOCAL"] + used["STACK"]:
            self.spilled[name] = max(spilled, self.spilled.get(name, 0))
        return None, name, 0, 0, 1024  # module, function, registers, spills, threads at most

    def launcher_cls(self, source, metadata):
        return lambda x, y, z, stream, function, *rest: self.launched.append((function, (x, y, z)))


@pytest.mark.aot
@pytest.mark.parametrize("name", [s.name for s in specs().values()])
def test_every_launch_binds_specializes_and_compiles_as_on_a_gpu(name, monkeypatch):
    """The interpreter takes arguments that the compiler refuses. Sizes and strides are here the odd ones of the tests, which may not spill either."""
    from triton.runtime.driver import driver

    gpu, spec = _NoGPU(), specs()[name]
    monkeypatch.setattr(driver, "_active", gpu)
    monkeypatch.setattr(dispatch, "interpreted", True)  # operators launch for CPU tensors, but what they launch is not interpreted
    kernels, seen = {b.kernel for b in spec.builds}, set()
    for sizes in (spec.probe, *spec.gpu):  # the others where the first does not need all kernels
        if not seen or kernels - seen:
            for variant in spec.variants:
                with unless_refused():
                    results(spec, spec.inputs(sizes, torch.bfloat16, "cpu"), variant, "triton")
            seen = {function for function, _ in gpu.launched}
    assert seen and not kernels - seen
    assert all(0 < x < 2**31 and 0 < y < 2**16 and 0 < z < 2**16 for _, (x, y, z) in gpu.launched)
    if {line["triton"] for line in recorded().values()} == {triton.__version__}:  # the compiler that the configurations were chosen with
        assert gpu.spilled == SPILLED.get(name, {})
