"""Vocabulary size: what another row of the token table costs, and how many tokens of text it saves.

Source: Tao et al. 2024, arXiv:2407.13623, section 2 (the trade between vocabulary and the rest of the model); parameters and
multiplications of a Transformer layer as counted by Kaplan et al. 2020, arXiv:2001.08361, table 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from vocab.embeddings.byte_level import ByteLevelBPE

__all__ = ["vocabulary_cost", "sequence_length_curve", "padded_size"]


def vocabulary_cost(
    vocab_size: int, d_model: int, n_layers: int, *, tied: bool = True, seq_len: int = 2048, batch: int = 1, bytes_per_number: int = 4
) -> dict[str, float]:
    """Counts what the vocabulary costs beside the layers of a Transformer.

    A layer is taken as four square projections and a feed-forward network of four times the width: ``12 d²`` weights. Norms, biases,
    positions and the products of queries with keys are left out.

    Args:
        vocab_size: Rows V of the token table.
        d_model: Width d.
        n_layers: Layers L.
        tied: Whether input and output share the table.
        seq_len: Tokens T of a sequence.
        batch: Sequences B.
        bytes_per_number: Of a logit; 4 in the usual loss, 2 if logits stay in 16 bits.

    Returns:
        ``embedding_params``; ``layer_params``; ``share`` of the first in both; ``logits_bytes`` of one batch; ``softmax_flops``, those of
        the scores of one token, and ``layer_flops``, those of all layers, both for the forward pass.

    Raises:
        ValueError: If a number is below 1.

    Examples:
        >>> gpt2 = vocabulary_cost(50257, 768, 12)
        >>> gpt2["embedding_params"], round(gpt2["share"], 2)
        (38597376, 0.31)
    """
    sizes = dict(vocab_size=vocab_size, d_model=d_model, n_layers=n_layers, seq_len=seq_len, batch=batch, bytes_per_number=bytes_per_number)
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value} is below 1")
    embedding = vocab_size * d_model * (1 if tied else 2)
    layers = 12 * d_model**2 * n_layers
    return {
        "embedding_params": embedding,
        "layer_params": layers,
        "share": embedding / (embedding + layers),
        "logits_bytes": batch * seq_len * vocab_size * bytes_per_number,
        "softmax_flops": 2 * d_model * vocab_size,  # a multiplication and an addition per weight; a lookup has none
        "layer_flops": 2 * layers,
    }


def sequence_length_curve(corpus: str | Iterable[str], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Learns byte-level merges once and counts the tokens of the corpus under the first of them.

    A smaller vocabulary is the beginning of a larger one, so the numbers never rise.

    Args:
        corpus: One text or several.
        sizes: Vocabulary sizes, 256 or more.

    Returns:
        ``(V, tokens)`` for each size, in ascending order. A size that the corpus cannot fill comes back as the one that was reached.

    Raises:
        ValueError: If there is no size or one is below 256, the bytes.

    Examples:
        >>> sequence_length_curve("low lower lowest", [256, 257, 258])
        [(256, 16), (257, 13), (258, 10)]
    """
    sizes = sorted(sizes)
    if not sizes or sizes[0] < 256:
        raise ValueError(f"sizes={sizes}; expected at least one, and none below 256: the bytes are always there")
    texts = [corpus] if isinstance(corpus, str) else list(corpus)
    largest = ByteLevelBPE.train(texts, sizes[-1])
    pieces = Counter(piece for text in texts for piece, _ in largest.pre_tokenizer.split(text))
    curve = []
    for size in sizes:
        nested = ByteLevelBPE(largest.merges[: size - 256])
        tokens = sum(count * len(nested.encode_word(piece)) for piece, count in pieces.items())
        curve.append((256 + len(nested.merges), tokens))
    return curve


def padded_size(vocab_size: int, multiple: int = 64) -> int:
    """The next size that the matrix products of a GPU like; the rows beyond the vocabulary are never used.

    Args:
        vocab_size: Tokens of the tokenizer.
        multiple: 64 or 128.

    Raises:
        ValueError: If one is below 1.

    Examples:
        >>> padded_size(50257)
        50304
    """
    if vocab_size < 1 or multiple < 1:
        raise ValueError(f"vocab_size={vocab_size}, multiple={multiple}; expected both from 1 up")
    return -(-vocab_size // multiple) * multiple
