"""A step runs again only when what it reads has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Iterable

from tools.trouble import CACHE


def digest(inputs: Iterable[Path], *extra: str) -> str:
    """A hash of files (folders: all files below) and words."""
    found = hashlib.sha256("\0".join(extra).encode())
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                found.update(str(file).encode() + b"\0" + file.read_bytes())
    return found.hexdigest()


def is_fresh(step: str, state: str) -> bool:
    stamp = CACHE / "stamps" / step
    return stamp.exists() and stamp.read_text() == state


def mark_fresh(step: str, state: str) -> None:
    stamp = CACHE / "stamps" / step
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(state)
