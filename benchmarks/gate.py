"""Compiles every stored configuration of every kernel for Hopper, without a GPU: ``./dev bench gate``.

Writes what came out, one line of JSON a configuration, to benchmarks/results/sm_90.jsonl: registers and stack of a thread,
shared memory of a program, instructions, and how many of them are tensor core products.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from vocab.kernels import specs
from vocab.kernels.dispatch import triton
from vocab.kernels.spec import Build

RESULTS = Path(__file__).parent / "results" / "sm_90.jsonl"
HOPPER = ("cuda", 90, 32)


def main() -> int:
    if triton is None:
        print("Triton is not installed here, so nothing was compiled.", file=sys.stderr)
        return 2
    ask = argparse.ArgumentParser(prog="./dev bench gate", description=__doc__.splitlines()[0])
    ask.add_argument("--only", choices=sorted(specs()), help="one operation instead of all")
    only = ask.parse_args().only
    kept = {r["config"]: r for r in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines())} if only and RESULTS.exists() else {}
    records, compiled_now = [], 0
    for spec in specs().values():
        for build in spec.builds:
            if only in (None, spec.name):
                records.append(record(spec.name, build))
                compiled_now += 1
            elif label(spec.name, build) in kept:
                records.append(kept[label(spec.name, build)])
    RESULTS.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    print(f"{compiled_now} configurations compiled with Triton {triton.__version__}: {RESULTS}")
    return 0


def label(name: str, build: Build) -> str:
    """A name for one configuration: operation, kernel, dtype, blocks, the flags that are on, and what is given."""
    dtype = next(iter(build.signature.values())).strip("*")
    blocks = [f"{key.lower()}{value}" for key, value in build.constants.items() if "BLOCK" in key]
    flags = [key.lower() if value is True else value for key, value in build.constants.items() if value is True or isinstance(value, str)]
    numbers = [f"{key.lower()}{value}" for key, value in build.constants.items() if type(value) is int and "BLOCK" not in key]
    return "-".join([name + build.kernel.removesuffix("_kernel"), dtype, *blocks, *numbers, *flags, *filter(None, [build.given])])


def record(name: str, build: Build) -> dict:
    """What one configuration needs, as it is stored."""
    kernel = compiled(name, build)
    sass = disassembled(kernel.asm["cubin"])
    used = resources(kernel.asm["cubin"])
    return {
        "op": name, "config": label(name, build), "warps": build.num_warps, "stages": build.num_stages,
        "registers": used["REG"], "stack": used["STACK"], "shared": kernel.metadata.shared, "instructions": len(sass),
        "tensor_core": sum(line.startswith(("HGMMA", "HMMA", "DMMA", "IMMA")) for line in sass), "triton": triton.__version__,
    }  # fmt: skip


def compiled(name: str, build: Build, *, ones: bool = False, **more):
    """The kernel of one configuration, compiled for sm_90.

    Args:
        name: The operation.
        build: Its configuration.
        ones: Whether every integer that Triton specializes is 1.
        more: Options of the compiler.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"vocab.kernels.{name}"), build.kernel)
    names = kernel.arg_names
    if set(build.signature) | set(build.constants) != set(names):
        raise ValueError(f"a build of {name}.{build.kernel} names {sorted({*build.signature, *build.constants} ^ set(names))} wrongly")
    signature = {n: build.signature.get(n, "constexpr") for n in names}
    constants = dict(build.constants)
    for parameter in kernel.params if ones else ():
        # At run time Triton turns an integer that is 1 into a constant, which has fewer methods than a tensor.
        if signature[parameter.name] == "i32" and not parameter.do_not_specialize:
            signature[parameter.name], constants[parameter.name] = "constexpr", 1
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*") or n in build.multiples and signature[n] != "constexpr"}
    constants = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": build.num_warps, "num_stages": build.num_stages, "maxnreg": build.max_registers, **more}
    return triton.compile(source, target=GPUTarget(*HOPPER), options=options)


def resources(binary: bytes) -> dict[str, int]:
    """Registers, stack and local bytes of a thread."""
    return {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", _cuobjdump("-res-usage", binary))}


def disassembled(binary: bytes) -> list[str]:
    """The instructions of a kernel, without their predicates."""
    found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\S+\s+)?([A-Z][^;]*);", _cuobjdump("-sass", binary), re.MULTILINE)
    return [line for line in found if not line.startswith("NOP")]


def _cuobjdump(option: str, binary: bytes) -> str:
    """Runs the tool that the Triton wheel brings."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    sys.exit(main())
