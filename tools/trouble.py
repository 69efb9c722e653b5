"""What cannot be had ends in one plain sentence that says what to do."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache"


class Trouble(Exception):
    """The sentence for the person at the terminal."""


def run(command: list, name: str, advice: str, *, cwd: Path = ROOT, env: dict | None = None) -> str:
    """Runs a command quietly; its whole output goes to ``.cache/logs/<name>.log``.

    Raises:
        Trouble: If it fails: its last telling line, the advice, and where the log is.
    """
    log = CACHE / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, text=True, capture_output=True, encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise Trouble(f"{command[0]} is not there. {advice}") from None
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        telling = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "no output")
        raise Trouble(f"{name} failed: {telling[:300]} {advice} (Whole output: {log.relative_to(ROOT)})")
    return done.stdout
