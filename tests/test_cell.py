"""The figures that the build keeps for live cells."""

from types import SimpleNamespace

from hooks.cell import _digest


def test_figures_of_snippets_that_import_each_other_are_kept_apart(tmp_path):
    family = tmp_path / "snippets" / "family"
    family.mkdir(parents=True)
    (tmp_path / "snippets" / "runner.py").write_text("")
    for one, other in (("a", "b"), ("b", "a")):
        (family / f"{one}.py").write_text(f"from snippets.family.{other} import x\n")
    script = tmp_path / "script.js"
    script.write_text("")
    first, second = (_digest(family / f"{name}.py", tmp_path, SimpleNamespace(script=script)) for name in "ab")
    assert first != second


def test_a_familys_figure_depends_on_every_entry_that_it_may_load(tmp_path):
    family = tmp_path / "snippets" / "family"
    family.mkdir(parents=True)
    (tmp_path / "snippets" / "runner.py").write_text("")
    (family / "compared.py").write_text("from importlib import import_module\n")
    (family / "entry.py").write_text("x = 1\n")
    script = tmp_path / "script.js"
    script.write_text("")
    digests = []
    for source in ("x = 1\n", "x = 2  # another\n"):
        (family / "entry.py").write_text(source)
        digests.append(_digest(family / "compared.py", tmp_path, SimpleNamespace(script=script)))
    assert digests[0] != digests[1]
