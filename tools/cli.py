"""The commands of ./dev. The first step runs in the machine's Python and makes .venv; the rest runs in .venv."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tools import environment
from tools.environment import PYTHON
from tools.trouble import ROOT, Trouble


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="./dev", description="An encyclopedia of neural networks that runs: build it, serve it, test it.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text} {more}".strip())

    serve = command("serve", "Build the site and serve it on this machine.", "Sets up what is missing first (no torch). Builds again when a source changes.")
    serve.add_argument("--port", type=int, help="a port of this machine; a free one if not given")
    command("build", "Build the site into site/.", "SITE_URL sets the address it will be served at.")
    test = command("test", "Set up what tests need and run all of them.", "pytest vocab, then pytest tests (which builds the site and drives it in a browser).")
    test.add_argument("pytest", nargs=argparse.REMAINDER, help="arguments for pytest instead: paths, -k, ...")
    bench = command("bench", "Measure: kernels on a GPU or as compiled for one, or the compiled operations in the browser.", "Appends JSON lines to benchmarks/results/.")
    bench.add_argument("what", choices=("kernels", "gate", "browser"))
    bench.add_argument("--only", metavar="KERNEL", help="one kernel instead of all (not for the browser)")
    new = command("new", "Start an entry: write its four files from templates.")
    new.add_argument("entry", metavar="FAMILY/ENTRY")
    check = command("check", "Check one entry: page, module, snippet, tests, and its demo in a browser.")
    check.add_argument("entry", metavar="FAMILY/ENTRY")
    return top


def main() -> None:
    arguments = parser().parse_args()
    try:
        if Path(sys.prefix).resolve() != environment.VENV.resolve():
            environment.ensure_packages("site")
            again = [str(PYTHON), str(ROOT / "dev"), *sys.argv[1:]]
            if os.name != "nt":
                os.execv(str(PYTHON), again)
            sys.exit(subprocess.run(again).returncode)
        COMMANDS[arguments.command](arguments)
    except Trouble as trouble:
        sys.exit(str(trouble))
    except KeyboardInterrupt:
        sys.exit(130)


def serve(arguments) -> None:
    from tools.site import serve as run_server

    run_server(arguments.port)


def build(arguments) -> None:
    del arguments
    from tools.site import ensure_site

    ensure_site()
    print(f"The site is in {ROOT / 'site'}")


def _ready_for_tests() -> dict:
    environment.ensure_packages("site", "test")
    environment.ensure_javascript()
    return {**os.environ, "CHROME": environment.ensure_browser(), "OMP_NUM_THREADS": "1"}


def _pytest(env: dict, *arguments: str) -> int:
    return subprocess.run([str(PYTHON), "-m", "pytest", *arguments], cwd=ROOT, env=env).returncode


def test(arguments) -> None:
    env = _ready_for_tests()
    if arguments.pytest:
        sys.exit(_pytest(env, *arguments.pytest))
    from tools.site import ensure_site

    workers = ("-n", str(max(2, os.cpu_count() or 2)), "--dist", "worksteal", "-q")
    failed = _pytest(env, "vocab", "--complete", *workers)
    ensure_site()  # after vocab: its records are on the pages
    failed = _pytest(env, "tests", *workers[:2], "--dist", "loadgroup", "-q") or failed
    sys.exit(failed)


def bench(arguments) -> None:
    env = _ready_for_tests()
    only = ["--only", arguments.only] if arguments.only else []
    sys.exit(subprocess.run([str(PYTHON), "-m", f"benchmarks.{arguments.what}", *only], cwd=ROOT, env=env).returncode)


def new(arguments) -> None:
    from tools.new import create

    for path in create(arguments.entry):
        print(path.relative_to(ROOT))


def check(arguments) -> None:
    env = _ready_for_tests()
    from tools.check import check_entry

    sys.exit(check_entry(arguments.entry, env))


COMMANDS = {"serve": serve, "build": build, "test": test, "bench": bench, "new": new, "check": check}
