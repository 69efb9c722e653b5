"""Builds what snippets/ops.py computes with: the C kernels for this machine, and the wheels of the snippets package.

Only ziglang, build and hatchling of this environment are used, so nothing is downloaded and no C compiler is
needed. The tree stays as it is, apart from snippets/native/build, which git ignores.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

# zig would compile for exactly this processor, and the result may be carried to another one in a cache.
ZIG = [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
# Without contraction to fused multiply-adds every machine rounds alike: a figure drawn at build time has the numbers
# that the reader's browser computes.
FLAGS = ["-std=c11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wextra"]
SANITIZE = ["-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]

# What pyodide-build asks its cross-build environment, which is a download of hundreds of megabytes, answered for a
# package that compiles by itself: only the versions matter, and the empty ones must merely exist.
PYODIDE = {
    "PYVERSION": "3.12.7",
    "PYMAJOR": "3",
    "PYMINOR": "12",
    "PYMICRO": "7",
    "PYODIDE_VERSION": "0.27.7",
    "PYODIDE_ABI_VERSION": "2024_0",
    "PYODIDE_EMSCRIPTEN_VERSION": "3.1.58",
    "PLATFORM_TRIPLET": "wasm32-emscripten",
    "SYSCONFIG_NAME": "_sysconfigdata__emscripten_wasm32-emscripten",
    "CPYTHONINSTALL": "",
    "PYTHONINCLUDE": "",
    "SYSCONFIGDATA_DIR": "",
    "TARGETINSTALLDIR": "",
    "CFLAGS_BASE": "",
    "CXXFLAGS_BASE": "",
    "LDFLAGS_BASE": "",
}


def build_native(root: Path) -> Path:
    """The kernels compiled for this machine, where snippets/ops.py looks for them."""
    return _compile(root, ZIG, FLAGS, "ops.so")


def build_native_sanitized(root: Path, compiler: str | None = None) -> Path:
    """The kernels compiled to stop at the first undefined operation, and with a C compiler at the first bad address.

    Args:
        root: the repository.
        compiler: "cc" (AddressSanitizer and UBSan; to be loaded with ``asan_runtime()`` preloaded) or "zig" (UBSan alone);
            by default the first of the two that is here.
    """
    if compiler is None:
        compiler = "cc" if asan_runtime() else "zig"
    if compiler == "cc":
        return _compile(root, ["cc"], [*FLAGS, *SANITIZE, "-fsanitize=address,undefined"], "ops-asan.so")
    return _compile(root, ZIG, [*FLAGS, *SANITIZE, "-fsanitize=undefined"], "ops-ubsan.so")


def asan_runtime() -> Path | None:
    """AddressSanitizer's library of the C compiler, which Python must preload; None where there is none."""
    if not shutil.which("cc"):
        return None
    for name in ("libasan.so", "libclang_rt.asan.so"):
        found = subprocess.run(["cc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        if os.path.isabs(found) and os.path.exists(found):
            return Path(found).resolve()
    return None


def build_pure_wheel(root: Path, out: Path) -> Path:
    """The snippets package without compiled kernels, for a reader who runs a notebook at home."""
    return _wheel(root, out, [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "wheel", "source"], {}, with_entries=True)


def build_pyodide_wheel(root: Path, out: Path) -> Path:
    """The snippets package without its entries, which the browser imports one by one (snippets/served.py), and with kernels compiled to
    WebAssembly: by pyodide-build where that is installed (it needs
    Python 3.12 and make), else by the same build hook under ``python -m build``. Both give the same files."""
    if not (find_spec("pyodide_build") and shutil.which("make")):
        plain = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "wheel", "source"]
        return _wheel(root, out, plain, {"PYODIDE_ABI_VERSION": PYODIDE["PYODIDE_ABI_VERSION"]}, with_entries=False)
    with tempfile.TemporaryDirectory() as folder:
        lines = [f"export {name}={value}\n" for name, value in PYODIDE.items()]
        Path(folder, "Makefile.envs").write_text("".join(lines) + ".output_vars:\n\t@env\n")
        answers = {"PYODIDE_ROOT": folder, "SKIP_EMSCRIPTEN_VERSION_CHECK": "1"}
        command = [sys.executable, "-m", "pyodide_cli", "build", "source", "--outdir", "wheel", "--no-isolation"]
        return _wheel(root, out, [*command, "--skip-emscripten-install"], answers, with_entries=False)


def families(root: Path) -> list[Path]:
    """The folders of snippets that hold entries."""
    return sorted(path.parent for path in (root / "snippets").glob("*/__init__.py"))


def _wheel(root: Path, out: Path, command: list[str], settings: dict[str, str], *, with_entries: bool) -> Path:
    # In a copy: build tools leave folders beside the sources.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYODIDE")}
    environment |= {"SOURCE_DATE_EPOCH": "315532800"} | settings  # 1980, the first year that a zip file can name
    with tempfile.TemporaryDirectory() as folder:
        left_out = [] if with_entries else [path.name for path in families(root)]
        ignore = shutil.ignore_patterns("build", "dist", "__pycache__", ".*", *left_out)
        shutil.copytree(root / "snippets", Path(folder, "source"), ignore=ignore)
        _run(command, Path(folder), environment)
        (built,) = Path(folder, "wheel").glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(built, out))


def _compile(root: Path, compiler: list[str], flags: list[str], name: str) -> Path:
    """snippets/native/build/NAME, compiled again only where sources or flags have changed."""
    native = root / "snippets" / "native"
    library, stamp = native / "build" / name, native / "build" / f"{name}.stamp"
    digest = hashlib.sha256(repr((compiler, flags)).encode())
    for source in sorted(native.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    if library.exists() and stamp.exists() and stamp.read_text() == digest.hexdigest():
        library.touch()  # ops.py takes no library that is older than its sources
        return library
    library.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        _run([*compiler, *flags, "ops.c", "-o", str(Path(folder, name))], native, dict(os.environ))
        os.replace(Path(folder, name), library)  # at once: another process may be using the old one
    stamp.write_text(digest.hexdigest())
    return library


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Runs a build step in silence; when it fails, what it printed is the error."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
