"""Controls, figures and the runner: what they refuse and what they report."""

import json

import numpy as np
import pytest

from snippets import live
from snippets.runner import FILE, Runner


def run(source, **values):
    return json.loads(Runner().run(source, json.dumps(values)))


DEMO = """
from snippets.live import demo, line, slider
print("hello")
@demo(n=slider(1, 5, label="n"))
def show(n=2):
    return line({"square": [i * i for i in range(n)]}, x="i", y="square", caption="Squares grow.")
"""


def test_a_demo_runs_with_its_defaults_and_with_values():
    assert [p[1] for p in run(DEMO)["figures"][0]["series"]["square"]] == [0, 1]
    assert [p[1] for p in run(DEMO, n=4)["figures"][0]["series"]["square"]] == [0, 1, 4, 9]


def test_typed_text_is_counted_as_the_browser_counts_it():
    control = live.typed(label="word", most=4)
    assert live.allowed(control, "") and live.allowed(control, "four") and live.allowed(control, "👍👍")
    assert not live.allowed(control, "fives") and not live.allowed(control, "👍👍x") and not live.allowed(control, 4)


def test_moving_a_control_does_not_run_the_source_again(capsys):
    runner = Runner()
    runner.run(DEMO, "{}")
    runner.run(DEMO, '{"n": 3}')
    assert capsys.readouterr().out == "hello\n"


def test_values_that_no_longer_fit_fall_back_to_the_default():
    assert len(run(DEMO, n=99, other=1)["figures"][0]["series"]["square"]) == 2


def test_an_error_is_cut_to_the_readers_own_lines():
    error = run("import numpy as np\n\ndef f():\n    return np.zeros(2) + np.zeros(3)\n\nf()\n")["error"]
    assert (error["line"], error["type"]) == (4, "ValueError")
    assert "runner.py" not in error["trace"] and "return np.zeros(2) + np.zeros(3)" in error["trace"]
    assert f'File "{FILE}", line 6' in error["trace"]


def test_a_syntax_error_names_its_line():
    error = run("x = 1\ny = (\n")["error"]
    assert (error["line"], error["type"]) == (2, "SyntaxError")


@pytest.mark.parametrize(("source", "kind"), [("raise SystemExit(3)", "SystemExit"), ("raise KeyboardInterrupt", "KeyboardInterrupt"),
                                              ("raise MemoryError('no')", "MemoryError"), ("def f(): f()\nf()", "RecursionError")])
def test_nothing_a_reader_raises_ends_the_runner(source, kind):
    runner = Runner()
    assert json.loads(runner.run(source, "{}"))["error"]["type"] == kind
    assert "figures" in json.loads(runner.run(DEMO, "{}"))


def test_code_without_a_demo_runs_and_has_no_figures():
    assert run("x = 1") == {"figures": [], "controls": {}, "defaults": {}}


def test_a_demo_that_returns_something_else_says_so():
    source = DEMO.replace('return line({"square": [i * i for i in range(n)]}, x="i", y="square", caption="Squares grow.")', "return 3")
    assert run(source)["error"]["message"] == "a demo returns figures and strings, not int"


@pytest.mark.parametrize(("make", "message"), [
    (lambda: live.slider(5, 1, label="n"), "low=5 is not below high=1"),
    (lambda: live.slider(0, 1, label="n", log=True), "cannot start at low=0"),
    (lambda: live.slider(0, 1, step=2, label="n"), "step=2"),
    (lambda: live.choice(1, label="n"), "two values or more"),
    (lambda: live.typed(label="n", most=0), "most=0 is below 1"),
    (lambda: live.demo(n=live.typed(label="n", most=3))(lambda n="four": None), "default n='four'"),
    (lambda: live.demo(n=live.slider(1, 5, label="n"))(lambda m=1: None), r"controls \['n'\] are not the parameters \['m'\]"),
    (lambda: live.demo(n=live.slider(1, 5, label="n"))(lambda n=9: None), "default n=9"),
    (lambda: live.demo(n=live.slider(1, 5, label="n"))(lambda n=2.5: None), "default n=2.5"),
    (lambda: live.line({"a": [1, 2]}, at=[1], x="x", y="y", caption="c"), r"'a' has \(2,\) values at \(1,\) positions"),
    (lambda: live.line({"a": [1]}, x="x", y="y", caption=""), "caption must say what is shown"),
    (lambda: live.line({"a": [1]}, x="", y="y", caption="c"), "line: x must say"),
    (lambda: live.line({"a": [1]}, x="x", y="y", caption="c", dashed=["b"]), "'b' is not one of"),
    (lambda: live.scatter({"a": [1, 2]}, x="x", y="y", caption="c"), r"expected \(points, 2\)"),
    (lambda: live.scatter({"a": [[1, 2]]}, x="x", y="y", caption="c", field=[[1, 2], [3, 4]]), "needs range_x and range_y"),
    (lambda: live.scatter({"a": [[1, 2]]}, x="x", y="y", caption="c", field=[[1, np.inf], [3, 4]], range_x=(0, 1), range_y=(0, 1)), "finite numbers"),
    (lambda: live.heatmap([1], x="x", y="y", value="v", caption="c"), r"expected \(rows, columns\)"),
    (lambda: live.heatmap([[1]], x="x", y="y", value="v", caption="c", rows=["a", "b"]), "2 names for 1 rows"),
    (lambda: live.graph(["a"], [("a", "b")], caption="c"), "'b', which is no node"),
    (lambda: live.image(np.zeros((2, 2, 4)), caption="c"), r"expected \(H, W\) or \(H, W, 3\)"),
    (lambda: live.table([[1]], columns=["a", "b"], caption="c"), "every row needs 2 cells"),
])
def test_what_cannot_be_drawn_is_refused_with_a_reason(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_that_json_has_no_word_for_become_gaps():
    figure = live.line({"a": [1.0, np.nan, np.inf]}, x="x", y="y", caption="c")
    assert [y for _, y in figure["series"]["a"]] == [1.0, None, None]
    json.dumps(figure, allow_nan=False)


def test_signed_colours_are_centred_on_zero():
    assert live.heatmap([[-1.0, 3.0]], x="x", y="y", value="v", caption="c")["range"] == [-3.0, 3.0]
    assert live.heatmap([[1.0, 3.0]], x="x", y="y", value="v", caption="c")["range"] == [1.0, 3.0]


def test_a_graph_without_positions_is_layered_and_one_with_a_cycle_is_a_circle():
    layered = {n["name"]: n["y"] for n in live.graph(["a", "b", "c"], [("a", "b"), ("b", "c")], caption="c")["nodes"]}
    assert layered["a"] > layered["b"] > layered["c"]
    circle = live.graph(["a", "b", "c"], [("a", "b"), ("b", "c"), ("c", "a")], caption="c")["nodes"]
    np.testing.assert_allclose([n["x"] ** 2 + n["y"] ** 2 for n in circle], 1)


def test_pixels_from_0_to_1_become_bytes():
    assert live.image([[0.0, 0.5, 2.0, np.nan]], caption="c")["pixels"] == [[0, 128, 255, 0]]
