"""Everything the pages are composed from, read once and checked: entries, families, papers, relations."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from hooks.matter import EntryMatter, FamilyMatter, GuideMatter, HomeMatter, PageError, check_prose, read
from hooks.papers import Paper, load
from vocab.entries import Entry, entries, guide_pages


@dataclass
class Page:
    """One entry as the site sees it."""

    entry: Entry
    matter: EntryMatter
    prose: str
    definition: str
    see_also: list[str] = field(default_factory=list)
    pairs_with: list[str] = field(default_factory=list)

    @property
    def runs_here(self) -> bool:
        return self.entry.snippet.exists()

    @cached_property
    def has_kernel(self) -> bool:
        return bool(self.entry.kernels)

    @property
    def record(self) -> dict | None:
        """What ``pytest vocab`` recorded; None if it never ran."""
        return json.loads(self.entry.record.read_text(encoding="utf-8")) if self.entry.record.exists() else None

    @property
    def plain_definition(self) -> str:
        """The defining sentence without markup, for hover texts and tables."""
        return plain(self.definition)


@dataclass
class Family:
    slug: str
    matter: FamilyMatter
    prose: str
    pages: list[Page]


@dataclass
class Guide:
    """A page across entries."""

    path: Path
    matter: GuideMatter
    prose: str

    @property
    def name(self) -> str:
        return f"guides/{self.path.stem}"


@dataclass
class Site:
    root: Path
    pages: dict[str, Page]
    families: dict[str, Family]
    papers: dict[str, Paper]
    planned: frozenset[str]
    home: HomeMatter
    home_prose: str
    guides: dict[str, Guide]


def plain(markdown: str) -> str:
    """Text without Markdown's marks, for places that show none."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[*`$]|\[@[^\]]*\]", "", text).replace("\\", "").strip()


def planned_names(path: Path) -> frozenset[str]:
    """Names of entries that may be referred to before they exist."""
    families = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return frozenset(f"{family}/{slug}" for family, slugs in families.items() for slug in slugs)


def read_site(root: Path) -> Site:
    """Reads and checks all pages; raises PageError with every problem found, a line each."""
    problems: list[str] = []
    papers = load(root / "docs" / "references.bib")
    planned = planned_names(root / "docs" / "planned.yml")
    pages: dict[str, Page] = {}
    for entry in entries(root):
        try:
            matter, prose = read(entry.page, EntryMatter)
            pages[entry.name] = Page(entry, matter, prose, check_prose(entry.page, prose))
        except PageError as error:
            problems.append(str(error))
    families: dict[str, Family] = {}
    for path in sorted((root / "docs").glob("*/index.md")):
        try:
            matter, prose = read(path, FamilyMatter)
        except PageError as error:
            problems.append(str(error))
            continue
        own = [p for p in pages.values() if p.entry.family == path.parent.name]
        rank = {slug: i for i, slug in enumerate(matter.order)}
        own.sort(key=lambda p: (rank.get(p.entry.slug, len(rank)), p.matter.title))
        families[path.parent.name] = Family(path.parent.name, matter, prose, own)
        for slug in matter.order:
            if f"{path.parent.name}/{slug}" not in pages.keys() | planned:
                problems.append(f"{path}: order: {slug!r} is no entry of this family, and docs/planned.yml does not name it")
    guides = {guide.name: guide for guide in (Guide(path, *read(path, GuideMatter)) for path in guide_pages(root))}
    home, home_prose = read(root / "docs" / "index.md", HomeMatter)
    for where, name in [("live", home.live), *((f"paths.{p}", n) for p, ns in home.paths.items() for n in ns)]:
        if name not in (pages if where == "live" else pages.keys() | planned):
            problems.append(f"{root / 'docs/index.md'}: {where}: {name!r} is no entry")
    for page in pages.values():
        shown = page.matter.kernel
        if shown not in (None, "planned") and not (shown in pages and set(page.entry.kernels) & set(pages[shown].entry.kernels)):
            problems.append(f"{page.entry.page}: kernel: {shown!r} is not 'planned', nor an entry with the same kernel")
    problems += _relate(pages, planned)
    problems += _cite([(p.entry.page, p.matter.papers, p.prose) for p in pages.values()]
                      + [(g.path, g.matter.papers, g.prose) for g in guides.values()], papers, root)
    if problems:
        raise PageError("\n".join(problems))
    return Site(root, pages, families, papers, planned, home, home_prose, guides)


def _relate(pages: dict[str, Page], planned: frozenset[str]) -> list[str]:
    """Fills see also and pairs with in both directions; returns the names that exist nowhere."""
    problems = []
    for relation, target in (("related", "see_also"), ("pairs_with", "pairs_with")):
        links: dict[str, dict[str, None]] = {name: {} for name in pages}
        for name, page in pages.items():
            for other in getattr(page.matter, relation):
                if other == name:
                    problems.append(f"{page.entry.page}: {relation}: an entry is not related to itself")
                elif other in pages:
                    links[name][other] = None
                    links[other][name] = None
                elif other not in planned:
                    problems.append(f"{page.entry.page}: {relation}: got {other!r}; no such entry, and docs/planned.yml does not name it")
        for name, page in pages.items():
            setattr(page, target, list(links[name]))
    return problems


def _cite(pages: list[tuple[Path, list[str], str]], papers: dict[str, Paper], root: Path) -> list[str]:
    """Problems of pages, each with the keys that it lists and its prose."""
    problems, used = [], set()
    for path, listed, prose in pages:
        cited = set(re.findall(r"\[@([\w-]+)\]", prose))
        for key in listed:
            used.add(key)
            if key not in papers:
                problems.append(f"{path}: papers: got {key!r}; no such key in docs/references.bib")
        for key in sorted(cited - set(listed)):
            problems.append(f"{path}: [@{key}] cites a key that `papers` does not list")
    for key in sorted(papers.keys() - used):
        problems.append(f"{root / 'docs/references.bib'}: {key}: no page cites it")
    return problems


def check_fences(path: Path, prose: str) -> None:
    """Raises where a Python fence is typed instead of pulled from tested code."""
    from markdown_it import MarkdownIt

    if "```" not in prose and "~~~" not in prose:  # most pages: nothing to parse
        return
    for token in MarkdownIt().parse(prose):
        if token.type == "fence" and token.info.strip().split(" ")[0] in ("python", "py", "pycon", "python3"):
            lines = [line for line in token.content.splitlines() if line.strip()]
            if not lines or any(not re.fullmatch(r'--8<-- "(vocab|snippets)/[\w/]+\.py(:\w+)?"', line) for line in lines):
                raise PageError(f"{path}: line {token.map[0] + 1} of the prose: a Python fence holds only --8<-- \"vocab/...py\" lines")
