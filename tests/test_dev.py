"""./dev: what it does twice, and what it says when something cannot be had."""

import json
import socket
import subprocess
import sys
import urllib.request

import pytest

from tools import environment, runtime, stamps
from tools.cli import parser
from tools.new import create, unplan
from tools.site import complaints, server
from tools.trouble import ROOT, Trouble, run
from vocab.entries import entries


def test_an_old_python_is_told_what_to_install():
    code = f"import sys; sys.version_info = (3, 9, 1); sys.argv = ['dev']; exec(compile(open({str(ROOT / 'dev')!r}).read(), 'dev', 'exec'))"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 1 and done.stderr.strip() == "This needs Python 3.11 or newer; you have 3.9. Install one and run: python3.11 dev ..."


def test_every_command_explains_itself(capsys):
    for command in ("serve", "build", "test", "bench", "new", "check"):
        with pytest.raises(SystemExit) as stop:
            parser().parse_args([command, "--help"])
        assert stop.value.code == 0 and len(capsys.readouterr().out.splitlines()) > 3


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Trouble, match=rf"Port {port} is taken or not allowed; choose another with --port"):
            server(port)


def test_without_a_port_a_free_one_is_found(tmp_path):
    with server(None, tmp_path) as first, server(None, tmp_path) as second:
        assert first.server_address[1] != second.server_address[1]


def test_the_server_names_itself_in_the_sitemap(tmp_path):
    import threading

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "sitemap.xml").write_text("<urlset><url><loc>http://localhost:8000/</loc></url><url><loc>http://localhost:8000/a/</loc></url></urlset>")
    with server(0, tmp_path) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{httpd.server_address[1]}/sub/"
        text = urllib.request.urlopen(address + "sitemap.xml").read().decode()
        httpd.shutdown()
    assert f"<loc>{address}</loc>" in text and f"<loc>{address}a/</loc>" in text


def test_a_failing_step_says_where_its_output_is():
    with pytest.raises(Trouble, match=r"nothing failed: SomeError: it broke Do this. \(Whole output: .cache/logs/nothing.log\)"):
        run([sys.executable, "-c", "import sys; print('SomeError: it broke'); sys.exit(3)"], "nothing", "Do this.")
    with pytest.raises(Trouble, match="no-such-program is not there. Install it."):
        run(["no-such-program"], "nothing", "Install it.")


def test_what_mkdocs_complains_of_is_shown_whole(tmp_path):
    log = tmp_path / "mkdocs.log"
    log.write_text(f"INFO    -  Building\\nERROR   -  \n{ROOT}/docs/a/b.md: kind: got 'x'\nWARNING -  Doc file 'c.md' contains a link\n\nAborted with a BuildError!\n")
    assert complaints(log) == "docs/a/b.md: kind: got 'x'\nDoc file 'c.md' contains a link"


def test_packages_that_do_not_match_their_hash_are_refused(monkeypatch):
    def pip(*_, **__):
        log = ROOT / ".cache/logs/pip-test-hash.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.")
        raise Trouble("pip failed: DO NOT MATCH THE HASHES")

    monkeypatch.setattr(environment, "run", pip)
    with pytest.raises(Trouble, match="is not the one that requirements/test-hash.txt pins by hash"):
        environment._pip("test-hash")


@pytest.fixture
def pyodide(monkeypatch, tmp_path):
    """A Pyodide whose lock file wants a NumPy that is just b'good'."""
    folder = tmp_path / "pyodide"
    folder.mkdir()
    package = {"file_name": "numpy.whl", "sha256": runtime._sha256(b"good")}
    (folder / "pyodide-lock.json").write_text(json.dumps({"packages": {"numpy": package}}))
    monkeypatch.setattr(runtime, "PYODIDE", folder)
    monkeypatch.setattr(runtime, "CACHE", tmp_path / ".cache")
    monkeypatch.setattr(runtime, "ROOT", tmp_path)
    return tmp_path


def unreachable(_):
    raise OSError("not reachable")


def test_numpy_comes_from_the_second_place_when_the_first_lies(pyodide, monkeypatch):
    monkeypatch.setattr(runtime, "_from_cdn", lambda _: b"evil")
    monkeypatch.setattr(runtime, "_from_pypi", lambda _: b"good")
    assert runtime.numpy_wheel().read_bytes() == b"good"
    monkeypatch.setattr(runtime, "_from_cdn", unreachable)
    monkeypatch.setattr(runtime, "_from_pypi", unreachable)
    assert runtime.numpy_wheel().read_bytes() == b"good", "the kept one is used without asking anybody"


def test_without_numpy_the_sentence_names_both_places_and_a_way_out(pyodide, monkeypatch):
    monkeypatch.setattr(runtime, "_from_cdn", lambda _: b"evil")
    monkeypatch.setattr(runtime, "_from_pypi", unreachable)
    with pytest.raises(Trouble, match=r"CDN: the file's SHA-256 is not the one.*PyPI: not reachable.*put numpy.whl into .cache/downloads by hand"):
        runtime.numpy_wheel()


def test_no_browser_ends_in_one_sentence(monkeypatch):
    def refuse(*_, **__):
        raise Trouble("no")

    monkeypatch.setattr(environment, "browser", lambda: None)
    monkeypatch.setattr(environment, "run", refuse)
    with pytest.raises(Trouble, match="There is no browser to test with: install Chromium or Chrome"):
        environment.ensure_browser()


def test_a_step_is_fresh_until_what_it_reads_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(stamps, "CACHE", tmp_path)
    file = tmp_path / "input"
    file.write_text("1")
    state = stamps.digest([file], "word")
    assert not stamps.is_fresh("step", state)
    stamps.mark_fresh("step", state)
    assert stamps.is_fresh("step", stamps.digest([file], "word"))
    assert not stamps.is_fresh("step", stamps.digest([file], "other word"))
    file.write_text("2")
    assert not stamps.is_fresh("step", stamps.digest([file], "word"))


def test_a_new_entry_has_its_files_is_found_and_is_no_longer_planned(tmp_path):
    planned = tmp_path / "docs" / "planned.yml"
    planned.parent.mkdir()
    planned.write_text("# Note.\nstate-space: [\n  sixth, seventh, sixth-two]\nother: [sixth]\n")
    made = create("state-space/sixth", tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in made} == {
        "docs/state-space/sixth.md", "docs/state-space/index.md", "vocab/state_space/sixth.py", "vocab/state_space/__init__.py",
        "vocab/state_space/tests/test_sixth.py", "snippets/state_space/sixth.py", "snippets/state_space/__init__.py"}
    assert [e.name for e in entries(tmp_path)] == ["state-space/sixth"]
    assert planned.read_text() == "# Note.\nstate-space: [\n  seventh, sixth-two]\nother: [sixth]\n"
    for path in made:
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
    with pytest.raises(Trouble, match="is there already; nothing was written"):
        create("state-space/sixth", tmp_path)


@pytest.mark.parametrize("name", ["attention", "Attention/x", "a/b/c", "a_b/c", "../x", "a/-b"])
def test_a_name_that_cannot_be_is_refused(name, tmp_path):
    with pytest.raises(Trouble, match="is no entry's name"):
        create(name, tmp_path)


def test_taking_the_last_of_a_list_leaves_yaml(tmp_path):
    import yaml

    path = tmp_path / "planned.yml"
    path.write_text("a: [\n  one, two,\n  three]\n")
    for slug, left in (("three", ["one", "two"]), ("one", ["two"]), ("two", [])):
        unplan(path, "a", slug)
        assert [n for n in yaml.safe_load(path.read_text())["a"] if n] == left


def test_the_runtime_that_is_served_is_the_pinned_one(site):
    folder = site / "assets" / "pyodide"
    lock = json.loads((folder / "lock.json").read_text())
    assert set(lock["packages"]) == {"numpy", "snippets"}
    for package in lock["packages"].values():
        assert runtime._sha256((folder / package["file_name"]).read_bytes()) == package["sha256"]
    official = json.loads((ROOT / "node_modules/pyodide/pyodide-lock.json").read_text())
    assert lock["packages"]["numpy"]["sha256"] == official["packages"]["numpy"]["sha256"]
    assert (folder / lock["packages"]["snippets"]["file_name"]).stat().st_size < 60_000, "entries are fetched one by one, not with the library"
