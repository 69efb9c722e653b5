"""The built site as files: sizes, links, and that it needs nothing from elsewhere."""

import gzip
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin

import pytest

from vocab.entries import entries, guide_pages

MOST_HTML = 100_000


class Page(HTMLParser):
    """Links, identifiers, what is loaded, and inline scripts of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.loads = [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        if "id" in a:
            self.ids.add(a["id"])
        if tag == "a" and "href" in a:
            self.links.append(a["href"])
        if tag in ("script", "img", "source", "iframe") and "src" in a:
            self.loads.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "dns-prefetch"):
            self.loads.append(a["href"])


@pytest.fixture(scope="session")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def target(site, page, link):
    """The file that a link leads to."""
    base = "http://site/" + page.relative_to(site).as_posix().removesuffix("index.html")
    path = unquote(urldefrag(urljoin(base, link)).url.removeprefix("http://site/"))
    return site / path / "index.html" if path == "" or path.endswith("/") else site / path


def test_there_is_a_page_for_every_entry(site):
    for entry in entries():
        assert (site / entry.name / "index.html").exists()


def test_pages_are_small(site, pages):
    large = {p.relative_to(site).as_posix(): p.stat().st_size for p in pages if p.stat().st_size > MOST_HTML and "/" in p.parent.relative_to(site).as_posix()}
    assert not large, f"over {MOST_HTML} bytes"


def test_links_and_anchors_lead_somewhere(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links:
            if link.startswith(("https://", "http://", "mailto:", "#__")):
                continue
            where = target(site, path, link)
            anchor = urldefrag(link).fragment
            if not where.exists() or (anchor and where.suffix == ".html" and where in pages and unquote(anchor) not in pages[where].ids):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken


def test_every_address_is_relative_and_nothing_is_loaded_from_elsewhere(site, pages):
    for path, page in pages.items():
        for load in page.loads:
            if load.startswith("data:image/"):
                continue  # a figure that is an image: it is in the page itself
            assert not re.match(r"(https?:)?//|/", load), f"{path.relative_to(site)} loads {load}"
            assert target(site, path, load).exists(), f"{path.relative_to(site)} loads {load}, which is not there"
    for style in site.rglob("*.css"):
        for url in re.findall(r"url\(([^)]+)\)", style.read_text(encoding="utf-8")):
            assert url.strip("'\"").startswith(("data:", "./", "../", "fonts/", "#")) or not re.match(r"['\"]?(https?:)?//", url), f"{style.name}: {url}"


def test_every_page_has_the_policy(pages):
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert text.index("Content-Security-Policy") < text.index("<script"), "the policy stands before what it governs"
        assert "default-src 'self'" in text and "script-src 'self'" in text


def test_pages_read_without_javascript(site):
    for entry in entries():
        text = (site / entry.name / "index.html").read_text(encoding="utf-8")
        for heading in ("How it works", "When to use it", "Hyperparameters", "What goes wrong"):
            assert heading in text
        assert "arithmatex" not in text and "\\(" not in re.sub(r"<annotation.*?</annotation>|<pre.*?</pre>|<code.*?</code>|<script.*?</script>", "", text, flags=re.S)
        if entry.snippet.exists():
            assert re.search(r'<figure class="?fig\b', text), f"{entry.name} has no figure before anything runs"
            assert re.search(r'<form class="?live-controls"? hidden', text), "controls that would do nothing are hidden"


def test_search_index_is_small_and_has_no_code(site):
    raw = (site / "search" / "search_index.json").read_bytes()
    assert len(gzip.compress(raw)) < 4_000 * len(entries())
    index = json.loads(raw)["docs"]
    assert not any("def forward" in doc["text"] for doc in index)
    assert any("GQA" in doc["text"] for doc in index)
    found = {doc["location"] for doc in index}
    assert found == {"", *(f"{e.name}/" for e in entries()), *(f"{e.family}/" for e in entries()), *(f"guides/{p.stem}/" for p in guide_pages())}
    assert all((site / where / "index.html").exists() for where in found)


def test_sources_that_pages_link_to_are_the_ones_that_were_tested(site):
    for entry in entries():
        for file in (entry.module, entry.test, entry.snippet):
            assert (site / "assets" / "sources" / file.relative_to(entry.root)).read_bytes() == file.read_bytes()


def test_the_references_can_be_taken_as_bibtex(site):
    whole = (site / "references.bib").read_text(encoding="utf-8")
    files = sorted((site / "papers").glob("*.bib"))
    assert len(files) == whole.count("\n@") + whole.startswith("@")
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert file.stem in text and text.strip() in whole
    assert not (site / "planned.yml").exists()
