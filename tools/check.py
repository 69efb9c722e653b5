"""Checks one entry from end to end: page, module, snippet, tests, and its demo in a browser."""

from __future__ import annotations

import subprocess

from tools.environment import PYTHON
from tools.site import ensure_site
from tools.trouble import ROOT, Trouble
from vocab.entries import Entry, entries


def check_entry(name: str, env: dict) -> int:
    """Runs everything that speaks of ``family/entry``; returns pytest's exit code."""
    known = {e.name: e for e in entries()}
    if name not in known:
        missing = Entry(*name.split("/"), ROOT).page.relative_to(ROOT) if name.count("/") == 1 else name
        raise Trouble(f"There is no entry {name}: {missing} is not there. ./dev new {name} starts it.")
    entry = known[name]
    for file in (entry.module, entry.test, entry.snippet):
        if not file.exists():
            raise Trouble(f"{name} has no {file.relative_to(ROOT)}.")

    def pytest(*arguments: str) -> int:
        return subprocess.run([str(PYTHON), "-m", "pytest", "-q", *arguments], cwd=ROOT, env=env).returncode

    failed = pytest(str(entry.test.relative_to(ROOT)))
    failed = pytest("vocab/tests/test_contract.py", "tests/test_snippets.py", "-k", name) or failed
    ensure_site()
    return pytest("tests/test_browser.py", "-k", name) or failed
