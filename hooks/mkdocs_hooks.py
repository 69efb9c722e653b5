"""What MkDocs calls while it builds. Each hook is a few lines: the work is in functions that know nothing of MkDocs."""

from __future__ import annotations

import base64
import gc
import hashlib
import html
import json
import os
import re
import shutil
import sys
from pathlib import Path

import minify_html
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from hooks import compose  # noqa: E402
from hooks.cell import Assets, render  # noqa: E402
from hooks.font import cut_font  # noqa: E402
from hooks.matter import PageError  # noqa: E402
from hooks.node import Renderer  # noqa: E402
from hooks.site import Site, plain, read_site  # noqa: E402
from vocab.entries import cells  # noqa: E402

gc.set_threshold(200_000)  # pages are many small objects that live to the end: looking for garbage took an eighth of the time

CACHE = ROOT / ".cache"
BUILT = CACHE / "web"  # what esbuild made
RUNTIME = CACHE / "runtime"  # what the browser's Python needs
WHEELS = CACHE / "wheels"
MATH_FONT = ROOT / "node_modules" / "@fontsource" / "stix-two-math" / "files" / "stix-two-math-latin-400-normal.woff2"

site: Site
node: Renderer
assets: Assets
made: dict[Path, dict]  # the drawn demos
_formulas: dict[tuple[str, bool], str] = {}
_cells: dict[str, str] = {}  # of each page, its live cell while Markdown works on the rest
CELL = re.compile(r'<section class="live".*?</section>', re.S)
HERE = '<div class="live-here"></div>'


def on_config(config):
    global site, node, assets, made
    config.site_url = os.environ.get("SITE_URL", config.site_url)
    for needed in (BUILT / "static.mjs", RUNTIME / "lock.json", WHEELS):
        if not needed.exists():
            raise PluginError(f"{needed.relative_to(ROOT)} is not there: run ./dev build, which makes it and then runs mkdocs")
    try:
        site = read_site(ROOT)
        node = Renderer(BUILT / "static.mjs")
        made = render(cells(ROOT).values(), ROOT, node, CACHE / "figures")
    except PageError as error:
        raise PluginError(f"\n{error}") from None
    assets = Assets(sum(f.stat().st_size for f in RUNTIME.iterdir()), next(WHEELS.glob("*.whl")).name)
    config.nav = [
        {"Home": "index.md"},
        {"All entries": "entries.md"},
        *([{"Guides": [{g.matter.title: f"{g.name}.md"} for g in site.guides.values()]}] if site.guides else []),
        *({f.matter.title: [f"{f.slug}/index.md", *({p.matter.title: f"{f.slug}/{p.entry.slug}.md"} for p in f.pages)]}
          for f in site.families.values()),
        {"Papers": "papers.md"},
    ]
    return config


def on_page_markdown(markdown, page, config, files):
    del markdown, config, files
    page.meta["search"] = {"exclude": True}  # fill_search writes what is to be found
    try:
        text = _composed(page, page.file.src_uri.removesuffix(".md"))
    except PageError as error:
        raise PluginError(f"\n{error}") from None
    # Most of a page is its drawn cell, which Markdown would parse tag by tag to leave it as it is.
    if found := CELL.search(text):
        _cells[page.file.src_uri] = found.group()
        text = text.replace(found.group(), HERE)
    return text


def _composed(page, name: str) -> str:
    """The Markdown of a page; sets what its head says of it."""
    if name in site.pages:
        page.meta["description"] = site.pages[name].plain_definition
        page.meta.pop("status", None)  # Material would mark it in the navigation
        return compose.compose(site.pages[name], site, made, assets)
    if name in site.guides:
        page.meta["description"] = site.guides[name].matter.question
        return compose.compose_guide(site.guides[name], site, made, assets)
    if name.endswith("/index"):
        return compose.compose_family(site.families[name.removesuffix("/index")], site, made, assets)
    return {
        "index": lambda: compose.compose_home(site, made, assets),
        "entries": lambda: compose.compose_entries(site),
        "papers": lambda: compose.compose_papers(site),
    }[name]()


def on_page_content(content, page, config, files):
    del config, files
    content = content.replace(HERE, _cells.pop(page.file.src_uri, ""))

    def formula(found: re.Match) -> str:
        tex, display = html.unescape(found.group(2)).strip(), found.group(1) == "div"
        tex = tex[2:-2].strip()  # \( \) or \[ \]
        if (tex, display) not in _formulas:
            try:
                _formulas[tex, display] = node.ask(kind="math", tex=tex, display=display)["html"]
            except ValueError as error:
                raise PluginError(f"\n{page.file.src_path}: formula {tex!r}: {error}") from None
        return f'<div class="formula" tabindex="0">{_formulas[tex, display]}</div>' if display else _formulas[tex, display]

    content = re.sub(r'<(span|div) class="arithmatex">(.*?)</\1>', formula, content, flags=re.S)
    # Names, punctuation and operators have the colour of text: their marks would be a fifth of the page.
    content = re.sub(r'<span class="(?:n|p|w|o|nn|esc)">([^<]*)</span>', r"\1", content)
    # mkdocstrings wraps each name and each one-paragraph text; nothing here styles the wraps.
    content = re.sub(r'<span title="[\w.]+">([^<]*)</span>', r"\1", content)
    content = re.sub(r'\s*<div class="doc-md-description">\s*<p>((?:(?!</?p>).)*)</p>\s*</div>', r" \1", content, flags=re.S)
    content = content.replace(' class="doc-section-item field-body"', "")
    for part in ('class="doc doc-object doc-module"', 'class="doc doc-heading"'):  # each heading begins a section of the index
        content = content.replace(part, part + " data-search-exclude")
    if unnamed := unnamed_columns(content):
        raise PluginError(f"\n{page.file.src_path}: a table has a column whose head is {unnamed[0]}; a screen reader needs a word there")
    return re.sub(r"<table>(.*?)</table>", scrollable, content, flags=re.S)


def unnamed_columns(content: str) -> list[str]:
    """The heads of tables that hold no word outside a formula."""
    bare = lambda cell: re.sub(r"<[^>]*>", "", re.sub(r"<math\b.*?</math>", "", cell, flags=re.S)).strip()  # noqa: E731
    return [found.group() for found in re.finditer(r"<th\b[^>]*>(.*?)</th>", content, re.S) if not bare(found.group(1))]


def scrollable(found: re.Match) -> str:
    """A table of the prose in a frame that a keyboard can scroll."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="Table"><table class="prose">{found.group(1)}</table></div>'


def on_post_page(output, page, config):
    """A policy that allows nothing from elsewhere, and of inline scripts only those that are there."""
    del page, config
    # Two landmarks that Material leaves without a name.
    output = output.replace('data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"')
    output = re.sub(r'aria-labelledby="__nav_\d+_label" aria-expanded="\w+"', 'aria-label="Entries of the family"', output)
    output = minify_html.minify(output, keep_closing_tags=True, keep_html_and_head_opening_tags=True, keep_input_type_text_attr=True)
    return output.replace("<head>", f"<head>{policy(output)}", 1)


def on_post_template(output_content, template_name, config):
    del config
    return on_post_page(output_content, None, None) if template_name.endswith(".html") else output_content


def policy(page: str) -> str:
    """The Content-Security-Policy of a page as a meta element."""
    inline = re.findall(r"<script(?![^>]*\b(?:src=|type=\"application/))[^>]*>(.*?)</script>", page, re.S)
    hashes = sorted({base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inline if s.strip()})
    scripts = " ".join(["'self'", "'wasm-unsafe-eval'", *(f"'sha256-{h}'" for h in hashes)])
    rules = (f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
             "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'none'")
    return f'<meta http-equiv="Content-Security-Policy" content="{rules}">'


def on_post_build(config):
    node.close()
    out = Path(config.site_dir) / "assets"
    for source, target in ((BUILT / "live", "live"), (RUNTIME, "pyodide"), (WHEELS, "wheels")):
        shutil.copytree(source, out / target, dirs_exist_ok=True)
    cut_font(MATH_FONT, "".join(_formulas.values()), out / "live" / "fonts" / "math.woff2")
    shown = {f for p in site.pages.values() for f in (p.entry.module, p.entry.test, *p.entry.kernels) if f.exists()} | set((ROOT / "vocab" / "kernels").glob("*.py")) | {ROOT / "benchmarks" / "results" / "sm_90.jsonl"}
    for file in shown | set((ROOT / "snippets").glob("*/*.py")):  # cells import from here (snippets/served.py)
        target = out / "sources" / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    for paper in site.papers.values():
        (Path(config.site_dir) / "papers" / f"{paper.key}.bib").write_text(paper.bibtex + "\n", encoding="utf-8")
    fill_search(Path(config.site_dir) / "search" / "search_index.json")


def fill_search(path: Path) -> None:
    """Writes title, definition and other names of each page into the search index, which every first view loads whole.

    With all sections it would be four times as large: more than a first view may be. The theme's plugin, which would parse every page to find them,
    is told to pass over all (``on_page_markdown``) and leaves an index without pages.
    """
    index = json.loads(path.read_text(encoding="utf-8"))
    found = [("", site.home.title, plain(site.home_prose))]
    found += [(f"{f.slug}/", f.matter.title, plain(f.matter.question)) for f in site.families.values()]
    found += [(f"{g.name}/", g.matter.title, plain(g.matter.question)) for g in site.guides.values()]
    for name, page in site.pages.items():
        also = f"Also called {', '.join(page.matter.aliases)}." if page.matter.aliases else ""
        found.append((f"{name}/", page.matter.title, f"{page.plain_definition} {also}".strip()))
    index["docs"] = [{"location": where, "title": html.escape(title), "text": f"<p>{html.escape(text)}</p>"} for where, title, text in found]
    path.write_text(json.dumps(index, separators=(",", ":"), ensure_ascii=False), encoding="utf-8")
