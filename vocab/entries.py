"""Which entries there are, and where their files lie: the tree is the registry.

Needs the standard library only, so that the site can be built without torch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, order=True)
class Entry:
    """``family/slug``, with hyphens as in URLs; Python names have underscores."""

    family: str
    slug: str
    root: Path = ROOT

    @property
    def name(self) -> str:
        return f"{self.family}/{self.slug}"

    @property
    def python(self) -> str:
        return self.name.replace("-", "_").replace("/", ".")

    @property
    def page(self) -> Path:
        return self.root / "docs" / self.family / f"{self.slug}.md"

    @property
    def module(self) -> Path:
        return self._file("vocab", self.python)

    @property
    def test(self) -> Path:
        family, name = self.python.split(".")
        return self._file("vocab", f"{family}.tests.test_{name}")

    @property
    def snippet(self) -> Path:
        return self._file("snippets", self.python)

    @property
    def record(self) -> Path:
        return self.root / "vocab" / "agreement" / self.family / f"{self.slug}.json"

    @property
    def kernels(self) -> list[Path]:
        """The kernel files that the module imports."""
        if not self.module.exists():
            return []
        names = _kernels_named(self.module.read_text(encoding="utf-8"))
        files = [self.root / "vocab" / "kernels" / f"{name}.py" for name in names]
        return [f for f in files if f.exists() and f.stem != "dispatch"]

    @property
    def kind(self) -> str:
        found = re.search(r"^kind: *(\w+)", self.page.read_text(encoding="utf-8"), re.M) if self.page.exists() else None
        return found.group(1) if found else ""

    def sources(self) -> str:
        """A hash of the files that an agreement record speaks of."""
        digest = hashlib.sha256()
        for file in (self.module, self.test, self.snippet, *self.kernels):
            if file.exists():
                digest.update(file.name.encode() + b"\0" + file.read_bytes().replace(b"\r\n", b"\n") + b"\0")
        return digest.hexdigest()[:16]

    def _file(self, package: str, dotted: str) -> Path:
        return (self.root / package / dotted.replace(".", "/")).with_suffix(".py")


@functools.cache
def _kernels_named(source: str) -> list[str]:
    """The modules of vocab.kernels that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "vocab.kernels":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vocab.kernels."):
            names.add(node.module.split(".")[2])
    return sorted(names)


def family_cell(family: str, root: Path = ROOT) -> Path:
    """The snippet that compares a family's entries on the family's own page; it need not be there."""
    return root / "snippets" / family.replace("-", "_") / "compared.py"


def guide_pages(root: Path = ROOT) -> list[Path]:
    """The pages across entries."""
    return sorted((root / "docs" / "guides").glob("*.md"))


def guide_cell(page: Path, root: Path = ROOT) -> Path:
    """The snippet that a guide shows live; it need not be there."""
    return root / "snippets" / "guides" / f"{page.stem.replace('-', '_')}.py"


def cells(root: Path = ROOT) -> dict[str, Path]:
    """Every live cell: the path of its page on the site, and its snippet."""
    found = {entry.name: entry.snippet for entry in entries(root) if entry.snippet.exists()}
    families = {entry.family for entry in entries(root)}
    found |= {f: family_cell(f, root) for f in sorted(families) if family_cell(f, root).exists()}
    return found | {f"guides/{p.stem}": guide_cell(p, root) for p in guide_pages(root) if guide_cell(p, root).exists()}


def entries(root: Path = ROOT) -> list[Entry]:
    """Every page of every family; a family's index is no entry."""
    pages = sorted((root / "docs").glob("*/*.md"))
    return [Entry(p.parent.name, p.stem, root) for p in pages if (p.parent / "index.md").exists() and p.stem != "index"]
