"""Pages from prose: plain functions from what was read to Markdown. They know nothing of MkDocs."""

from __future__ import annotations

import ast
import json
import posixpath
import re
from html import escape
from pathlib import Path

from hooks.cell import Assets, cell, written_in
from hooks.matter import PageError
from hooks.site import Family, Guide, Page, Site, check_fences, plain
from vocab.entries import family_cell, guide_cell

EXCLUDE = "{: data-search-exclude }"  # code and API would make the search index several times larger


def compose(page: Page, site: Site, made: dict[Path, dict], assets: Assets) -> str:
    """The whole Markdown of an entry's page; ``made`` are the drawn demos."""
    check_fences(page.entry.page, page.prose)
    before, errata = _split_errata(page.prose)
    lead, body = before.split("\n## ", 1)
    parts = [
        f"# {page.matter.title}",
        f'<p class="definition" markdown="span">{lead.strip()}</p>',
        chips(page, site),
        live(page, made, assets),
        "## " + body.strip(),
        pytorch(page),
        kernel(page, site),
        errata,
        relations(page, site),
        papers(page.matter.papers, site),
    ]
    text = "\n\n".join(part for part in parts if part)
    return resolve(text, page.entry.name, site, page.entry.page) + abbreviations(page.entry.name, text, site)


def _split_errata(prose: str) -> tuple[str, str]:
    before, mark, after = prose.partition("\n## Errata")
    return before, ("## Errata" + after).strip() if mark else ""


# Head


def chips(page: Page, site: Site) -> str:
    """Family, year, status, what the page has, and the agreement of its versions."""
    family = site.families[page.entry.family].matter.title
    made = [f'<li><a href="../">{escape(family)}</a></li>', f"<li>{page.matter.year}</li>",
            f'<li class="status {page.matter.status}">{page.matter.status}</li>']
    if page.runs_here:
        made.append('<li><a href="#live">runs here</a></li>')
    if page.has_kernel:
        made.append('<li><a href="#gpu-kernel">GPU kernel</a></li>')
    if page.entry.module.exists():
        made.append(f"<li>{agreement(page)}</li>")
    also = ", ".join(escape(a) for a in page.matter.aliases)
    named = f'<p class="aliases">Also called {also}.</p>' if also else ""
    return f'<ul class="chips">{"".join(made)}</ul>{named}'


def agreement(page: Page) -> str:
    """The chip with what ``pytest vocab`` found, or that nothing was found yet."""
    record = page.record
    if record is None:
        return "agreement not checked yet"
    changed = record["sources"] != page.entry.sources()
    torch = written_in(page.entry.module, "torch", "PyTorch")
    here = written_in(page.entry.snippet, "numpy", "NumPy") if page.runs_here else "NumPy"
    both = f"{here} = {torch}" if here != torch else "in the browser = as tested"
    pairs = [(both, record.get("numpy")), (f"Triton = {torch}", record.get("triton"))]
    found = [(name, value) for name, value in pairs if value is not None]
    largest = max((value for _, value in found), default=None)
    rows = [(name, f"largest difference {value:.1e} of the largest value" if value else "no difference") for name, value in found]
    rows += [("Oracles", ", ".join(record["oracles"]) or "none named"), ("Tests passed", str(record["tests"]))]
    if gpu := record.get("gpu"):
        rows.append(("On a GPU", f"{gpu['tests']} tests on {gpu['device']}"))
    elif page.has_kernel:
        rows.append(("On a GPU", "not run yet"))
    rows += [("Versions", ", ".join(f"{k} {v}" for k, v in record["versions"].items())), ("Date", record["date"])]
    table = "".join(f"<tr><th scope='row'>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in rows)
    names = both + (" = Triton" if record.get("triton") is not None else "")
    close = f"to {largest:.0e}" if largest else "exactly"
    said = "changed since checked" if changed else (f"{names} {close}" if found else f"{record['tests']} tests")
    state = "changed" if changed else "agrees"
    return f'<details class="agreement {state}"><summary>{escape(said)}</summary><table>{table}</table></details>'


def live(page: Page, made: dict[Path, dict], assets: Assets) -> str:
    """The live cell, where the entry has a variant that runs in the browser."""
    if not page.runs_here:
        return ""
    return cell(page.entry.name, page.matter.title, page.entry.snippet, made[page.entry.snippet], "../../", assets)


# Code


def pytorch(page: Page) -> str:
    """The module's source without the docstrings, which the API below it shows, and its tests by name."""
    entry = page.entry
    if not entry.module.exists():
        return ""
    source, public = without_docstrings(entry.module.read_text(encoding="utf-8"))
    path, test = (f.relative_to(entry.root).as_posix() for f in (entry.module, entry.test))
    options = f"""::: vocab.{entry.python}
    options:
      members: {json.dumps(public)}
"""
    names = "".join(f"<li>{escape(name)}</li>" for name in test_names(entry.test))
    tests = (f'<details class="tests"><summary>What its tests check</summary><ul>{names}</ul>'
             f'<p><a href="../../assets/sources/{test}">{test}</a></p></details>') if names else ""
    return f"""## {written_in(entry.module, "torch", "PyTorch")} {EXCLUDE}

<a class="source" href="../../assets/sources/{path}">{path}</a>

```python
{source.strip()}
```

{options}

{tests}"""


def without_docstrings(source: str) -> tuple[str, list[str]]:
    """Source without the docstrings of public classes, functions and their methods; and the public names."""
    tree = ast.parse(source)
    public = next((ast.literal_eval(node.value) for node in tree.body
                   if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"), [])
    lines = source.splitlines()
    for node in reversed([n for top in tree.body if getattr(top, "name", "") in public for n in ast.walk(top)]):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) and len(node.body) > 1:
            text = node.body[0]
            for i in range(text.lineno - 1, text.end_lineno):
                lines[i] = None
            if node.body[1].lineno - 1 > text.end_lineno and not lines[text.end_lineno].strip():
                lines[text.end_lineno] = None
    return "\n".join(line for line in lines if line is not None), public


def test_names(path: Path) -> list[str]:
    """The test functions of a file as sentences."""
    if not path.exists():
        return []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n.name.removeprefix("test_").replace("_", " ") for n in tree.body if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]


def kernel(page: Page, site: Site) -> str:
    """The Triton functions of the entry's kernels, and what was measured, or that nothing was."""
    if page.matter.kernel == "planned":
        return f"## GPU kernel {EXCLUDE}\n\nNo kernel yet: this entry runs in PyTorch."
    if not page.has_kernel:
        return ""
    parts = [f"## GPU kernel {EXCLUDE}"]
    if "guides/gpu-kernels" in site.guides:
        parts.append('How to read this: <a href="../../guides/gpu-kernels/">GPU kernels</a>.')
    for file in page.entry.kernels:
        path = file.relative_to(page.entry.root).as_posix()
        parts.append(measured(file.stem, page.entry.root))
        parts.append(f'<a class="source" href="../../assets/sources/{path}">{path}</a>')
        other = site.pages.get(page.matter.kernel or "")
        code = triton_functions(file)  # an operation may work with another's kernels only
        if other is not None and file in other.entry.kernels:
            parts.append(f"The code is shown with [{other.matter.title}](entry:{other.entry.name}#gpu-kernel).")
        elif code:
            parts.append(f"```python\n{code}\n```")
        parts.append(compiled(file.stem, page.entry.root))
    return "\n\n".join(p for p in parts if p)


def triton_functions(path: Path) -> str:
    """The functions of a file that run on the GPU."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
             and any("jit" in ast.unparse(d) for d in node.decorator_list)]
    found.sort(key=lambda n: n.lineno)
    blocks = []
    for node in found:
        first = min(d.lineno for d in node.decorator_list) - 1
        block = lines[first:node.end_lineno]
        indent = len(block[0]) - len(block[0].lstrip())
        blocks.append("\n".join(line[indent:] for line in block))
    return "\n\n\n".join(blocks)


def measured(op: str, root: Path) -> str:
    """A table of the newest benchmark records of a kernel: its time, and how much longer each other implementation takes."""
    records = _newest(root, op)
    if not records:
        return "Speed: not measured on a GPU yet (`./dev bench kernels` does it)."
    rows: dict[tuple, dict[str, dict]] = {}
    for r in records:
        if r["direction"] != "backward":  # forward, and both together
            rows.setdefault((r["shape"], r["dtype"], r["direction"]), {})[r["provider"]] = r
    others = list(dict.fromkeys(name for found in rows.values() for name in found if name != "triton"))
    head = ["shape", "dtype", "direction", "kernel (ms)", "of the bandwidth", *(f"{name}, times as long" for name in others)]
    body = []
    for key, found in rows.items():
        own = found.get("triton", {})
        cells = [*key, own.get("p50_ms", "–"), own.get("bandwidth_share", "–"), *(found.get(name, {}).get("ratio", "–") for name in others)]
        body.append("| " + " | ".join(map(str, cells)) + " |")
    first = records[-1]
    table = "| " + " | ".join(head) + " |\n|" + "---|" * len(head) + "\n" + "\n".join(body)
    return f"Measured on {first['gpu']}, torch {first['torch']}, Triton {first['triton']}, {first['date']}.\n\n{table}"


def compiled(op: str, root: Path) -> str:
    """What the stored configurations of a kernel need, according to the compiler."""
    records = [r for r in _records(root, "sm_90") if r["op"] == op]
    if not records:
        return ""

    def span(key: str) -> str:
        low, high = min(r[key] for r in records), max(r[key] for r in records)
        return f"{low:,} to {high:,}" if low < high else f"{low:,}"

    products = sum(r["tensor_core"] > 0 for r in records)
    return (f"For sm_90 (Triton {records[0]['triton']}) {len(records)} stored configurations: {span('registers')} registers a thread, none spilled, "
            f"{span('shared')} bytes of shared memory, {span('instructions')} instructions; {products or 'none'} with tensor core products. "
            f'<a href="../../assets/sources/benchmarks/results/sm_90.jsonl">All</a>.')


# Relations


def relations(page: Page, site: Site) -> str:
    """Used by, pairs with and see also; only entries that exist are linked."""
    lines = []
    if page.matter.used_by:
        lines.append("**Used by** " + ", ".join(page.matter.used_by) + ".")
    if page.pairs_with:
        lines.append("**Pairs with** " + ", ".join(_link(page, site.pages[n]) for n in page.pairs_with) + ".")
    if page.see_also:
        lines.append("**See also** " + ", ".join(_link(page, site.pages[n]) for n in page.see_also) + ".")
    return "## Around it\n\n" + "\n\n".join(lines) if lines else ""


def _link(page: Page, other: Page) -> str:
    return f"[{other.matter.title}](entry:{other.entry.name})"


def papers(keys: list[str], site: Site) -> str:
    if not keys:
        return ""
    items = "".join(site.papers[key].html() for key in keys)
    return f'## Papers {EXCLUDE}\n\n<ol class="papers">{items}</ol>'


# Links, citations, hover definitions


def resolve(text: str, here: str, site: Site, path: Path) -> str:
    """Turns ``entry:`` links and ``[@key]`` citations into links; a planned entry becomes plain text."""

    def link(found: re.Match) -> str:
        label, name, anchor = found.groups()
        if name in site.pages:
            return f"[{label}]({_relative(here, name)}.md{anchor or ''})"
        if name in site.planned:
            return label
        raise PageError(f"{path}: entry:{name} is no entry, and docs/planned.yml does not name it")

    def cite(found: re.Match) -> str:
        key = found.group(1)
        if key not in site.papers:
            raise PageError(f"{path}: [@{key}] is no key of docs/references.bib")
        return f"[{site.papers[key].short}](#paper-{key})"

    text = re.sub(r"\[([^\[\]]+)\]\(entry:([\w-]+/[\w-]+)(#[\w-]+)?\)", link, text)
    if "](entry:" in text:
        raise PageError(f"{path}: a link to entry: is not of the form [text](entry:family/slug)")
    return re.sub(r"\[@([\w-]+)\]", cite, text)


def _relative(here: str, there: str) -> str:
    return posixpath.relpath(there, posixpath.dirname(here) or ".")


def abbreviations(here: str, text: str, site: Site) -> str:
    """Hover definitions of other entries' aliases that stand in the text.

    An alias in lower case ("sliding window") may mean another thing in another family, so it is explained in its own only.
    """
    family, lines = here.split("/")[0], []
    for page in site.pages.values():
        if page.entry.name == here:
            continue
        for alias in page.matter.aliases:
            if alias not in text:  # of nearly all, so this comes first
                continue
            everywhere = sum(c.isupper() for c in alias) >= 2
            if (everywhere or page.entry.family == family) and re.search(rf"(?<!\w){re.escape(alias)}(?!\w)", text):
                lines.append(f"*[{alias}]: {page.matter.title}: {page.plain_definition}")
    return "\n\n" + "\n".join(lines) + "\n" if lines else "\n"


# Pages over many entries


def compose_family(family: Family, site: Site, made: dict[Path, dict], assets: Assets) -> str:
    """A family's page: its prose, its live figure, then its entries with the columns that their front matter compares."""
    path = site.root / "docs" / family.slug / "index.md"
    check_fences(path, family.prose)
    text = f"# {family.matter.title}\n\n<p class=\"definition\">{escape(family.matter.question)}</p>\n\n{family.prose}"
    columns = list(dict.fromkeys(key for page in family.pages for key in page.matter.compare))
    head = "".join(f"<th scope='col'>{escape(c.replace('_', ' '))}</th>" for c in columns)
    rows = "".join(
        f'<tr><th scope="row"><a href="{p.entry.slug}/">{escape(p.matter.title)}</a></th><td>{p.matter.year}</td>'
        + "".join(f"<td>{escape(str(p.matter.compare.get(c, '–')))}</td>" for c in columns) + "</tr>"
        for p in family.pages
    )
    table = f'<div class="wide" tabindex="0" role="group" aria-label="Comparison"><table class="compare"><thead><tr><th scope="col">Entry</th><th scope="col">Year</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    listed = "".join(f'<li><a href="{p.entry.slug}/">{escape(p.matter.title)}</a> <span>{escape(p.plain_definition)}</span></li>' for p in family.pages)
    here, snippet = f"{family.slug}/index", family_cell(family.slug, site.root)
    if snippet in made:
        text += "\n\n## Side by side\n\n" + cell(family.slug, family.matter.title, snippet, made[snippet], "../", assets, unfolded=False)
    text += f'\n\n## Entries\n\n<ul class="listing">{listed}</ul>\n\n## Compared\n\n{table}\n'
    return resolve(text, here, site, path) + abbreviations(here, text, site)


LIVE = "{{ live }}"
KERNELS = "{{ kernels }}"


def compose_guide(guide: Guide, site: Site, made: dict[Path, dict], assets: Assets) -> str:
    """A page across entries, with its live cell where the prose asks for it."""
    check_fences(guide.path, guide.prose)
    snippet, text = guide_cell(guide.path, site.root), guide.prose
    if (snippet in made) != (text.count(LIVE) == 1):
        raise PageError(f"{guide.path}: the prose has {LIVE} {text.count(LIVE)} times; expected once where {snippet.relative_to(site.root)} is there, and else not")
    text = text.replace(KERNELS, kernels_table(site))
    text = f'# {guide.matter.title}\n\n<p class="definition">{escape(guide.matter.question)}</p>\n\n{text}'
    text = resolve(text, guide.name, site, guide.path) + "\n\n" + papers(guide.matter.papers, site) + abbreviations(guide.name, text, site)
    return text.replace(LIVE, cell(guide.name, guide.matter.title, snippet, made[snippet], "../../", assets, unfolded=False)) if snippet in made else text


def kernels_table(site: Site) -> str:
    """Every operation with a kernel: what it does, which entries use it, what it was compiled to and what was measured."""
    rows = []
    for file in sorted((site.root / "vocab" / "kernels").glob("*.py")):
        spec = next((n.value for n in ast.parse(file.read_text(encoding="utf-8")).body
                     if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "SPEC" and isinstance(n.value, ast.Call)), None)  # fmt: skip
        if spec is None:
            continue
        summary = next(ast.literal_eval(k.value) for k in spec.keywords if k.arg == "summary")
        path = file.relative_to(site.root).as_posix()
        used = ", ".join(f"[{p.matter.title}](entry:{p.entry.name})" for p in site.pages.values() if file in p.entry.kernels)
        configurations = sum(r["op"] == file.stem for r in _records(site.root, "sm_90"))
        own = [r["ratio"] for r in _newest(site.root, file.stem) if r["provider"] == "eager" and "ratio" in r]
        measured = f"{min(own):.2f} to {max(own):.2f} times as fast as PyTorch" if own else "not measured"
        cells = (f'<a href="../../assets/sources/{path}"><code>{file.stem}</code></a>', summary, used or "–",
                 str(configurations or "of another operation"), measured)  # fmt: skip
        rows.append("| " + " | ".join(cells) + " |")
    return "| operation | what it does | entries | stored configurations | speed |\n|---|---|---|---|---|\n" + "\n".join(rows)


def _newest(root: Path, op: str) -> list[dict]:
    """The benchmark records of a kernel from the last day on which it was measured."""
    records = [r for r in _records(root, "kernels") if r["op"] == op]
    return [r for r in records if r["date"] == max(r["date"] for r in records)]


def _records(root: Path, name: str) -> list[dict]:
    path = root / "benchmarks" / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def compose_entries(site: Site) -> str:
    """The index of all entries with its filters."""

    def options(name: str, label: str, values: list[tuple[str, str]]) -> str:
        made = "".join(f'<option value="{escape(v)}">{escape(t)}</option>' for v, t in values)
        return f'<label>{label} <select name="{name}"><option value="">any</option>{made}</select></label>'

    pages = sorted(site.pages.values(), key=lambda p: p.matter.title.lower())
    families = [(f.slug, f.matter.title) for f in site.families.values()]
    kinds = [(k, k) for k in sorted({p.matter.kind for p in pages})]
    statuses = [(s, s) for s in sorted({p.matter.status for p in pages})]
    yes = [("yes", "yes"), ("no", "no")]
    form = ('<form class="filters" hidden><label>Text <input type="search" name="text"></label>'
            + options("family", "Family", families) + options("kind", "Kind", kinds) + options("status", "Status", statuses)
            + options("runs", "Runs here", yes) + options("kernel", "GPU kernel", yes)
            + '<button type="reset" class="md-button">Clear</button> <output></output></form>')
    rows = "".join(
        f'<tr data-family="{p.entry.family}" data-kind="{p.matter.kind}" data-status="{p.matter.status}" '
        f'data-runs="{_yes(p.runs_here)}" data-kernel="{_yes(p.has_kernel)}"><th scope="row"><a href="../{p.entry.name}/">{escape(p.matter.title)}</a>'
        f'{_also(p)}</th><td>{escape(p.plain_definition)}</td>'
        f"<td>{escape(site.families[p.entry.family].matter.title)}</td><td>{p.matter.year}</td></tr>"
        for p in pages
    )
    return ("# All entries\n\n" + form + '\n\n<div class="wide" tabindex="0" role="group" aria-label="All entries"><table class="entries"><thead><tr><th scope="col">Entry</th><th scope="col">What it is</th>'
            f"<th scope='col'>Family</th><th scope='col'>Year</th></tr></thead><tbody>{rows}</tbody></table></div>\n")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _also(page: Page) -> str:
    return f' <small>{escape(", ".join(page.matter.aliases))}</small>' if page.matter.aliases else ""


def compose_papers(site: Site) -> str:
    """All papers, with the pages that cite them."""
    cited: dict[str, list[tuple[str, str]]] = {}
    for page in site.pages.values():
        for key in page.matter.papers:
            cited.setdefault(key, []).append((page.entry.name, page.matter.title))
    for guide in site.guides.values():
        for key in guide.matter.papers:
            cited.setdefault(key, []).append((guide.name, guide.matter.title))
    items = []
    for paper in sorted(site.papers.values(), key=lambda p: (p.who.lower(), p.year)):
        on = ", ".join(f'<a href="../{name}/">{escape(title)}</a>' for name, title in cited.get(paper.key, []))
        items.append(paper.html_with_pages(on))
    return f'# Papers\n\nAll of them as one file: [references.bib](references.bib).\n\n<ul class="papers">{"".join(items)}</ul>\n'


def compose_home(site: Site, made: dict[Path, dict], assets: Assets) -> str:
    """Search, one live figure, the families as cards, reading paths."""
    page = site.pages[site.home.live]
    shown = cell(page.entry.name, page.matter.title, page.entry.snippet, made[page.entry.snippet], "", assets, unfolded=False)
    cards = "".join(
        f'<li><a href="{f.slug}/"><b>{escape(f.matter.title)}</b><span>{escape(plain(f.matter.question))}</span><small>{len(f.pages)} {"entry" if len(f.pages) == 1 else "entries"}</small></a></li>'
        for f in site.families.values()
    )
    paths = "".join(
        f"<li><b>{escape(title)}</b> " + " → ".join(f'<a href="{n}/">{escape(site.pages[n].matter.title)}</a>' for n in names if n in site.pages) + "</li>"
        for title, names in site.home.paths.items() if any(n in site.pages for n in names)
    )
    guides = "".join(f'<li><a href="{g.name}/"><b>{escape(g.matter.title)}</b><span>{escape(plain(g.matter.question))}</span></a></li>' for g in site.guides.values())
    guides = f'## Guides\n\n<ul class="cards">{guides}</ul>\n\n' if guides else ""
    return f"""# {site.home.title}

{resolve(site.home_prose, "index", site, site.root / "docs/index.md").strip()}

<p class="home-search"><label for="__search" class="md-button md-button--primary">Search {len(site.pages)} entries</label> <a class="md-button" href="entries/">All entries</a></p>

## One of them, live

<p>This is <a href="{page.entry.name}/">{escape(page.matter.title)}</a>: {escape(page.plain_definition)}</p>

{shown}

## Families

<ul class="cards">{cards}</ul>

{guides}## Reading paths

<ul class="paths">{paths}</ul>
"""
