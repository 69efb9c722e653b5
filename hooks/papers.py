"""References: read from one BibTeX file, shown on pages, exported as BibTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from pathlib import Path

import bibtexparser
from bibtexparser.middlewares import SeparateCoAuthors, SplitNameParts
from bibtexparser.model import Entry as BibEntry

from hooks.matter import PageError


@dataclass(frozen=True)
class Paper:
    key: str
    authors: tuple[str, ...]  # family names; "others" last where the list is cut
    title: str
    year: str
    venue: str
    link: str
    link_text: str
    bibtex: str

    @property
    def who(self) -> str:
        """As in running text: Shazeer; Gu and Dao; Ainslie et al."""
        if len(self.authors) > 2 or self.authors[-1] == "others":
            return f"{self.authors[0]} et al."
        return " and ".join(self.authors)

    @property
    def short(self) -> str:
        return f"{self.who} {self.year}"

    def html(self) -> str:
        """One entry of an entry page's list."""
        return f'<li id="paper-{self.key}">{self._line()} <a href="../../papers/{self.key}.bib">BibTeX</a></li>'

    def html_with_pages(self, cited_on: str) -> str:
        """One entry of the page of all papers."""
        return f'<li id="bib-{self.key}">{self._line()} <a href="{self.key}.bib">BibTeX</a><p>Cited on {cited_on}.</p></li>'

    def _line(self) -> str:
        venue = f" {escape(self.venue)}." if self.venue else ""
        link = f' <a href="{escape(self.link)}">{escape(self.link_text)}</a>' if self.link else ""
        return f"{escape(self.who)} ({self.year}). <cite>{escape(self.title)}</cite>.{venue}{link}"


def load(path: Path) -> dict[str, Paper]:
    """All papers by key; raises on a file that BibTeX could not read, a double key or a missing field."""
    library = bibtexparser.parse_file(str(path), append_middleware=[SeparateCoAuthors(), SplitNameParts()])
    if library.failed_blocks:
        block = library.failed_blocks[0]
        raise PageError(f"{path}: line {block.start_line + 1}: not readable as BibTeX, or a key that is there twice: {block.raw.splitlines()[0]}")
    raw = {entry.key: entry.raw for entry in library.entries}
    return {entry.key: _paper(path, entry, raw[entry.key]) for entry in library.entries}


def _paper(path: Path, entry: BibEntry, raw: str) -> Paper:
    fields = {name: field.value for name, field in entry.fields_dict.items()}
    for needed in ("author", "title", "year"):
        if needed not in fields:
            raise PageError(f"{path}: {entry.key}: no {needed}")
    if fields.get("eprint"):
        link, text = f"https://arxiv.org/abs/{fields['eprint']}", f"arXiv:{fields['eprint']}"
    elif fields.get("doi"):
        link, text = f"https://doi.org/{fields['doi']}", f"doi:{fields['doi']}"
    else:
        link, text = fields.get("url", ""), "online"
    if not link and entry.entry_type != "book":
        raise PageError(f"{path}: {entry.key}: none of eprint, doi, url says where the paper is")
    plain = lambda s: re.sub(r"[{}]", "", s)  # noqa: E731
    names = [plain(" ".join([*name.von, *name.last]) or " ".join(name.first)) for name in fields["author"]]
    if names[-1].lower() == "others":
        names[-1] = "others"
    venue = plain(fields.get("journal") or fields.get("booktitle") or fields.get("publisher") or fields.get("institution") or "")
    return Paper(entry.key, tuple(names), plain(fields["title"]), str(fields["year"]), "" if venue == "arXiv preprint" else venue, link, text, raw.strip())
