"""Starts an entry: four files from templates that fail until they are written."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from tools.trouble import ROOT, Trouble

PAGE = """---
title: {title}
aliases: []
kind: module
status: established
year: {year}
papers: []
related: []
compare: {{}}
---

TODO: one sentence that defines {title}.

## How it works

## When to use it

## Hyperparameters

| name | typical | what it does |
|---|---|---|

## What goes wrong
"""

MODULE = '''"""{title}: TODO what it is in one line.

Source: TODO author et al. year, arXiv:..., equation.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.check import expect

__all__ = ["{camel}"]

# B batch, T time, D model width


class {camel}(nn.Module):
    """TODO what it computes.

    Args:
        d_model: Width D of the input and output.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If ``x`` is not ``(B, T, d_model)``.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        raise NotImplementedError
'''

TEST = '''import pytest
import torch

from snippets.{family}.{name} import {name}
from vocab.{family}.{name} import {camel}


def example():
    """For the contract suite: a small instance and its inputs."""
    return {camel}(8).double(), (torch.randn(2, 5, 8, dtype=torch.float64),)


@pytest.mark.oracle("TODO what it is compared with")
def test_equals_something_independent():
    raise NotImplementedError


def test_numpy_variant_agrees(agree):
    raise NotImplementedError


def test_wrong_shape_names_the_expected_one():
    with pytest.raises(ValueError, match="d_model=8"):
        example()[0](torch.zeros(2, 5, 7).double())
'''

SNIPPET = '''"""{title} in NumPy."""

import numpy as np


def {name}(x):
    """TODO the algorithm, as a reader would like to change it."""
    raise NotImplementedError


# %% demo
from snippets.live import demo, line, slider


@demo(strength=slider(0.0, 1.0, step=0.1, label="strength"))
def show(strength=0.5):
    """TODO what to try."""
    x = np.linspace(-1, 1, 50)
    return line({{"{title}": {name}(strength * x)}}, at=x, x="input", y="output", caption="TODO what to notice.")
'''

FAMILY = """---
title: {title}
question: TODO the question that this family answers.
order: []
---

TODO how its ideas relate, and in which order to read them.
"""


def create(name: str, root: Path = ROOT) -> list[Path]:
    """Writes the files of ``family/entry``; never overwrites; takes the name off docs/planned.yml."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*/[a-z0-9]+(-[a-z0-9]+)*", name):
        raise Trouble(f"{name!r} is no entry's name; it is family/entry in lower case with hyphens, like attention/grouped-query.")
    family, slug = name.split("/")
    words = slug.replace("-", " ")
    fill = {
        "title": words.title(), "family": family.replace("-", "_"), "name": slug.replace("-", "_"),
        "camel": words.title().replace(" ", ""), "year": datetime.date.today().year,
    }
    files = {
        f"docs/{family}/{slug}.md": PAGE,
        f"vocab/{fill['family']}/{fill['name']}.py": MODULE,
        f"vocab/{fill['family']}/tests/test_{fill['name']}.py": TEST,
        f"snippets/{fill['family']}/{fill['name']}.py": SNIPPET,
    }
    for path in files:
        if (root / path).exists():
            raise Trouble(f"{path} is there already; nothing was written.")
    family_title = family.replace("-", " ").capitalize()
    shared = {
        f"docs/{family}/index.md": FAMILY.format(title=family_title),
        f"vocab/{fill['family']}/__init__.py": f'"""{family_title}."""\n',
        f"snippets/{fill['family']}/__init__.py": f'"""{family_title} in NumPy."""\n',
    }
    made = []
    for path, text in [*((p, t.format(**fill)) for p, t in files.items()), *((p, t) for p, t in shared.items() if not (root / p).exists())]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
        made.append(root / path)
    unplan(root / "docs" / "planned.yml", family, slug)
    return made


def unplan(path: Path, family: str, slug: str) -> None:
    """Takes an entry off the list of planned ones, leaving the rest of the file as it is."""
    text = path.read_text(encoding="utf-8")
    block = re.search(rf"^{re.escape(family)}: \[(.*?)\]", text, re.M | re.S)
    if block:
        names = [n.strip() for n in block.group(1).split(",")]
        if slug in names:
            inside = re.sub(rf"(?<![\w-]){re.escape(slug)}(?![\w-]),?[ ]?", "", block.group(1), count=1)
            path.write_text(text[: block.start(1)] + inside + text[block.end(1):], encoding="utf-8")
