"""The font of formulas, cut to what they use: 400 KB become about 30."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from fontTools import subset

# A browser draws single letters of MathML in the italic letters of the mathematical alphabet.
ITALIC = {chr(ord("A") + i): chr(0x1D434 + i) for i in range(26)}
ITALIC |= {chr(ord("a") + i): chr(0x1D44E + i) for i in range(26)} | {"h": "\u210e"}
ITALIC |= {chr(0x391 + i): chr(0x1D6E2 + i) for i in range(25)} | {chr(0x3B1 + i): chr(0x1D6FC + i) for i in range(25)}
ITALIC |= {"ϵ": "𝜖", "ϕ": "𝜙", "ϑ": "𝜗", "ϱ": "𝜚", "ϖ": "𝜛", "∂": "𝜕"}
# Drawn for elements (roots, fences, primes) or by the script variants of what is there, without being in the text.
ALWAYS = "√()[]{}|‖⟨⟩⌊⌋⌈⌉0123456789+−=.,′″¯^~→←" + "".join(map(chr, range(32, 127)))


def cut_font(font: Path, formulas: str, out: Path) -> None:
    """Writes ``font`` with the glyphs, and their sizes and variants, that MathML ``formulas`` need."""
    used = set(unescape(re.sub(r"<[^>]*>", "", formulas))) | set(ALWAYS)
    used |= {ITALIC[c] for c in used if c in ITALIC}
    options = subset.Options(flavor="woff2", layout_features=["*"], notdef_outline=True)
    loaded = subset.load_font(str(font), options)
    cutter = subset.Subsetter(options)
    cutter.populate(text="".join(sorted(used)))
    cutter.subset(loaded)
    out.parent.mkdir(parents=True, exist_ok=True)
    subset.save_font(loaded, str(out), options)
