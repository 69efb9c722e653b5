"""Post-processor: puts control tokens around encoded text, and makes texts of different lengths one rectangle.

Source: Devlin et al. 2019, arXiv:1810.04805, section 3 (the template of BERT); Hewitt 2021, "Initializing New Word Embeddings for
Pretrained Language Models" (rows of new tokens: ``TokenEmbedding.resize``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["TemplateProcessor", "add_special_tokens", "batch_encode", "check_text"]

TEMPLATES = {  # of one text and of a pair; a type other than the usual one is written behind a colon
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B:0 </s>:0"),
    "t5": ("$A </s>", "$A </s> $B:0 </s>:0"),
    "llama": ("<s> $A", "<s> $A <s>:1 $B"),
    "gpt2": ("$A", "$A $B:0"),
}


class HasVocab(Protocol):
    """What ``add_special_tokens`` needs of a tokenizer's model."""

    vocab: Mapping[str, int]


class TemplateProcessor:
    """Fills a template of control tokens with the ids of one text or two.

    A template is a line of words: ``$A`` and ``$B`` stand for the texts, every other word is a control token. The type id of a
    place is 0 before ``$B`` and 1 from there on, unless it is given: ``$B:0``.

    Here control tokens are made, and only here: an id of a control token among those of a text is an error.

    Args:
        single: Template of one text.
        pair: Template of two.
        specials: Id of each control token; those that no template names are guarded all the same.

    Raises:
        ValueError: If a template lacks a text or has it twice, or names a token without an id.

    Examples:
        >>> bert = TemplateProcessor(specials={"[CLS]": 101, "[SEP]": 102})
        >>> bert.apply([7, 8], [9])
        ([101, 7, 8, 102, 9, 102], [0, 0, 0, 0, 1, 1], [1, 0, 0, 1, 0, 1])
        >>> bert.apply([7, 102])
        Traceback (most recent call last):
        ValueError: a holds 102, the id of '[SEP]'; text must not make control tokens
    """

    def __init__(
        self, single: str = "[CLS] $A [SEP]", pair: str = "[CLS] $A [SEP] $B [SEP]", *, specials: Mapping[str, int]
    ) -> None:
        if len(set(specials.values())) < len(specials):
            raise ValueError("specials gives the same id to two control tokens")
        self.single, self.pair, self.specials = single, pair, dict(specials)
        self._names = {id_: name for name, id_ in self.specials.items()}
        self._single, self._pair = self._parsed("single", single, ["$A"]), self._parsed("pair", pair, ["$A", "$B"])

    def apply(self, a: Sequence[int], b: Sequence[int] | None = None) -> tuple[list[int], list[int], list[int]]:
        """Ids with control tokens, type ids, and a mask that is 1 at control tokens.

        Args:
            a: Ids of the text.
            b: Ids of the second text, for the template of pairs.
        """
        texts = {"$A": a} if b is None else {"$A": a, "$B": b}
        for name, ids in texts.items():
            check_text(name[1].lower(), ids, self._names)
        out: tuple[list[int], list[int], list[int]] = ([], [], [])
        for name, kind in self._single if b is None else self._pair:
            ids = list(texts[name]) if name in texts else [self.specials[name]]
            for part, values in zip(out, (ids, [kind] * len(ids), [int(name not in texts)] * len(ids))):
                part += values
        return out

    def added(self, pair: bool = False) -> int:
        """How many control tokens a template has.

        Args:
            pair: Whether that of pairs is meant.
        """
        return sum(name not in ("$A", "$B") for name, _ in (self._pair if pair else self._single))

    def _parsed(self, which: str, template: str, texts: list[str]) -> list[tuple[str, int]]:
        parts, kind = [], 0
        for word in template.split():
            name, colon, number = word.rpartition(":") if word[-1:].isdigit() and ":" in word else (word, "", "")
            kind = 1 if name == "$B" else kind
            if name not in ("$A", "$B") and name not in self.specials:
                raise ValueError(f"{which}={template!r} names {name!r}, which has no id; specials has {sorted(self.specials)}")
            parts.append((name, int(number) if colon else kind))
        if sorted(name for name, _ in parts if name in ("$A", "$B")) != texts:
            raise ValueError(f"{which}={template!r} must name {' and '.join(texts)} once, and no other text")
        return parts


def batch_encode(
    texts: Sequence[str | tuple[str, str]],
    encode: Callable[[str], Sequence[int]],
    template: TemplateProcessor,
    max_length: int | None = None,
    *,
    padding: str = "longest",
    side: str = "right",
    truncation: bool = True,
    pad_id: int = 0,
) -> dict[str, Tensor]:
    """Encodes texts, cuts what is too long, adds control tokens, and pads to one length.

    Texts are cut before control tokens are added, so these are never lost. Of a pair the longer text is cut first, and both
    once they are equally long.

    Args:
        texts: Strings or pairs of strings.
        encode: Ids of a text, without control tokens.
        template: Where control tokens go.
        max_length: No row is longer, control tokens included; no limit if not given.
        padding: ``"longest"`` row of the batch or ``"max_length"``.
        side: Where padding goes: ``"right"``, or ``"left"`` for decoders that are to continue the text.
        truncation: Whether texts that are too long are cut; otherwise they are an error.
        pad_id: The id that fills up; what it is does not matter as long as the mask is used.

    Shapes:
        ``input_ids``, ``token_type_ids``, ``attention_mask``, ``special_tokens_mask``, each ``(B, T)`` of dtype int64. The
        attention mask is 0 at padding; padding counts as special and has type 0.

    Raises:
        ValueError: If there are no texts, one is too long and may not be cut, the control tokens alone are too many, or a
            text has the id of one.

    Examples:
        >>> gpt = TemplateProcessor(*TEMPLATES["gpt2"], specials={})
        >>> batch = batch_encode(["abc", "d"], lambda text: [ord(c) for c in text], gpt, side="left")
        >>> batch["input_ids"].tolist(), batch["attention_mask"].tolist()
        ([[97, 98, 99], [0, 0, 100]], [[1, 1, 1], [0, 0, 1]])
    """
    if not texts:
        raise ValueError("texts is empty; expected one text or more")
    if padding not in ("longest", "max_length"):
        raise ValueError(f"padding={padding!r} is not 'longest' or 'max_length'")
    if side not in ("right", "left"):
        raise ValueError(f"side={side!r} is not 'right' or 'left'")
    if padding == "max_length" and max_length is None:
        raise ValueError("padding='max_length' needs max_length")
    rows = []
    for i, text in enumerate(texts):
        ids = [list(encode(part)) for part in ((text,) if isinstance(text, str) else text)]
        if max_length is not None:
            room = max_length - template.added(len(ids) == 2)
            if room < 0:
                raise ValueError(f"max_length={max_length} has no room for the {max_length - room} control tokens of the template")
            if sum(map(len, ids)) > room:
                if not truncation:
                    raise ValueError(f"texts[{i}] has {sum(map(len, ids))} ids, {room} fit into max_length={max_length}; truncation is off")
                ids = _cut(ids, room)
        rows.append(template.apply(*ids))
    length = max_length if padding == "max_length" else max(len(row[0]) for row in rows)
    columns: list[list[list[int]]] = [[], [], [], []]
    for ids, types, special in rows:
        missing = length - len(ids)
        for column, values, filler in zip(columns, (ids, types, [1] * len(ids), special), (pad_id, 0, 0, 1)):
            fill = [filler] * missing
            column.append([*values, *fill] if side == "right" else [*fill, *values])
    names = ("input_ids", "token_type_ids", "attention_mask", "special_tokens_mask")
    return {name: torch.tensor(column, dtype=torch.long) for name, column in zip(names, columns)}


def check_text(name: str, ids: Sequence[int], control: Mapping[int, str]) -> None:
    """Raises where the ids of a text have that of a control token among them.

    Args:
        name: What the text is called in the message.
        ids: Its ids.
        control: Name of each control token's id.

    Raises:
        ValueError: If there is one.
    """
    for id_ in ids:
        if id_ in control:
            raise ValueError(f"{name} holds {id_}, the id of {control[id_]!r}; text must not make control tokens")


def _cut(ids: list[list[int]], room: int) -> list[list[int]]:
    """The beginnings of one text or two that have ``room`` ids together; the longer text gives first."""
    if len(ids) == 1:
        return [ids[0][:room]]
    a, b = map(len, ids)
    short = min(a, b, room // 2)
    return [ids[0][:short], ids[1][: room - short]] if a <= b else [ids[0][: room - short], ids[1][:short]]


def add_special_tokens(model: HasVocab, names: Collection[str], *, reserved: int = 0) -> dict[str, int]:
    """Ids for control tokens, after all ids of a model's vocabulary, which stays as it is.

    What is not in the model's vocabulary no text can spell. The network's table needs one row more for each name:
    ``TokenEmbedding.resize``, to a multiple of 64 or 128 where speed matters.

    Args:
        model: Anything with ``vocab``, such as a ``BPE`` or a ``WordPiece``.
        names: The control tokens.
        reserved: Further ids for later needs, named ``<|reserved_0|>`` and so on. A table with rows to spare need not be resized.

    Raises:
        ValueError: If a name is empty, comes twice, or is in the vocabulary.

    Examples:
        >>> from vocab.embeddings.wordpiece import WordPiece
        >>> add_special_tokens(WordPiece({"[UNK]": 0, "a": 1}), ["[CLS]", "[SEP]"], reserved=1)
        {'[CLS]': 2, '[SEP]': 3, '<|reserved_0|>': 4}
    """
    if reserved < 0:
        raise ValueError(f"reserved={reserved} is negative")
    wanted = [*names, *(f"<|reserved_{i}|>" for i in range(reserved))]
    for i, name in enumerate(wanted):
        if not name or name in wanted[:i]:
            raise ValueError(f"names has {name!r}, which is empty or there before; expected different strings")
        if name in model.vocab:
            raise ValueError(f"names has {name!r}, which is in the model's vocab: a text could spell it")
    first = max(model.vocab.values(), default=-1) + 1
    return {name: first + i for i, name in enumerate(wanted)}
