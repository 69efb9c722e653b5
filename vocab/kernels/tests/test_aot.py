"""Compiles every stored configuration for Hopper, without a GPU, and looks at what came out."""

import dataclasses
import importlib
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from vocab.kernels import specs

triton = pytest.importorskip("triton", reason="Triton is not installed")

HOPPER = ("cuda", 90, 32)
SHARED_MEMORY = 227 * 1024


def label(name, build):
    dtype = next(iter(build.signature.values())).strip("*")
    blocks = [f"{key.lower()}{value}" for key, value in build.constants.items() if "BLOCK" in key]
    flags = [key.lower() for key, value in build.constants.items() if value is True]
    return "-".join([name + build.kernel.removesuffix("_kernel"), dtype, *blocks, *flags])


BUILDS = [pytest.param(s.name, build, id=label(s.name, build)) for s in specs().values() for build in s.builds]
# One build a kernel, its first, for the checks that do not depend on the configuration.
KERNELS = [pytest.param(name, builds[kernel], id=f"{name}{kernel.removesuffix('_kernel')}")
           for name, builds in {s.name: {b.kernel: b for b in reversed(s.builds)} for s in specs().values()}.items()
           for kernel in sorted(builds)]  # fmt: skip


def compiled(name, build, *, ones=False, **more):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"vocab.kernels.{name}"), build.kernel)
    names = kernel.arg_names
    assert set(build.signature) | set(build.constants) == set(names), "the build names every argument of the kernel"
    signature = {n: build.signature.get(n, "constexpr") for n in names}
    constants = dict(build.constants)
    for parameter in kernel.params if ones else ():
        # At run time Triton turns an integer that is 1 into a constant, which has fewer methods than a tensor.
        if signature[parameter.name] == "i32" and not parameter.do_not_specialize:
            signature[parameter.name], constants[parameter.name] = "constexpr", 1
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")}
    constants = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages, **more}
    return triton.compile(source, target=GPUTarget(*HOPPER), options=options)


def resources(binary):
    """Registers, stack and local bytes a thread, from the tool that the Triton wheel brings."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}


@pytest.fixture(autouse=True)
def _not_interpreted():
    if triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is set: nothing can be compiled in this process")


@pytest.mark.aot
@pytest.mark.parametrize(("name", "build"), BUILDS)
def test_compiles_for_sm_90_within_its_resources(name, build):
    kernel = compiled(name, build)
    used = resources(kernel.asm["cubin"])
    assert kernel.metadata.shared <= SHARED_MEMORY
    # LOCAL stays 0 even where registers spill: since sm_90 the spills are counted as stack.
    assert used["LOCAL"] == 0 and used["STACK"] == 0, f"registers spill: {used}"
    assert ("wgmma" in kernel.asm["ptx"]) == build.tensor_cores
    # The trace of a transposed accumulator, which Triton 3.4 to 3.7 multiplies wrongly on Hopper.
    assert not re.search(r"local_alloc[^\n]*#linear", kernel.asm["ttgir"])


@pytest.mark.aot
@pytest.mark.parametrize(("name", "build"), KERNELS)
def test_compiles_when_a_size_is_one(name, build):
    compiled(name, build, ones=True)


@pytest.mark.aot
def test_the_gate_sees_spilled_registers():
    name, build = KERNELS[0].values
    assert resources(compiled(name, build, maxnreg=24).asm["cubin"])["STACK"] > 0
