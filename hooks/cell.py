"""The live cell of a page: its demo run once at build time, its figures drawn, its source shown."""

from __future__ import annotations

import hashlib
import json
import re
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
        if path in found or not path.exists():
            continue
        found[path] = None
        for module, names in re.findall(r"^\s*from (snippets(?:\.\w+)*) import ([\w, ]+)", path.read_text(encoding="utf-8"), re.M):
            base = root / module.replace(".", "/")
            todo += [base.with_suffix(".py"), *(base / f"{name.strip()}.py" for name in names.split(","))]
    return list(found)


def render(snippet: Path, root: Path, node: Renderer, cache: Path) -> dict:
    """Figures and controls as HTML, controls and defaults as data, the demo's hint; cached by what they depend on."""
    digest = hashlib.sha256(node.script.read_bytes())
    for path in sorted([*sources(snippet, root), root / "snippets" / "runner.py"]):
        digest.update(path.read_bytes())
    kept = cache / f"{digest.hexdigest()[:24]}.json"
    if kept.exists():
        return json.loads(kept.read_text(encoding="utf-8"))
    runner = Runner()
    result = json.loads(runner.run(snippet.read_text(encoding="utf-8"), "{}"))
    if "error" in result:
        raise PageError(f"{snippet}: the demo fails at its defaults:\n{result['error']['trace']}")
    if runner.demo is None:
        raise PageError(f"{snippet}: no function is marked with @demo(...)")
    drawn = node.ask(kind="cell", prefix="live", **result)
    made = {
        "figures": "".join(drawn["figures"]),
        "form": drawn["controls"],
        "controls": result["controls"],
        "defaults": result["defaults"],
        "hint": " ".join((runner.demo.function.__doc__ or "").split()),
    }
    cache.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(made), encoding="utf-8")
    return made


def colour(source: str) -> str:
    return highlight(source, PythonLexer(), HtmlFormatter(cssclass="highlight", wrapcode=True)).rstrip()


def cell(name: str, title: str, snippet: Path, made: dict, base: str, assets: Assets, *, unfolded: bool = True) -> str:
    """HTML of a live cell.

    Args:
        name: ``family/slug``.
        title: The entry's title.
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
<details class="live-code"{" open" if unfolded else ""}><summary>NumPy, as it runs here</summary>
<div class="live-editor"></div>
<div class="live-static">{colour(algorithm.strip())}<a href="{path}">The whole file, with the demo</a></div>
</details>
</section>
"""
    return html.strip()
