"""Build hook: adds the compiled kernels to the wheel when it is built for Pyodide.

pyodide-build says so through PYODIDE_ABI_VERSION. Any other wheel is pure Python and computes with NumPy alone.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        abi = os.environ.get("PYODIDE_ABI_VERSION")
        if not abi or version == "editable":
            return
        self.folder = tempfile.TemporaryDirectory()
        library = Path(self.folder.name, "_ops.so")
        compile_wasm(Path(self.root, "native", "ops.c"), library)
        build_data["force_include"][str(library)] = "_ops.so"
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-pyodide_{abi}_wasm32"  # no tie to a CPython version: ctypes loads the library

    def finalize(self, version, build_data, artifact_path):
        if hasattr(self, "folder"):
            self.folder.cleanup()


def compile_wasm(source, library):
    """A WebAssembly side module that needs nothing but memory: no libc, no Emscripten."""
    zig = [sys.executable, "-m", "ziglang"]
    flags = ["-O3", "-mcpu=generic+simd128", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
    part = library.with_suffix(".o")
    target = ["-target", "wasm32-emscripten", "-nostdlib"]
    subprocess.run([*zig, "cc", *target, *flags, "-c", source.name, "-o", part], cwd=source.parent, check=True)
    subprocess.run([*zig, "wasm-ld", "--experimental-pic", "-shared", "--no-entry", "--strip-all", "-o", library, part], check=True)
