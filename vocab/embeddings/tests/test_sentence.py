import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.embeddings import sentence as numpy_variant
from vocab.embeddings.sentence import SentenceEncoder, multiple_negatives_loss, sif

D = torch.float64
IDS = torch.tensor([[3, 1, 4, 1], [5, 2, 0, 0], [6, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])


class Table(nn.Module):
    """Vectors of tokens without context; padding is a token like any other."""

    def __init__(self, width=5):
        super().__init__()
        self.table = nn.Embedding(8, width)

    def forward(self, ids, mask):
        return self.table(ids)


class Attending(nn.Module):
    """Every token sees every other one that is no padding."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, ids, mask):
        return self.layer(self.table(ids), src_key_padding_mask=mask == 0)


def example():
    return SentenceEncoder(Table(), dim=3).double(), (IDS, MASK)


def test_the_mean_is_that_of_each_sentence_alone():
    encoder = Table().double()
    ours = SentenceEncoder(encoder, normalize=False)(IDS, MASK)
    alone = [encoder.table.weight[ids[: mask.sum()]].mean(0) for ids, mask in zip(IDS, MASK)]
    torch.testing.assert_close(ours, torch.stack(alone))
    with_padding = encoder.table(IDS).mean(1)
    assert (with_padding - ours)[1:].abs().min() > 1e-3, "an unmasked mean is another vector wherever there is padding"


@pytest.mark.oracle("the same texts one by one, without padding")
@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "last"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing_on_whichever_side_it_is(pooling, side):
    encoder = SentenceEncoder(Attending().double(), pooling=pooling).eval()
    lengths = MASK.sum(1).tolist()
    alone = torch.cat([encoder(ids[None, :n], torch.ones(1, n, dtype=torch.long)) for ids, n in zip(IDS, lengths)])
    more = (0, 3) if side == "right" else (3, 0)
    ids, mask = F.pad(IDS, more, value=7), F.pad(MASK, more)
    if side == "left":  # the words at the end
        ids, mask = (torch.stack([row.roll(4 - n) for row, n in zip(x, lengths)]) for x in (ids, mask))
    torch.testing.assert_close(encoder(ids, mask), alone)
    torch.testing.assert_close(encoder(ids, mask.bool()), alone)


@pytest.mark.parametrize(("pooling", "expected"), [("cls", [1.0, 9.0]), ("last", [5.0, 2.0]), ("max", [5.0, 9.0]), ("mean", [3.0, 5.5])])
def test_each_pooling_takes_what_it_says(pooling, expected):
    class Fixed(nn.Module):
        def forward(self, ids, mask):
            return torch.tensor([[[1.0, 9.0], [5.0, 2.0], [99.0, 99.0]]])

    out = SentenceEncoder(Fixed(), pooling=pooling, normalize=False)(torch.zeros(1, 3).long(), torch.tensor([[1, 1, 0]]))
    assert out.tolist() == [expected]


def test_vectors_have_length_one_and_their_dot_product_is_the_cosine():
    encoder = Table().double()
    unit, raw = SentenceEncoder(encoder)(IDS, MASK), SentenceEncoder(encoder, normalize=False)(IDS, MASK)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3, dtype=D))
    torch.testing.assert_close(unit @ unit.T, F.cosine_similarity(raw[:, None], raw[None], dim=-1))
    assert (raw.norm(dim=1) - 1).abs().min() > 0.01


@pytest.mark.oracle("Matryoshka evaluation: cut, then normalize again")
def test_a_prefix_is_cut_first_and_scaled_afterwards():
    encoder = Table().double()
    whole, short = SentenceEncoder(encoder)(IDS, MASK), SentenceEncoder(encoder, dim=2)(IDS, MASK)
    torch.testing.assert_close(short, whole[:, :2] / whole[:, :2].norm(dim=1, keepdim=True))
    torch.testing.assert_close(SentenceEncoder(encoder, dim=5)(IDS, MASK), whole)
    assert SentenceEncoder(encoder, dim=1)(IDS, MASK).abs().tolist() == [[1.0]] * 3


@pytest.mark.oracle("torch.nn.functional.cross_entropy")
@pytest.mark.parametrize("scale", [20.0, 1.0])
def test_the_loss_is_a_cross_entropy_of_scaled_products(scale):
    a, b = (F.normalize(torch.randn(4, 6, dtype=D), dim=1) for _ in range(2))
    expected = F.cross_entropy(scale * a @ b.T, torch.arange(4))
    torch.testing.assert_close(multiple_negatives_loss(a, b, scale), expected)
    lengths = torch.tensor([[1.0], [3.0], [0.2], [7.0]], dtype=D)
    torch.testing.assert_close(multiple_negatives_loss(lengths * a, b * lengths.flip(0), scale), expected)
    if scale == 20:
        assert multiple_negatives_loss(a, b) == multiple_negatives_loss(a, b, 20.0)


def test_the_order_of_the_pairs_does_not_matter_but_the_pairing_does():
    a, b, order = torch.randn(5, 3, dtype=D), torch.randn(5, 3, dtype=D), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(multiple_negatives_loss(a[order], b[order]), multiple_negatives_loss(a, b))
    assert abs(multiple_negatives_loss(a[order], b) - multiple_negatives_loss(a, b)) > 0.1


def test_further_rows_are_negatives_for_all():
    a, b, hard = torch.randn(3, 4, dtype=D), torch.randn(3, 4, dtype=D), torch.randn(2, 4, dtype=D)
    cosine = F.cosine_similarity(a[:, None], torch.cat([b, hard])[None], dim=-1)
    expected = -torch.log(torch.exp(20 * cosine.diagonal()) / torch.exp(20 * cosine).sum(1)).mean()
    torch.testing.assert_close(multiple_negatives_loss(a, torch.cat([b, hard])), expected)
    assert expected > multiple_negatives_loss(a, b)


def test_a_duplicate_in_the_batch_costs_log_two():
    """A false negative: the same text twice is pushed away from itself, and no training can bring its loss below log 2."""
    a = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=D)
    assert math.isclose(multiple_negatives_loss(a, a).item(), math.log(2), rel_tol=1e-12)


def test_training_brings_pairs_together():
    """What a call of a finished model hides: pooling, loss and scaling are the method."""
    encoder = SentenceEncoder(Table().double())
    left, right = torch.tensor([[0, 1], [2, 3], [4, 5]]), torch.tensor([[6, 1], [7, 3], [6, 5]])
    mask = torch.ones_like(left)
    optimizer = torch.optim.Adam(encoder.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = multiple_negatives_loss(encoder(left, mask), encoder(right, mask))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    cosine = encoder(left, mask) @ encoder(right, mask).T
    assert losses[-1] < 0.02 < losses[0] and (cosine.argmax(1) == torch.arange(3)).all()


@pytest.mark.oracle("weights by hand, and an eigenvector instead of a singular vector")
def test_sif_is_a_weighted_mean_without_the_common_direction():
    vectors, probs = torch.randn(6, 4, dtype=D) + 1, torch.tensor([0.2, 0.1, 0.05, 0.001, 0.01, 0.0], dtype=D)
    texts = [[0, 1, 5], [2, 3], [4, 4, 0, 1]]
    by_hand = torch.stack([sum(0.01 / (0.01 + probs[i]) * vectors[i] for i in text) / len(text) for text in texts])
    torch.testing.assert_close(sif(vectors, probs, texts, a=0.01, remove=0), by_hand)
    common = torch.linalg.eigh(by_hand.T @ by_hand).eigenvectors[:, -2:]
    for n in (1, 2):
        out = sif(vectors, probs, texts, a=0.01, remove=n)
        assert (out @ common[:, -n:]).abs().max() < 1e-12
        torch.testing.assert_close(by_hand - out, by_hand @ common[:, -n:] @ common[:, -n:].T)
    torch.testing.assert_close(sif(vectors, probs, texts), sif(vectors, probs, texts, 1e-3, remove=1))


def test_a_huge_a_makes_sif_the_plain_mean_and_a_small_one_silences_frequent_words():
    vectors, probs = torch.eye(2, dtype=D), torch.tensor([0.1, 1e-6], dtype=D)
    torch.testing.assert_close(sif(vectors, probs, [[0, 1]], a=1e9, remove=0), torch.tensor([[0.5, 0.5]], dtype=D))
    quiet, loud = sif(vectors, probs, [[0, 1]], a=1e-4, remove=0)[0]
    assert math.isclose(quiet, 0.5 * 1e-4 / (0.1 + 1e-4), rel_tol=1e-9) and loud > 0.49


def test_frequent_words_make_everything_alike_until_they_are_weighted_down():
    ids = [[numpy_variant.WORDS.index(w) for w in s.split()] for s in numpy_variant.SENTENCES]
    vectors, p = torch.from_numpy(numpy_variant.word_vectors()), torch.from_numpy(numpy_variant.P)
    away = ~torch.eye(12, dtype=torch.bool)
    mean = [float((x @ x.T)[away].mean()) for x in (F.normalize(sif(vectors, p, ids, a, remove=n), dim=1) for a, n in ((1e6, 0), (1e-3, 0), (1e-3, 1)))]
    assert mean[0] > 0.8 > 0.5 > mean[1] > 0.1 > mean[2]


def test_numpy_variant_agrees(agree):
    texts = [[0, 1, 5], [2, 3], [4, 4, 0, 1]]
    vectors, probs = torch.randn(6, 4, dtype=D), torch.tensor([0.2, 0.1, 0.05, 0.001, 0.01, 0.0], dtype=D)
    ids = [np.array(t) for t in texts]
    x = numpy_variant.sentence_vectors(ids, vectors.numpy(), probs.numpy(), a=0.01)
    agree(numpy_variant.remove_common(x, 1), sif(vectors, probs, texts, a=0.01), rtol=1e-9, atol=1e-12)
    encoder = Table(4).double()
    rows = [row[: mask.sum()].numpy() for row, mask in zip(IDS, MASK)]
    for pooling in ("mean", "max"):
        ours = numpy_variant.sentence_vectors(rows, encoder.table.weight.detach().numpy(), np.ones(8), pooling)
        agree(numpy_variant.unit(ours), SentenceEncoder(encoder, pooling=pooling)(IDS, MASK))
    a, b = torch.randn(4, 6, dtype=D), torch.randn(4, 6, dtype=D)
    agree(numpy_variant.multiple_negatives_loss(a.numpy(), b.numpy()), multiple_negatives_loss(a, b))


def test_the_demo_shows_what_weights_and_the_common_direction_do():
    values = [np.array(numpy_variant.show(**k)[0]["values"]) for k in ({}, {"pooling": "SIF"}, {"pooling": "SIF", "remove": 1})]
    means = [v[~np.eye(12, dtype=bool)].mean() for v in values]
    assert means[0] > 0.8 and 0.2 < means[1] < 0.6 and abs(means[2]) < 0.1
    assert all(math.isclose(v[0, 1], 1, rel_tol=1e-9) for v in values), "dog bites man is man bites dog"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SentenceEncoder(Table(), pooling="sum"), "pooling='sum' is none of 'mean', 'cls', 'max', 'last'"),
        (lambda: SentenceEncoder(Table(), dim=0), "dim=0 is below 1; None keeps all"),
        (lambda: SentenceEncoder(Table(), dim=6)(IDS, MASK), "dim=6 is more than the encoder's width 5"),
        (lambda: SentenceEncoder(Table())(IDS, MASK[:, :3]), r"attention_mask has shape \(3, 3\); expected \(batch=3, time=4\)"),
        (lambda: SentenceEncoder(Table())(IDS, MASK * torch.tensor([[1], [0], [1]])), "attention_mask leaves no token of text 1"),
        (lambda: SentenceEncoder(nn.EmbeddingBag(8, 5))(IDS, None), "attention_mask"),
        (lambda: multiple_negatives_loss(torch.ones(3, 2), torch.ones(2, 2)), "b has 2 rows for 3 texts"),
        (lambda: multiple_negatives_loss(torch.ones(3, 2), torch.ones(3, 4)), r"b has shape \(3, 4\); expected \(candidates, width=2\)"),
        (lambda: multiple_negatives_loss(torch.ones(3, 2), torch.ones(3, 2), 0.0), "scale=0.0 is not above 0"),
        (lambda: sif(torch.eye(3), torch.ones(3), [[0]], a=0.0), "a=0.0 is not above 0"),
        (lambda: sif(torch.eye(3), torch.ones(3), [[0]], remove=2), "remove=2 is not from 0 to 1"),
        (lambda: sif(torch.eye(3), torch.ones(3), [[0]], remove=-1), "remove=-1 is not from 0"),
        (lambda: sif(torch.eye(3), torch.ones(2), [[0]]), r"probs has shape \(2,\); expected \(words=3\)"),
        (lambda: sif(torch.eye(3), torch.ones(3), [[0], []]), r"sentences\[1\] is empty"),
        (lambda: sif(torch.eye(3), torch.ones(3), [[0, 3]]), r"sentences\[0\] holds 3; expected 0 to 2"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_an_encoder_that_gives_one_vector_a_text_is_noticed():
    class Pooled(nn.Module):
        def forward(self, ids, mask):
            return torch.zeros(len(ids), 4)

    with pytest.raises(ValueError, match=r"the encoder's result has shape \(3, 4\); expected \(batch=3, time=4, width\)"):
        SentenceEncoder(Pooled())(IDS, MASK)


def test_the_settings_can_be_read_off_the_printed_module():
    assert "pooling='cls', normalize=False, dim=2" in repr(SentenceEncoder(Table(), pooling="cls", normalize=False, dim=2))


def test_vectors_must_be_floating_point_tensors():
    whole, x = torch.ones(3, 3).long(), torch.ones(3, 3)
    for name, call in [("a", lambda: multiple_negatives_loss(whole, x)), ("b", lambda: multiple_negatives_loss(x, whole)),
                       ("word_vectors", lambda: sif(whole, x[0], [[0]])), ("probs", lambda: sif(x, whole[0], [[0]]))]:
        with pytest.raises(TypeError, match=f"{name} has dtype torch.int64"):
            call()


def test_ids_must_be_whole_numbers_and_the_mask_too():
    encoder = SentenceEncoder(Table())
    with pytest.raises(TypeError, match="input_ids has dtype torch.float64"):
        encoder(IDS.double(), MASK)
    with pytest.raises(TypeError, match="attention_mask has dtype torch.float64"):
        encoder(IDS, MASK.double())
