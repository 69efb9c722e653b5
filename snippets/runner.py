"""Runs a reader's source and its demo, and reports figures or an error in the reader's own lines."""

from __future__ import annotations

import json
import linecache
import traceback
from typing import Any

from snippets.live import Demo

FILE = "your code"


class Runner:
    """Keeps the last source that ran, so that moving a control runs only the demo."""

    def __init__(self) -> None:
        self.source: str | None = None
        self.demo: Demo | None = None

    def run(self, source: str, values: str) -> str:
        """Runs ``source`` if it changed, then its demo.

        Args:
            source: Python.
            values: JSON of ``{control: value}``; those the demo no longer has or allows fall back to its defaults.

        Returns:
            JSON: ``{"figures", "controls", "defaults"}``, or ``{"error": {"line", "type", "message", "trace"}}``.
        """
        try:
            if source != self.source:
                self._load(source)
            if self.demo is None:
                return json.dumps({"figures": [], "controls": {}, "defaults": {}})
            fits = {n: v for n, v in json.loads(values).items() if n in self.demo.controls and self.demo.fits(n, v)}
            figures = self.demo(**fits)
            return json.dumps({"figures": figures, "controls": self.demo.controls, "defaults": self.demo.defaults})
        except BaseException as error:  # SystemExit and KeyboardInterrupt too: a reader's cell must not end the worker
            return json.dumps({"error": describe(error)})

    def _load(self, source: str) -> None:
        self.source, self.demo, Demo.last = None, None, None
        linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
        exec(compile(source, FILE, "exec"), {"__name__": "__main__"})
        self.source, self.demo = source, Demo.last


def describe(error: BaseException) -> dict[str, Any]:
    """Type, message, line and traceback of an error, cut to the reader's own code."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == FILE]
    line = frames[-1].lineno if frames else None
    if isinstance(error, SyntaxError) and error.filename == FILE:
        line = error.lineno
    only = traceback.format_exception_only(error)
    trace = (["Traceback (most recent call last):\n", *traceback.format_list(frames)] if frames else []) + only
    return {"line": line, "type": type(error).__name__, "message": str(error), "trace": "".join(trace).rstrip()}
