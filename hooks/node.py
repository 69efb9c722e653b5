"""The build's Node process: figures to SVG and formulas to MathML, one JSON line a request."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path


class Renderer:
    """Starts Node on the first request and keeps it until ``close``."""

    def __init__(self, script: Path, node: str | None = None) -> None:
        self.script, self.node = script, node or shutil.which("node") or "node"
        self._process: subprocess.Popen | None = None

    def ask(self, **request) -> dict:
        """The answer to one request; raises ValueError with Node's own message where it has none."""
        if self._process is None:
            self._process = subprocess.Popen(
                [self.node, str(self.script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
            )
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.script} ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None
