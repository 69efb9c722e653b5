"""Composition: what a page becomes, and what the build refuses with which words."""

import json
import re
import shutil
from pathlib import Path

import pytest

from hooks import compose, mkdocs_hooks
from hooks.matter import EntryMatter, PageError, check_prose, read
from hooks.papers import load
from hooks.site import check_fences, plain, read_site
from vocab.entries import ROOT, entries

MATTER = """---
title: Thing
kind: module
status: established
year: 2020
papers: [someone2020thing]
related: [family/other]
---
"""
PROSE = """A thing is what the tests use.

## How it works

It works: see [the other](entry:family/other) and [a plan](entry:family/later) [@someone2020thing].

## When to use it

Now.

## Hyperparameters

None.

## What goes wrong

Nothing.
"""
OTHER = MATTER.replace("Thing", "Other").replace("related: [family/other]\n", "aliases: [OTR, lower words]\n")


@pytest.fixture
def root(tmp_path):
    """A small site of two entries."""
    family = tmp_path / "docs" / "family"
    family.mkdir(parents=True)
    (family / "index.md").write_text("---\ntitle: Family\nquestion: What for?\norder: [thing, other]\n---\nProse.\n")
    (family / "thing.md").write_text(MATTER + PROSE)
    (family / "other.md").write_text(OTHER + PROSE.replace("entry:family/other", "entry:family/thing"))
    (tmp_path / "docs" / "planned.yml").write_text("family: [later]\n")
    (tmp_path / "docs" / "index.md").write_text("---\ntitle: Home\nlive: family/thing\npaths: {A path: [family/thing]}\n---\nWelcome.\n")
    (tmp_path / "docs" / "references.bib").write_text(
        "@article{someone2020thing,\n  author = {Someone, Ann and Else, Bo},\n  title = {A {Thing}},\n  year = {2020},\n  eprint = {2001.00001}\n}\n"
    )
    return tmp_path


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(("file", "old", "new", "message"), [
    ("family/thing.md", "kind: module", "kind: gadget", r"thing.md: kind: got 'gadget'; Input should be 'module', 'function'"),
    ("family/thing.md", "year: 2020", "year: twenty", r"thing.md: year: got 'twenty'; Input should be a valid integer"),
    ("family/thing.md", "year: 2020\n", "", r"thing.md: year: missing"),
    ("family/thing.md", "year: 2020", "yeer: 2020", r"yeer: unknown key; allowed are title, kind"),
    ("family/thing.md", "---\ntitle", "title", "no front matter"),
    ("family/thing.md", "title: Thing", "title: [Thing", "not YAML"),
    ("family/thing.md", "## When to use it", "## When", r"section '## When to use it' is missing or empty"),
    ("family/thing.md", "Nothing.", "", r"section '## What goes wrong' is missing or empty"),
    ("family/thing.md", "Nothing.", "Nothing.\n\n## Trivia\n\nx", r"section '## Trivia' is unknown; allowed are How it works"),
    ("family/thing.md", "A thing is", "# A heading\n\nA thing is", "begins with one sentence"),
    ("family/thing.md", "Nothing.", "TODO", "still has a TODO"),
    ("family/thing.md", "[family/other]", "[family/nowhere]", r"related: got 'family/nowhere'; no such entry"),
    ("family/thing.md", "[family/other]", "[Family Other]", r"related.0: got 'Family Other'; String should match pattern"),
    ("family/thing.md", "[family/other]", "[family/thing]", "not related to itself"),
    ("family/thing.md", "papers: [someone2020thing]", "papers: [nobody1999]", r"papers: got 'nobody1999'; no such key"),
    ("family/thing.md", "papers: [someone2020thing]", "papers: []", r"\[@someone2020thing\] cites a key that `papers` does not list"),
    ("family/index.md", "order: [thing, other]", "order: [thing, gone]", r"order: 'gone' is no entry of this family"),
    ("index.md", "live: family/thing", "live: family/later", r"live: 'family/later' is no entry"),
    ("references.bib", "eprint = {2001.00001}", "pages = {1}", "none of eprint, doi, url"),
    ("references.bib", "year = {2020},\n", "", "no year"),
])
def test_a_mistake_names_file_key_what_came_and_what_is_allowed(root, file, old, new, message):
    read_site(root)
    change(root / "docs" / file, old, new)
    with pytest.raises(PageError, match=message):
        read_site(root)


def test_all_mistakes_are_named_at_once(root):
    change(root / "docs/family/thing.md", "kind: module", "kind: gadget")
    change(root / "docs/family/other.md", "year: 2020", "year: x")
    with pytest.raises(PageError) as error:
        read_site(root)
    assert "thing.md: kind" in str(error.value) and "other.md: year" in str(error.value)


def test_a_paper_that_no_page_cites_is_named(root):
    with (root / "docs/references.bib").open("a") as file:
        file.write("@article{lonely2001, author = {L, O}, title = {T}, year = {2001}, doi = {10.1/2}}\n")
    with pytest.raises(PageError, match="lonely2001: no page cites it"):
        read_site(root)


def test_a_key_that_is_there_twice_is_named(root):
    text = (root / "docs/references.bib").read_text()
    (root / "docs/references.bib").write_text(text + text)
    with pytest.raises(PageError, match="there twice"):
        load(root / "docs/references.bib")


@pytest.mark.parametrize("fence", ["```python\nx = 1\n```", "````py\nx = 1\n````", "```python\n```", '```python\n--8<-- "docs/x.py"\n```',
                                   "- item\n\n  ```python\n  x = 1\n  ```", "~~~python\nx = 1\n~~~"])
def test_typed_python_is_refused(fence):
    with pytest.raises(PageError, match="a Python fence holds only"):
        check_fences(Path("page.md"), f"Text.\n\n{fence}\n")


def test_python_from_tested_code_and_other_fences_are_allowed():
    check_fences(Path("page.md"), '```python\n--8<-- "vocab/attention/grouped_query.py:region"\n```\n\n```text\nx = 1\n```\n')


def test_see_also_works_both_ways_and_typed_once(root):
    site = read_site(root)
    assert site.pages["family/thing"].see_also == ["family/other"]
    assert site.pages["family/other"].see_also == ["family/thing"]


def composed(root, name="family/thing"):
    site = read_site(root)
    return compose.compose(site.pages[name], site, {}, None)


def test_links_to_entries_and_citations(root):
    page = composed(root)
    assert "see [the other](other.md) and a plan [Someone and Else 2020](#paper-someone2020thing)" in page
    assert "**See also** [Other](other.md)." in page
    change(root / "docs/family/thing.md", "entry:family/later", "entry:family/never")
    with pytest.raises(PageError, match="entry:family/never is no entry"):
        composed(root)
    change(root / "docs/family/thing.md", "entry:family/never", "entry:Family/Never!")
    with pytest.raises(PageError, match="not of the form"):
        composed(root)


def test_a_planned_entry_becomes_a_link_once_it_is_there(root):
    shutil.copy(root / "docs/family/other.md", root / "docs/family/later.md")
    assert "[a plan](later.md)" in composed(root)


def test_aliases_are_explained_elsewhere_but_not_on_their_own_page(root):
    change(root / "docs/family/thing.md", "It works:", "OTR works with lower words:")
    assert "*[OTR]: Other: A thing is what the tests use." in composed(root)
    assert "*[lower words]: Other" in composed(root)
    assert "*[OTR]" not in composed(root, "family/other")


def test_a_lower_case_alias_is_explained_in_its_own_family_only(root):
    elsewhere = root / "docs" / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "index.md").write_text("---\ntitle: Else\nquestion: Where?\n---\nProse.\n")
    (elsewhere / "page.md").write_text(MATTER + PROSE.replace("It works", "OTR and lower words"))
    page = composed(root, "elsewhere/page")
    assert "*[OTR]" in page and "*[lower words]" not in page
    assert "(../family/other.md)" in page


def test_plain_text_has_no_marks():
    assert plain("A *thing* of $x^2$ and `code`, see [it](entry:a/b) [@key].") == "A thing of x^2 and code, see it ."


def test_docstrings_are_shown_once():
    source = '"""Module."""\n\n__all__ = ["f"]\n\n\ndef f(x):\n    """Doc.\n\n    Args:\n        x: y\n    """\n\n    return x\n\n\ndef _g():\n    """Kept."""\n    return 1\n'
    shown, public = compose.without_docstrings(source)
    assert public == ["f"]
    assert shown.splitlines() == ['"""Module."""', "", '__all__ = ["f"]', "", "", "def f(x):", "    return x", "", "", "def _g():", '    """Kept."""', "    return 1"]


def test_every_shown_module_still_compiles():
    for entry in entries():
        if entry.module.exists():
            compile(compose.without_docstrings(entry.module.read_text(encoding="utf-8"))[0], entry.name, "exec")


def test_the_agreement_chip_tells_when_sources_changed(root):
    (root / "vocab/family").mkdir(parents=True)
    (root / "vocab/family/thing.py").write_text("__all__ = []\n")
    assert "agreement not checked yet" in composed(root)
    site = read_site(root)
    entry = site.pages["family/thing"].entry
    entry.record.parent.mkdir(parents=True)
    record = {"sources": entry.sources(), "tests": 7, "oracles": ["scipy"], "numpy": 3e-16, "triton": None, "versions": {"torch": "2"}, "date": "2026-01-01"}
    entry.record.write_text(json.dumps(record))
    assert "NumPy = Python to 3e-16" in composed(root) and "<td>scipy</td>" in composed(root) and "<td>7</td>" in composed(root)
    (root / "vocab/family/thing.py").write_text("import torch\n\n__all__ = []\n")
    assert "changed since checked" in composed(root)


def test_a_kernel_that_was_not_measured_says_so_and_one_that_was_shows_its_newest_numbers(root):
    assert "not measured" in compose.measured("scan", root)
    path = root / "benchmarks/results/kernels.jsonl"
    path.parent.mkdir(parents=True)
    row = {"op": "scan", "gpu": "H200", "torch": "2.11", "triton": "3.6", "shape": "8x8", "dtype": "bf16", "direction": "forward", "date": "2026-02-02",
           "provider": "triton", "p50_ms": 0.5, "bandwidth_share": 0.75}  # fmt: skip
    records = [{**row, "date": "2026-01-01", "p50_ms": 9.9}, row, {**row, "provider": "eager", "p50_ms": 1.0, "ratio": 2.0},
               {**row, "dtype": "fp32", "provider": "eager", "ratio": 3.0}, {**row, "direction": "backward", "p50_ms": 7.7},
               {**row, "op": "other", "date": "2026-03-03"}]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    table = compose.measured("scan", root)
    assert "Measured on H200, torch 2.11, Triton 3.6, 2026-02-02." in table
    assert "| 8x8 | bf16 | forward | 0.5 | 0.75 | 2.0 |" in table and "| 8x8 | fp32 | forward | – | – | 3.0 |" in table
    assert "9.9" not in table and "7.7" not in table


def test_what_a_kernel_needs_once_compiled_is_shown_of_this_kernel_only(root):
    assert compose.compiled("scan", root) == ""
    path = root / "benchmarks/results/sm_90.jsonl"
    path.parent.mkdir(parents=True)
    row = {"op": "scan", "config": "scan_forward-bf16", "warps": 4, "registers": 40, "shared": 16416, "instructions": 430, "tensor_core": 0, "triton": "3.7.1"}
    rows = [row, {**row, "registers": 128, "tensor_core": 6}, {**row, "op": "other", "registers": 255}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    said = compose.compiled("scan", root)
    assert "2 stored configurations: 40 to 128 registers a thread, none spilled, 16,416 bytes of shared memory, 430 instructions; 1 with" in said


def test_the_table_of_kernels_names_who_uses_them_and_says_what_was_not_measured(root):
    (root / "vocab/kernels").mkdir(parents=True)
    (root / "vocab/kernels/scan.py").write_text('from x import Spec\n\nSPEC = Spec(name="scan", summary="Walks once.")\n')
    (root / "vocab/kernels/helper.py").write_text("LIMIT = 3\n")
    (root / "vocab/family").mkdir(exist_ok=True)
    (root / "vocab/family/thing.py").write_text("from vocab.kernels.scan import fused\n\n__all__ = []\n")
    table = compose.kernels_table(read_site(root))
    assert "<code>scan</code></a> | Walks once. | [Thing](entry:family/thing) | of another operation | not measured |" in table and "helper" not in table
    path = root / "benchmarks/results/kernels.jsonl"
    path.parent.mkdir(parents=True)
    measured = ((0.1, "2026-01-01"), (0.5, "2026-02-02"), (2.25, "2026-02-02"))
    path.write_text("\n".join(json.dumps({"op": "scan", "provider": "eager", "ratio": r, "date": day}) for r, day in measured) + "\n")
    assert "| 0.50 to 2.25 times as fast as PyTorch |" in compose.kernels_table(read_site(root))


def test_a_kernel_to_come_is_announced(root):
    change(root / "docs/family/thing.md", "kind: module", "kind: module\nkernel: planned")
    assert "No kernel yet" in composed(root) and "GPU kernel</a>" not in composed(root)


def test_the_code_of_a_kernel_that_two_entries_use_is_shown_where_front_matter_says(root):
    (root / "vocab/kernels").mkdir(parents=True)
    (root / "vocab/kernels/scan.py").write_text("import triton\n\n\n@triton.jit\ndef device(x):\n    return x\n")
    (root / "vocab/family").mkdir(exist_ok=True)
    (root / "vocab/family/thing.py").write_text("from vocab.kernels.scan import fused\n\n__all__ = []\n")
    change(root / "docs/family/thing.md", "kind: module", "kind: module\nkernel: family/other")
    with pytest.raises(PageError, match="kernel: 'family/other' is not 'planned', nor an entry with the same kernel"):
        read_site(root)
    (root / "vocab/family/other.py").write_text("from vocab.kernels.scan import fused\n\n__all__ = []\n")
    assert "The code is shown with [Other](other.md#gpu-kernel)." in composed(root) and "def device" not in composed(root)
    change(root / "docs/family/thing.md", "kernel: family/other\n", "")
    assert "The code is shown" not in composed(root) and "def device" in composed(root)


def test_only_what_runs_on_the_gpu_is_shown_of_a_kernel_file(tmp_path):
    file = tmp_path / "op.py"
    file.write_text("import triton\n\n\ndef host():\n    pass\n\n\nif True:\n    @triton.jit\n    def device(x):\n        return x\n")
    assert compose.triton_functions(file) == "@triton.jit\ndef device(x):\n    return x"


def test_a_family_compares_its_entries_by_what_their_front_matter_says(root):
    change(root / "docs/family/thing.md", "kind: module", "kind: module\ncompare: {cost: 2·T <b>}")
    page = compose.compose_family(read_site(root).families["family"], read_site(root), {}, None)
    assert "<th scope='col'>cost</th>" in page and "<td>2·T &lt;b&gt;</td>" in page and "<td>–</td>" in page
    assert page.index(">Thing</a>") < page.index(">Other</a>"), "in the family's own order"


def test_the_policy_allows_only_scripts_that_are_there():
    page = '<head></head><script>a()</script><script src="x.js"></script><script type="application/json">{}</script>'
    policy = mkdocs_hooks.policy(page)
    assert policy.count("sha256-") == 1 and "'unsafe-inline'" not in re.search("script-src[^;]*", policy).group()


def test_a_page_says_what_its_code_is_written_in_and_an_exact_agreement(root):
    (root / "vocab/family").mkdir(parents=True)
    for source, name in (("import torch\n\n__all__ = []\n", "PyTorch"), ("from torch import nn\n\n__all__ = []\n", "PyTorch"), ("import torchless\n\n__all__ = []\n", "Python")):
        (root / "vocab/family/thing.py").write_text(source)
        entry = read_site(root).pages["family/thing"].entry
        entry.record.parent.mkdir(parents=True, exist_ok=True)
        entry.record.write_text(json.dumps({"sources": entry.sources(), "tests": 7, "oracles": [], "numpy": 0.0, "triton": None, "versions": {"numpy": "2"}, "date": "2026-01-01"}))
        text = composed(root)
        assert f"## {name} " in text and f"NumPy = {name} exactly" in text and "<td>no difference</td>" in text


def test_a_guide_shows_its_live_cell_where_it_says_and_is_on_the_first_page(root):
    guide = root / "docs" / "guides" / "a-guide.md"
    guide.parent.mkdir()
    guide.write_text("---\ntitle: A Guide\nquestion: How?\npapers: [someone2020thing]\n---\nSee [thing](entry:family/thing) [@someone2020thing].\n\n{{ live }}\n")
    with pytest.raises(PageError, match=r"the prose has \{\{ live \}\} 1 times"):
        site = read_site(root)
        compose.compose_guide(site.guides["guides/a-guide"], site, {}, compose.Assets(1, "w.whl"))
    snippet = root / "snippets" / "guides" / "a_guide.py"
    snippet.parent.mkdir(parents=True)
    snippet.write_text("x = 1\n")
    site = read_site(root)
    made = {snippet: {"figures": "FIGURES", "form": "", "controls": {}, "defaults": {}, "hint": "Try."}}
    text = compose.compose_guide(site.guides["guides/a-guide"], site, made, compose.Assets(1, "w.whl"))
    assert text.index("See [thing](../family/thing.md)") < text.index("FIGURES") < text.index("## Papers")
    assert 'data-entry="guides/a-guide"' in text and "../../papers/someone2020thing.bib" in text and "A Guide" in compose.compose_papers(site)
    with pytest.raises(PageError, match="no such key"):
        change(guide, "papers: [someone2020thing]", "papers: [nobody2020nothing]")
        read_site(root)


def test_columns_without_a_word_are_found():
    math = "<math><mi>x</mi></math>"
    content = f"<table><tr><th>name</th><th>{math}</th><th><code>n</code></th><th scope='col'> </th><th>at {math}</th></tr></table>"
    assert mkdocs_hooks.unnamed_columns(content) == [f"<th>{math}</th>", "<th scope='col'> </th>"]


def test_papers_read_as_people_write_them(root):
    paper = load(root / "docs/references.bib")["someone2020thing"]
    assert (paper.short, paper.title, paper.link) == ("Someone and Else 2020", "A Thing", "https://arxiv.org/abs/2001.00001")
    assert "author = {Someone, Ann and Else, Bo}" in paper.bibtex
    assert f'href="{paper.key}.bib"' in paper.html_with_pages("a page") and f'href="../../papers/{paper.key}.bib"' in paper.html()


def test_the_real_pages_are_read_and_none_of_the_planned_exists():
    site = read_site(ROOT)
    assert len(site.pages) >= 16
    assert not site.planned & site.pages.keys(), "take these off docs/planned.yml"


def test_front_matter_keys_are_all_explained():
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for key in EntryMatter.model_fields:
        assert f"\n{key}:" in guide, f"CONTRIBUTING.md does not explain {key}"


def test_the_exemplary_definition_is_one_sentence(tmp_path):
    page = tmp_path / "p.md"
    page.write_text(MATTER + PROSE)
    matter, prose = read(page, EntryMatter)
    assert matter.title == "Thing" and check_prose(page, prose) == "A thing is what the tests use."
