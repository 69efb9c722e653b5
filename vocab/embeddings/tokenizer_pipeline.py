"""Tokenizer pipeline: normalizer, pre-tokenizer, model, post-processor and decoder as one object with places in the text.

Source: Mielke et al. 2021, arXiv:2112.10508, section 2 (what the parts are for); Kudo and Richardson 2018, arXiv:1808.06226 (one file,
lossless decoding).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vocab.embeddings.byte_level import ByteFallback, ByteLevelBPE
from vocab.embeddings.byte_pair_encoding import BPE
from vocab.embeddings.normalizer import normalize
from vocab.embeddings.post_processor import TemplateProcessor
from vocab.embeddings.pre_tokenizer import PreTokenizer
from vocab.embeddings.token_decoder import decode
from vocab.embeddings.unigram import Unigram
from vocab.embeddings.wordpiece import WordPiece

__all__ = ["Encoding", "Tokenizer"]

# What has to be kept of each model: the arguments that it was made with, which are its attributes too.
MODELS = {
    BPE: ("merges", "vocab", "end_of_word", "unk"),
    ByteLevelBPE: ("merges", "vocab"),
    ByteFallback: ("vocab", "merges"),
    WordPiece: ("vocab", "unk", "prefix", "max_chars"),
    Unigram: ("pieces", "unk"),
}


class Encoding(NamedTuple):
    """What a text becomes: one id, token and place for each token.

    Attributes:
        ids: Rows of the embedding table.
        tokens: The tokens as the model writes them.
        offsets: ``(start, end)`` in the text as it was given, before normalization; ``(0, 0)`` for control tokens.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[tuple[int, int]]


class Tokenizer:
    """Text to ids and back, in five steps of which only the model is learned.

    Args:
        normalizer: Keyword arguments of ``normalize``; none leaves the text as it is.
        pre_tokenizer: Cuts the text into pieces; without one, the text is a single piece.
        model: Cuts a piece into tokens: a ``BPE``, ``ByteLevelBPE``, ``ByteFallback``, ``WordPiece`` or ``Unigram``. It may come later,
            by ``train``.
        post_processor: Adds control tokens; it may also be set later, when the model's ids are known.
        decoder: Keyword arguments of ``token_decoder.decode``, such as ``{"kind": "wordpiece"}``; without them tokens are joined as
            they are.

    Raises:
        ValueError: If the model has no ``vocab`` and ``encode_word``, or an id of the post-processor is one of the model's.

    Examples:
        >>> tokenizer = Tokenizer({"lowercase": True}, PreTokenizer("gpt2"), decoder={"kind": "byte-level"})
        >>> _ = tokenizer.train(["low lower lowest low"], lambda counts: ByteLevelBPE.train(counts, 260))
        >>> encoding = tokenizer.encode("Low LOWER")
        >>> encoding.tokens, encoding.offsets
        (['low', 'Ġlowe', 'r'], [(0, 3), (3, 8), (8, 9)])
        >>> tokenizer.decode(encoding.ids)
        'low lower'
    """

    def __init__(
        self,
        normalizer: Mapping[str, Any] | None = None,
        pre_tokenizer: PreTokenizer | None = None,
        model: Any = None,
        post_processor: TemplateProcessor | None = None,
        decoder: Mapping[str, Any] | None = None,
    ) -> None:
        self.normalizer = dict(normalizer) if normalizer is not None else None
        self.pre_tokenizer, self.post_processor = pre_tokenizer, post_processor
        self.decoder = dict(decoder) if decoder is not None else None
        if model is not None and not (hasattr(model, "vocab") and hasattr(model, "encode_word")):
            raise ValueError(f"model is a {type(model).__name__}; expected one with vocab and encode_word")
        self.model = model
        if model is not None and post_processor is not None:
            taken = set(model.vocab.values())
            for name, id_ in post_processor.specials.items():
                if id_ in taken:
                    raise ValueError(f"post_processor gives {name!r} the id {id_}, which the model has for a token")

    def pieces(self, text: str) -> tuple[list[tuple[str, tuple[int, int]]], list[int]]:
        """The first two steps: pieces with their places in the normalized text, and the alignment of that with ``text``.

        Args:
            text: Any string.
        """
        alignment = list(range(len(text)))
        if self.normalizer is not None:
            text, alignment = normalize(text, **self.normalizer)
        if self.pre_tokenizer is not None:
            return self.pre_tokenizer.split(text), alignment
        return [(text, (0, len(text)))] if text else [], alignment

    def encode(self, text: str, pair: str | None = None, *, add_special: bool = True) -> Encoding:
        """Ids, tokens and offsets of a text, or of two with control tokens between.

        Args:
            text: Any string; control tokens written in it are text like all else.
            pair: A second text, for a post-processor with a template of pairs.
            add_special: Whether the post-processor is applied.

        Raises:
            ValueError: If there is no model, or a pair without a post-processor.
        """
        first = self._encode(text)
        if self.post_processor is None or not add_special:
            if pair is not None:
                raise ValueError("pair is given, but there is no post-processor to join two texts")
            return first
        second = self._encode(pair) if pair is not None else None
        ids, _, special = self.post_processor.apply(first.ids, second.ids if second else None)
        template = self.post_processor.pair if second else self.post_processor.single
        in_order = sorted([("$A", first), ("$B", second)] if second else [("$A", first)], key=lambda text: template.index(text[0]))
        ordinary = iter([place for _, encoding in in_order for place in zip(encoding.tokens, encoding.offsets)])
        names = {id_: name for name, id_ in self.post_processor.specials.items()}
        places = [(names[id_], (0, 0)) if is_special else next(ordinary) for id_, is_special in zip(ids, special)]
        return Encoding(ids, [token for token, _ in places], [offset for _, offset in places])

    def _encode(self, text: str) -> Encoding:
        model = self._the_model()
        pieces, alignment = self.pieces(text)
        ends = _ends(alignment, len(text))
        encoding = Encoding([], [], [])
        for piece, (start, end) in pieces:
            tokens = model.encode_word(piece)
            before = start + len(piece) - end  # a space put before the text is in the piece and not in the text
            for token, (first, last) in zip(tokens, _spans(model, piece, tokens)):
                a, b = start + max(first - before, 0), start + max(last - before, 0)
                encoding.offsets.append((alignment[a], ends[b - 1]) if b > a else (ends[a - 1] if a else 0,) * 2)
                encoding.tokens.append(token)
                encoding.ids.append(model.vocab[token])
        return encoding

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of ids: the normalized one, so exactly what was encoded only without a normalizer that changes it.

        Args:
            ids: Of tokens and control tokens.
            skip_special: Whether control tokens are left out.

        Raises:
            ValueError: If there is no model, or an id is none of its own and of no control token.
        """
        model = self._the_model()
        specials = self.post_processor.specials if self.post_processor is not None else {}
        marker = getattr(model, "end_of_word", None)
        settings = self.decoder if self.decoder is not None else {"kind": "byte-fallback"}  # which leaves other tokens as they are
        text = decode(ids, model.vocab, specials=specials, skip_special=skip_special, **settings)
        return text.replace(marker, " ").removesuffix(" ") if marker else text

    def train(self, corpus: Iterable[str], trainer: Callable[[Counter[str]], Any]) -> Tokenizer:
        """Makes a model from the pieces of a corpus, cut exactly as ``encode`` will cut.

        Args:
            corpus: Texts.
            trainer: From how often each piece occurs to a model, such as ``lambda counts: BPE.train(counts, 1000)``.

        Returns:
            The tokenizer itself.
        """
        counts = Counter(piece for text in corpus for piece, _ in self.pieces(text)[0])
        self.model = trainer(counts)
        return self

    def save(self, path: str | Path) -> None:
        """Writes all parts into one JSON file.

        Args:
            path: Where to.

        Raises:
            ValueError: If there is no model, or one of another kind than those above.
        """
        model = self._the_model()
        if type(model) not in MODELS:
            raise ValueError(f"model is a {type(model).__name__}; only {', '.join(m.__name__ for m in MODELS)} can be saved")
        pre, post = self.pre_tokenizer, self.post_processor
        parts = {
            "normalizer": self.normalizer,
            "pre_tokenizer": pre and {"kind": pre.kind, "digits": pre.digits, "prefix": pre.prefix},
            "model": {"type": type(model).__name__, **{name: getattr(model, name) for name in MODELS[type(model)]}},
            "post_processor": post and {"single": post.single, "pair": post.pair, "specials": post.specials},
            "decoder": self.decoder,
        }
        Path(path).write_text(json.dumps(parts, ensure_ascii=False, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads what ``save`` has written.

        Args:
            path: Where from.

        Raises:
            ValueError: If a part is missing or the model is of an unknown kind.
        """
        parts = json.loads(Path(path).read_text(encoding="utf-8"))
        wanted = ("normalizer", "pre_tokenizer", "model", "post_processor", "decoder")
        if missing := [name for name in wanted if name not in parts]:
            raise ValueError(f"{path} has no {', '.join(missing)}; expected the parts {', '.join(wanted)}")
        kinds = {model.__name__: model for model in MODELS}
        settings = dict(parts["model"])
        kind = settings.pop("type", None)
        if kind not in kinds:
            raise ValueError(f"{path} has a model of type {kind!r}; expected one of {', '.join(kinds)}")
        pre, post = parts["pre_tokenizer"], parts["post_processor"]
        return cls(
            parts["normalizer"], PreTokenizer(**pre) if pre else None, kinds[kind](**settings), TemplateProcessor(**post) if post else None,
            parts["decoder"],
        )

    def _the_model(self) -> Any:
        if self.model is None:
            raise ValueError("the tokenizer has no model; give one or call train")
        return self.model


def _ends(alignment: Sequence[int], length: int) -> list[int]:
    """Where the source of each normalized character ends: where the next one's begins. Dropped characters belong to the one before."""
    ends, following = [], length
    for j in reversed(range(len(alignment))):
        if j + 1 < len(alignment) and alignment[j + 1] > alignment[j]:
            following = alignment[j + 1]
        ends.append(following)
    return ends[::-1]


def _spans(model: Any, piece: str, tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Which characters of the piece each token stands for; parts of one character all have that character."""
    unk = getattr(model, "unk", None)
    if isinstance(model, WordPiece) and tokens == [unk]:
        return [(0, len(piece))]
    owners = list(range(len(piece)))  # the character of each unit that tokens are made of
    if isinstance(model, ByteLevelBPE):
        owners = [i for i, c in enumerate(piece) for _ in c.encode()]
    elif isinstance(model, ByteFallback):
        owners = [i for i, c in enumerate(piece) for _ in (c if c in model.vocab else c.encode())]
    spans, at = [], 0
    for k, token in enumerate(tokens):
        if isinstance(model, WordPiece):
            token = token if k == 0 else token.removeprefix(model.prefix)
        units = len(token.removesuffix(getattr(model, "end_of_word", None) or ""))
        if isinstance(model, ByteFallback) and piece[owners[at]] not in model.vocab:
            units = 1
        elif token == unk:  # a single character in BPE, all that follow each other in Unigram
            units = 1
            while isinstance(model, Unigram) and at + units < len(piece) and piece[at + units] not in model.vocab:
                units += 1
        spans.append((owners[at], owners[at + units - 1] + 1) if units else (len(piece), len(piece)))
        at += units
    return spans
