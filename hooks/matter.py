"""Front matter of pages: typed, and refused with the file, the key, what came and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]

SECTIONS = ("How it works", "When to use it", "Hyperparameters", "What goes wrong")
OPTIONAL_SECTIONS = ("Errata",)


Model = TypeVar("Model", bound="Strict")


class PageError(Exception):
    """A page that cannot be built; the message names the file and what to mend."""


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class EntryMatter(Strict):
    """Front matter of ``docs/<family>/<entry>.md``."""

    title: Text
    kind: Literal["module", "function", "model", "loss", "optimizer", "scheduler", "technique", "concept"]
    status: Literal["established", "experimental", "speculative", "unverified"]
    year: Annotated[int, Field(ge=1800, le=2100)]
    aliases: list[Text] = []
    papers: list[Text] = []
    related: list[Name] = []
    pairs_with: list[Name] = []
    used_by: list[Text] = []
    compare: dict[Text, str | int | float] = {}
    # A Triton kernel is to come, or the entry whose page shows the code of the kernel that both use. One that is there is found by the module's imports.
    kernel: Literal["planned"] | Name | None = None


class FamilyMatter(Strict):
    """Front matter of ``docs/<family>/index.md``."""

    title: Text
    question: Text
    order: list[Text] = []


class GuideMatter(Strict):
    """Front matter of ``docs/guides/<guide>.md``: a page across entries, with a live cell where its prose says ``{{ live }}``."""

    title: Text
    question: Text
    papers: list[Text] = []


class HomeMatter(Strict):
    """Front matter of ``docs/index.md``: the entry whose live cell it shows, and reading paths."""

    title: Text
    live: Name
    paths: dict[Text, list[Name]] = {}


def split(path: Path) -> tuple[dict, str]:
    """Front matter and prose of a page."""
    text = path.read_text(encoding="utf-8")
    found = re.match(r"---\n(.*?)\n---\n(.*)", text, re.S)
    if not found:
        raise PageError(f"{path}: no front matter; a page begins with a line ---, keys, and a line ---")
    try:
        matter = yaml.load(found.group(1), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise PageError(f"{path}: the front matter is not YAML: {error}") from None
    if not isinstance(matter, dict):
        raise PageError(f"{path}: the front matter has no keys")
    return matter, found.group(2).strip() + "\n"


def read(path: Path, model: type[Model]) -> tuple[Model, str]:
    """Checked front matter and prose of a page."""
    matter, prose = split(path)
    try:
        return model.model_validate(matter), prose
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"]))
            if problem["type"] == "extra_forbidden":
                lines.append(f"{path}: {key}: unknown key; allowed are {', '.join(model.model_fields)}")
            elif problem["type"] == "missing":
                lines.append(f"{path}: {key}: missing")
            else:
                lines.append(f"{path}: {key}: got {problem['input']!r}; {problem['msg']}")
        raise PageError("\n".join(lines)) from None


def check_prose(path: Path, prose: str) -> str:
    """The defining sentence of an entry's page; raises where a section is missing, unknown or empty."""
    if "TODO" in prose:
        raise PageError(f"{path}: the page still has a TODO of its template")
    lead, *sections = re.split(r"^## +(.+?) *$", prose, flags=re.M)
    lead = lead.strip()
    if not lead or "\n\n" in lead or lead.startswith("#"):
        raise PageError(f"{path}: the page begins with one sentence (one paragraph) that defines the entry, then ## sections")
    found = dict(zip(sections[::2], sections[1::2]))
    for name in SECTIONS:
        if not found.get(name, "").strip():
            raise PageError(f"{path}: section '## {name}' is missing or empty")
    for name in found:
        if name not in SECTIONS + OPTIONAL_SECTIONS:
            allowed = ", ".join(SECTIONS + OPTIONAL_SECTIONS)
            raise PageError(f"{path}: section '## {name}' is unknown; allowed are {allowed} (finer ones with ###)")
    return " ".join(lead.split())
