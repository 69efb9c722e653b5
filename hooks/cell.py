"""The live cell of a page: its demo run once at build time, its figures drawn, its source shown."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from hooks.matter import PageError
from hooks.node import Renderer
from snippets.runner import Runner


@dataclass(frozen=True)
class Assets:
    """What the browser loads for a first run."""

    runtime_bytes: int
    wheel: str  # file name of the pure wheel that notebooks install


def sources(snippet: Path, root: Path) -> list[Path]:
    """A snippet and every snippets module that it imports, directly or not."""
    found: dict[Path, None] = {}
    todo = [snippet]
    while todo:
        path = todo.pop()
        if path not in found and path.exists():
            found[path] = None
            todo += imported(path, root, path.stat().st_mtime_ns)
    return list(found)


@functools.lru_cache(maxsize=None)
def imported(path: Path, root: Path, changed: int) -> list[Path]:
    """Where the snippets modules would be that a file names in its imports; ``changed`` is when the file did."""
    del changed
    files = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "snippets":
            base = root / node.module.replace(".", "/")
            files += [base.with_suffix(".py"), *(base / f"{alias.name}.py" for alias in node.names)]
    return files


def render(snippets: Iterable[Path], root: Path, node: Renderer, cache: Path) -> dict[Path, dict]:
    """Of each snippet: figures and controls as HTML, controls and defaults as data, the demo's hint.

    Kept in ``cache`` by what they depend on; demos that are not there run side by side.
    """
    kept = {snippet: cache / f"{_digest(snippet, root, node)}.json" for snippet in snippets}
    cache.mkdir(parents=True, exist_ok=True)
    missing = [snippet for snippet, file in kept.items() if not file.exists()]
    if missing:
        with ProcessPoolExecutor() as pool:
            for snippet, (result, hint) in zip(missing, pool.map(_run, missing)):
                drawn = node.ask(kind="cell", prefix="live", **result)
                made = {"figures": "".join(drawn["figures"]), "form": drawn["controls"], "controls": result["controls"],
                        "defaults": result["defaults"], "hint": hint}
                kept[snippet].write_text(json.dumps(made), encoding="utf-8")
    return {snippet: json.loads(file.read_text(encoding="utf-8")) for snippet, file in kept.items()}


def _digest(snippet: Path, root: Path, node: Renderer) -> str:
    digest = hashlib.sha256(node.script.read_bytes())
    digest.update(f"{snippet.parent.name}/{snippet.name}".encode())  # modules that import each other have the same sources
    files = {*sources(snippet, root), root / "snippets" / "runner.py"}
    if snippet.stem == "compared":  # may load any entry of its family by name
        files |= {path for other in snippet.parent.glob("*.py") for path in sources(other, root)}
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def _run(snippet: Path) -> tuple[dict, str]:
    """What a demo gives at its defaults, and its hint."""
    runner = Runner()
    result = json.loads(runner.run(snippet.read_text(encoding="utf-8"), "{}"))
    if "error" in result:
        raise PageError(f"{snippet}: the demo fails at its defaults:\n{result['error']['trace']}")
    if runner.demo is None:
        raise PageError(f"{snippet}: no function is marked with @demo(...)")
    return result, " ".join((runner.demo.function.__doc__ or "").split())


def written_in(file: Path, library: str, name: str) -> str:
    """What a source computes with: ``name`` if it imports ``library``, otherwise plain Python."""
    imports = re.search(rf"^(import|from) {library}\b", file.read_text(encoding="utf-8"), re.M)
    return name if imports else "Python"


def colour(source: str) -> str:
    return highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True)).rstrip()


def cell(name: str, title: str, snippet: Path, made: dict, base: str, assets: Assets, *, unfolded: bool = True) -> str:
    """HTML of a live cell.

    Args:
        name: ``family/slug``, or ``family`` on a family's own page.
        title: The page's title.
        snippet: Its source.
        made: What ``render`` returned.
        base: Relative URL of the site's root, with a slash at its end.
        assets: What the browser will load.
        unfolded: Whether the code is shown before the reader asks for it.
    """
    algorithm = snippet.read_text(encoding="utf-8").partition("\n# %% demo")[0]
    path = f"{base}assets/sources/snippets/{snippet.parent.name}/{snippet.name}"
    spec = json.dumps({
        "controls": made["controls"], "defaults": made["defaults"], "title": title, "source": path,
        "wheel": f"{base}assets/wheels/{assets.wheel}", "bytes": assets.runtime_bytes,
    })
    buttons = "".join(
        f'<button type="button" data-action="{action}" class="{"md-button md-button--primary" if action == "run" else "md-button"}">{text}</button>'
        for action, text in [("run", "Run"), ("stop", "Stop"), ("reset", "Reset"), ("share", "Share"), ("download", "Notebook"), ("edit", "Edit code")]
    )
    html = f"""
<section class="live" id="live" data-search-exclude data-entry="{name}" data-spec="{escape(spec)}" aria-label="Live: {escape(title)}">
<p class="live-hint">{escape(made["hint"])}</p>
<form class="live-controls" hidden>{made["form"]}</form>
<div class="live-figures">{made["figures"]}</div>
<div class="live-bar" hidden>{buttons}<progress hidden aria-label="Loading Python"></progress><span class="live-status" role="status"></span></div>
<pre class="live-output" tabindex="0" aria-label="Output" hidden></pre>
<details class="live-code"{" open" if unfolded else ""}><summary>{written_in(snippet, 'numpy', 'NumPy')}, as it runs here</summary>
<div class="live-editor"></div>
<div class="live-static">{colour(algorithm.strip())}<a href="{path}">The whole file, with the demo</a></div>
</details>
</section>
"""
    return html.strip()
