"""What must hold for every snippet, in plain CPython."""

import ast
import json
import sys

import pytest

from snippets.runner import Runner
from vocab.entries import cells

SNIPPETS = [pytest.param(snippet, id=name) for name, snippet in cells().items()]


def ends(control):
    """The values at which a control is tried."""
    if control["kind"] == "toggle":
        return [True, False]
    if control["kind"] == "choice":
        return control["values"]
    if control["kind"] == "typed":
        return ["", "naïve 👍🏽 ﬁ e\u0301 1234567 ไทย\t<|im_end|>"[: control["most"] - 2], "a" * control["most"]]
    middle = (control["low"] * control["high"]) ** 0.5 if control["log"] else (control["low"] + control["high"]) / 2
    return [control["low"], int(middle) if control["whole"] else middle, control["high"]]


def run(runner, snippet, values):
    return json.loads(runner.run(snippet.read_text(encoding="utf-8"), json.dumps(values)))


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_imports_only_what_the_browser_has(snippet):
    tree = ast.parse(snippet.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {n.split(".")[0] for n in names} <= {"numpy", "snippets", *sys.stdlib_module_names}


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_same_figures_every_time(snippet):
    first = run(Runner(), snippet, {})
    assert "error" not in first, first
    assert first["figures"] and run(Runner(), snippet, {}) == first
    for figure in first["figures"]:
        assert len(figure["caption"]) > 15, f"a caption says what to notice: {figure['caption']!r}"


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_every_end_of_every_control_runs_or_says_why_not(snippet):
    runner = Runner()
    usual = run(runner, snippet, {})
    controls = usual["controls"]
    moved = set()
    tries = [{name: value} for name, control in controls.items() for value in ends(control)]
    tries += [{n: ends(c)[0] for n, c in controls.items()}, {n: ends(c)[-1] for n, c in controls.items()}]
    for values in tries:
        result = run(runner, snippet, values)
        if "error" in result:
            assert result["error"]["type"] == "ValueError", (values, result["error"]["trace"])
            assert len(result["error"]["message"]) > 15, (values, result["error"])
        elif result["figures"] != usual["figures"]:
            moved |= values.keys()
    assert moved == set(controls), f"these controls change nothing: {set(controls) - moved}"
