"""Importing entries' modules from the site."""

import importlib
import sys

import pytest

import snippets.live
from snippets import served

FILES = {"family/__init__.py": '"""A family."""', "family/entry.py": "from snippets.family.other import two\n\ndef four():\n    return 2 * two\n", "family/other.py": "two = 2\n"}


@pytest.fixture
def site():
    """Asks these files; leaves nothing behind."""
    asked = []

    def read(file):
        asked.append(file)
        return FILES.get(file)

    before = list(sys.meta_path)
    served.install(read)
    yield asked
    sys.meta_path[:] = before
    for name in [n for n in sys.modules if n.startswith("snippets.family")]:
        del sys.modules[name]


def test_a_module_and_what_it_imports_are_fetched_once(site):
    for _ in range(2):
        assert importlib.import_module("snippets.family.entry").four() == 4
    assert site == ["family/__init__.py", "family/entry.py", "family/other.py"]


def test_what_is_installed_is_not_asked_for(site):
    spec = next(found for finder in sys.meta_path if (found := finder.find_spec("snippets.live", snippets.__path__)))
    assert spec.origin == snippets.live.__file__ and site == []


@pytest.mark.parametrize("name", ["snippets.nothing", "snippets.family.nothing"])
def test_a_module_that_is_not_there_is_named(site, name):
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
        importlib.import_module(name)


def test_other_packages_are_left_alone(site):
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("family.entry")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("snippets.family.entry.deeper")
    assert not {"family.py", "family/entry/deeper.py"} & set(site)


def test_a_site_that_does_not_answer_is_said(monkeypatch):
    def read(file):
        raise OSError("the site answered 503")

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, served.Served(read)])
    with pytest.raises(ImportError, match=r"snippets.elsewhere could not be fetched from the site \(the site answered 503\)"):
        importlib.import_module("snippets.elsewhere")


def test_a_traceback_shows_the_source(site, monkeypatch):
    import linecache

    monkeypatch.setitem(FILES, "family/broken.py", "def f():\n    return 1 / 0\n")
    module = importlib.import_module("snippets.family.broken")
    assert linecache.getline(module.__file__, 2, module.__dict__).strip() == "return 1 / 0"
