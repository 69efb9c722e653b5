"""The environment: packages in .venv, Node, the JavaScript packages, a browser for tests. Standard library only."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tools.stamps import digest, is_fresh, mark_fresh
from tools.trouble import ROOT, Trouble, run

VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
TORCH = "2.13.0"


def say(message: str) -> None:
    print(f"  {message}", flush=True)


def ensure_packages(*sets: str) -> None:
    """Creates .venv and installs pinned, hash-checked packages: sets are the names of requirements/<set>.txt."""
    if not PYTHON.exists():
        say("making an environment in .venv")
        try:
            venv.EnvBuilder(with_pip=True).create(VENV)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Trouble(f"Python could not make an environment in .venv ({error}); on Debian and Ubuntu install python3-venv and try again.") from None
    for name in sets:
        file = ROOT / "requirements" / f"{name}.txt"
        step, state = f"packages-{name}", digest([file], str(PYTHON.stat().st_mtime), sys.version)
        if is_fresh(step, state):
            continue
        say(f"installing the packages of requirements/{name}.txt")
        _pip(name, "--require-hashes", "--no-deps", "-r", file)
        if name == "test":
            _ensure_torch()
        mark_fresh(step, state)


def _pip(name: str, *arguments: object) -> None:
    try:
        run([PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments], f"pip-{name}",
            "Check the network, and pip's configuration if you use a mirror; then run the same command again.")
    except Trouble as trouble:
        if "HASHES" in str(trouble).upper() or "hashes" in (ROOT / f".cache/logs/pip-{name}.log").read_text().lower():
            raise Trouble(f"A downloaded package is not the one that requirements/{name}.txt pins by hash: nothing of it was installed. "
                          f"Clear pip's cache (pip cache purge) or the mirror that served it. (Whole output: .cache/logs/pip-{name}.log)") from None
        raise


def _ensure_torch() -> None:
    """The CPU build where it can be had without an address, else from PyTorch's own index, else PyPI's."""
    found = subprocess.run([PYTHON, "-c", "import torch; print(torch.__version__)"], text=True, capture_output=True)
    if found.stdout.strip().split("+")[0] == TORCH:
        return
    say(f"installing torch {TORCH}")
    index = ["--extra-index-url", "https://download.pytorch.org/whl/cpu"]
    gpu = shutil.which("nvidia-smi") is not None
    tries = [[f"torch=={TORCH}"]] if gpu or platform.system() != "Linux" else [
        ["--no-deps", f"torch=={TORCH}+cpu"], ["--no-deps", *index, f"torch=={TORCH}+cpu"], [f"torch=={TORCH}"]]
    for arguments in tries[:-1]:
        try:
            return _pip("torch", *arguments)
        except Trouble:
            continue
    _pip("torch", *tries[-1])


def node() -> str:
    """Node's executable: the machine's, or the one from PyPI in .venv."""
    for candidate in (shutil.which("node"), str(BIN / "node")):
        if candidate and Path(candidate).exists():
            version = subprocess.run([candidate, "--version"], text=True, capture_output=True).stdout.strip().lstrip("v")
            if version and int(version.split(".")[0]) >= 18:
                return candidate
    ensure_packages("node")
    if not (BIN / "node").exists():
        raise Trouble("Node.js 18 or newer is neither on the PATH nor to be had from PyPI for this machine; install it from nodejs.org.")
    return str(BIN / "node")


def ensure_javascript() -> str:
    """Installs what package-lock.json pins, by hash; returns Node's executable."""
    executable = node()
    state = digest([ROOT / "package-lock.json"])
    if not (is_fresh("javascript", state) and (ROOT / "node_modules").exists()):
        say("installing the JavaScript packages of package-lock.json")
        npm = shutil.which("npm", path=str(Path(executable).parent)) or shutil.which("npm")
        if not npm:
            raise Trouble("npm is not there although Node.js is; install npm and try again.")
        env = {**os.environ, "PATH": f"{Path(executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
        run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], "npm", "Check the network, and npm's registry setting if you use a mirror; then run the same command again.", env=env)
        mark_fresh("javascript", state)
    return executable


BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
PLACES = ("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium")


def browser() -> str | None:
    """An installed Chromium or Chrome."""
    chosen = os.environ.get("CHROME")
    found = [chosen, *map(shutil.which, BROWSERS), *PLACES]
    return next((f for f in found if f and Path(f).exists()), None)


def ensure_browser() -> str:
    """Chromium: an installed one, Debian's package, or Playwright's. Playwright's is named by an empty string."""
    if found := browser():
        return found
    if shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say("installing Debian's chromium")
        try:
            run(["apt-get", "update"], "apt-update", "")
            run(["apt-get", "install", "-y", "--no-install-recommends", "chromium"], "apt-chromium", "")
        except Trouble:
            pass
        if found := browser():
            return found
    say("installing Playwright's Chromium")
    try:
        run([PYTHON, "-m", "playwright", "install", "chromium"], "playwright", "")
    except Trouble:
        raise Trouble("There is no browser to test with: install Chromium or Chrome (Debian: apt-get install chromium), or set CHROME to one.") from None
    return ""
