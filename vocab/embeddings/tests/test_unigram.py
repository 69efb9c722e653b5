import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest

from snippets.embeddings import unigram as snippet
from vocab.embeddings.unigram import Unigram

HUGS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}


def random_model(rng, letters="abc"):
    pieces = {"".join(rng.choices(letters, k=rng.randint(2, 4))) for _ in range(rng.randint(1, 14))} | set(letters)
    weights = {piece: rng.random() + 0.05 for piece in sorted(pieces)}
    return Unigram({piece: math.log(w / sum(weights.values())) for piece, w in weights.items()})


def splits(text, model):
    """Every split into pieces with its log-probability, by trying all 2^(n-1)."""
    found = []
    for cuts in itertools.product((False, True), repeat=len(text) - 1):
        ends = [i + 1 for i, cut in enumerate(cuts) if cut] + [len(text)]
        tokens = [text[a:b] for a, b in zip([0, *ends], ends)]
        if all(t in model.pieces for t in tokens):
            found.append((tokens, math.fsum(model.pieces[t] for t in tokens)))
    return sorted(found, key=lambda item: -item[1])


def cases(seed, most):
    rng = random.Random(seed)
    for length in [*range(1, most + 1)] * 3:
        yield random_model(rng), "".join(rng.choices("abc", k=length))


@pytest.mark.oracle("brute force over all 2^(n-1) splits, n up to 12")
def test_viterbi_finds_the_most_probable_of_all_splits():
    for model, text in cases(0, 12):
        assert model.encode_word(text) == splits(text, model)[0][0]


@pytest.mark.oracle("brute force over all splits, sorted")
def test_the_n_best_are_the_n_best_and_the_first_is_viterbis():
    for model, text in cases(1, 9):
        everything = splits(text, model)
        for n in (1, 3, 1000):
            found = model.nbest(text, n)
            assert len(found) == min(n, len(everything))
            np.testing.assert_allclose([logp for _, logp in found], [logp for _, logp in everything[:n]], rtol=1e-12)
            assert {tuple(t) for t, _ in found} <= {tuple(t) for t, _ in everything}
            assert all(math.isclose(math.fsum(model.pieces[t] for t in tokens), logp) for tokens, logp in found)
        assert found[0][0] == model.encode_word(text) and len({tuple(t) for t, _ in found}) == len(found)


@pytest.mark.oracle("enumeration of all splits with their posterior probabilities")
def test_expected_counts_are_the_average_over_all_splits():
    for model, text in cases(2, 10):
        everything = splits(text, model)
        total = math.fsum(math.exp(logp) for _, logp in everything)
        expected, mean_length = Counter(), 0.0
        for tokens, logp in everything:
            mean_length += len(tokens) * math.exp(logp) / total
            for token in tokens:
                expected[token] += math.exp(logp) / total
        counts, logp = model.expected_counts(text)
        assert set(counts) == set(expected)
        np.testing.assert_allclose([counts[t] for t in expected], list(expected.values()), rtol=1e-10)
        assert math.isclose(sum(counts.values()), mean_length) and math.isclose(logp, math.log(total))
        assert math.isclose(sum(n * len(t) for t, n in counts.items()), len(text))  # every character is covered once


def test_the_likelihood_never_falls_over_steps_with_fixed_pieces():
    seen = Counter(w[a:b] for w in HUGS for a in range(len(w)) for b in range(a + 1, len(w) + 1))
    model = Unigram({piece: -math.log(len(seen)) for piece in seen})
    likelihoods = []
    for _ in range(40):
        model, likelihood = model.em_step(HUGS)
        likelihoods.append(likelihood)
        assert math.isclose(sum(map(math.exp, model.pieces.values())), 1)
    assert likelihoods[-1] > likelihoods[0] + 10 and all(b >= a - 1e-9 for a, b in zip(likelihoods, likelihoods[1:]))
    # With all words as pieces the best is known: each word its own share, and every other piece nothing.
    n = sum(HUGS.values())
    assert math.isclose(likelihoods[-1], sum(c * math.log(c / n) for c in HUGS.values()), rel_tol=1e-3)


def test_one_step_by_hand():
    half = math.log(0.5)
    model, likelihood = Unigram({"a": half, "aa": half}).em_step({"aa": 4})
    # a|a has 1/4, aa has 1/2: a third and two thirds. Expected: 2/3 of an "a" and 2/3 of an "aa" per word.
    assert math.isclose(likelihood, 4 * math.log(0.75))
    assert math.isclose(model.pieces["a"], half) and math.isclose(model.pieces["aa"], half)
    model, _ = Unigram({"a": math.log(0.2), "aa": math.log(0.8)}).em_step({"aa": 4})
    a, aa = 2 * 0.04 / 0.84, 0.8 / 0.84
    assert math.isclose(math.exp(model.pieces["a"]), a / (a + aa))


@pytest.mark.oracle("chi-square test against the enumerated posterior")
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_samples_follow_the_posterior_to_the_power_of_alpha(alpha):
    chisquare = pytest.importorskip("scipy.stats").chisquare
    model, rng = random_model(random.Random(4)), random.Random(5)
    text = "abcabc"
    everything = splits(text, model)
    weights = np.exp(alpha * np.array([logp for _, logp in everything]))
    drawn = Counter(tuple(model.sample(text, alpha, rng)) for _ in range(4000))
    observed = np.array([drawn[tuple(tokens)] for tokens, _ in everything])
    expected = 4000 * weights / weights.sum()
    assert observed.sum() == 4000 and len(everything) > 3
    large = expected >= 5
    observed, expected = [np.append(x[large], x[~large].sum()) for x in (observed, expected)]
    assert chisquare(observed[expected > 0], expected[expected > 0]).pvalue > 1e-3


def test_a_large_alpha_returns_the_best_and_a_generator_repeats_itself():
    model = Unigram({"a": -2.0, "b": -2.1, "c": -2.2, "ab": -3.0, "bc": -3.5, "ca": -3.3, "abc": -4.0})
    assert all(model.sample("abcabca", 500.0) == model.encode_word("abcabca") for _ in range(20))
    draws = [[model.sample("abcabca", 0.1, random.Random(seed)) for seed in range(9)] for _ in range(2)]
    assert draws[0] == draws[1] and len({tuple(d) for d in draws[0]}) > 2
    random.seed(3)
    default = [model.sample("abcabca") for _ in range(30)]
    random.seed(3)
    assert default == [model.sample("abcabca", 0.1) for _ in range(30)]


@pytest.mark.oracle("tokenizers.models.Unigram")
def test_equals_tokenizers_with_the_same_scores():
    models = pytest.importorskip("tokenizers.models")
    rng, unknown = random.Random(7), 0
    for _ in range(40):
        model = random_model(rng, "abcd")
        for letter in rng.sample("abcd", rng.randint(0, 2)):
            if len(model.pieces) > 3:
                model = Unigram({p: s for p, s in model.pieces.items() if p != letter})
        theirs = models.Unigram([("<unk>", 0.0), *model.pieces.items()], 0, False)
        for _ in range(20):
            text = "".join(rng.choices("abcdé ", weights=(9, 9, 9, 9, 1, 1), k=rng.randint(1, 12)))
            found = model.encode_word(text)
            assert [model.vocab[t] for t in found] == [t.id for t in theirs.tokenize(text)], (model.pieces, text)
            unknown += "<unk>" in found
    assert unknown > 100


def test_unknown_characters_cost_ten_more_than_the_rarest_piece_and_fuse():
    model = Unigram({"a": -1.0, "b": -4.0})
    assert model.encode_word("axyb") == ["a", "<unk>", "b"] and model.vocab == {"<unk>": 0, "a": 1, "b": 2}
    assert model.nbest("axyb", 5) == [(["a", "<unk>", "b"], -1 - 14 - 14 - 4)]
    assert model.sample("axyb") == ["a", "<unk>", "b"] and model.encode_word("xax") == ["<unk>", "a", "<unk>"]
    assert model.expected_counts("axyb")[0]["<unk>"] == 2
    assert model.encode_word("") == [] and model.nbest("", 2) == [([], 0.0)] and model.sample("") == []
    # Where a longer piece covers the character it is no longer unknown.
    assert Unigram({"a": -1.0, "ax": -30.0}).encode_word("ax") == ["ax"]


def test_a_text_cannot_spell_the_unknown_token():
    model = Unigram({c: -3.0 for c in "<unk>"})
    assert model.encode_word("<unk>") == ["<", "u", "n", "k", ">"]
    trained = Unigram.train({"<unk>": 9, "unk": 2}, 50)
    assert "<unk>" not in trained.pieces and "".join(trained.encode_word("<unk>")) == "<unk>"


def test_training_keeps_all_characters_and_reaches_the_size():
    counts = dict(snippet.COUNTS.most_common(60))
    letters = {c for word in counts for c in word}
    for size in (len(letters) + 1, 60, 100):
        model = Unigram.train(counts, size)
        assert len(model.vocab) == size and letters <= set(model.pieces) and max(map(len, model.pieces)) <= 8
        assert math.isclose(sum(map(math.exp, model.pieces.values())), 1)
        assert list(model.pieces.values()) == sorted(model.pieces.values(), reverse=True)
        assert all("".join(model.encode_word(word)) == word for word in counts)
    assert max(map(len, Unigram.train(counts, 100, max_length=3).pieces)) == 3


@pytest.mark.oracle("the likelihood lost when each piece is left out, by recount")
def test_pruning_drops_what_the_likelihood_misses_least():
    model = Unigram.train(HUGS, 100)  # nothing pruned: all substrings seen twice
    seen = Counter()
    for w, n in HUGS.items():
        seen.update({s: n for s in {w[a:b] for a in range(len(w)) for b in range(a + 1, len(w) + 1)}})
    assert set(model.pieces) == set(seen)
    before = model.em_step(HUGS)[1]
    lost = {}
    for piece in model.pieces:
        if len(piece) > 1:
            rest = Unigram({p: s for p, s in model.pieces.items() if p != piece})
            lost[piece] = before - rest.em_step(HUGS)[1]
    worth = sorted(lost, key=lost.get, reverse=True)
    kept = [p for p in Unigram.train(HUGS, 12, em_iters=2).pieces if len(p) > 1]
    assert len(kept) == 4 and set(kept) == set(worth[:4]) == {"hug", "pug", "pun", "bun"} | set(kept) & set(worth)


def test_shrinking_slowly_or_at_once_gives_the_same_size_and_more_steps_fit_better():
    counts = dict(snippet.COUNTS.most_common(40))
    slow, fast = Unigram.train(counts, 60, shrink=0.9), Unigram.train(counts, 60, shrink=0.01)
    assert len(slow.vocab) == len(fast.vocab) == 60 and set(slow.vocab) != set(fast.vocab)
    assert slow.pieces == Unigram.train(counts, 60, shrink=0.9, em_iters=2, max_length=8).pieces
    once, often = Unigram.train(HUGS, 12, em_iters=1), Unigram.train(HUGS, 12, em_iters=30)
    assert often.em_step(HUGS)[1] > once.em_step(HUGS)[1]


def test_the_unknown_token_counts_as_an_entry():
    everything = len(Unigram.train(HUGS, 100).pieces)
    for size in (everything - 1, everything, everything + 1, everything + 2):
        assert len(Unigram.train(HUGS, size).vocab) == min(size, everything + 1)


def test_a_piece_seen_once_is_no_candidate():
    assert "ab" in Unigram.train({"abq": 2}, 50).pieces and "ab" not in Unigram.train({"abq": 1}, 50).pieces
    assert set(Unigram.train({"abq": 1}, 4).pieces) == set("abq")


def test_a_unigram_model_has_no_merges_and_may_cut_where_no_merge_would():
    from vocab.embeddings.byte_pair_encoding import BPE

    merges = [("b", "c"), ("a", "b")]
    scores = {"a": -2.0, "b": -2.0, "c": -1.0, "bc": -3.5, "ab": -2.0}
    assert not hasattr(Unigram(scores), "merges") and not hasattr(BPE(merges), "pieces")
    assert BPE(merges).encode_word("abc") == ["a", "bc"] and Unigram(scores).encode_word("abc") == ["ab", "c"]


def test_numpy_variant_agrees(agree):
    counts = dict(snippet.COUNTS.most_common(60))
    for size in (40, 90):
        ours = Unigram.train(counts, size)
        theirs, likelihoods = snippet.train(counts, size)
        assert set(ours.pieces) == set(theirs)
        agree([math.log(theirs[p]) for p in ours.pieces], list(ours.pieces.values()))
        for word in ("lowest", "unhappiest", "thankful", "weather", "minutes", "stillness"):
            agree([ours.vocab[t] for t in snippet.best_split(word, theirs)], [ours.vocab[t] for t in ours.encode_word(word)])
            expected, total = snippet.expected_counts(word, theirs)
            found, logp = ours.expected_counts(word)
            agree([expected[t] for t in found] + [math.log(total)], [*found.values(), logp])


@pytest.mark.oracle("enumeration")
def test_in_numpy_the_shares_of_all_splits_are_the_posterior():
    model = random_model(random.Random(8))
    everything = splits("abcab", model)
    weights = np.exp(0.5 * np.array([logp for _, logp in everything]))
    shares = snippet.all_splits("abcab", {p: math.exp(s) for p, s in model.pieces.items()}, 0.5)
    assert math.isclose(sum(shares.values()), 1)
    np.testing.assert_allclose([shares[tuple(t)] for t, _ in everything], weights / weights.sum(), rtol=1e-9)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ({}, "pieces is empty; expected a logarithm of a probability for each piece"),
        ({"": -1.0}, "pieces has ''; expected strings of one character or more"),
        ({"<unk>": -1.0}, "pieces has '<unk>'; expected .* not the unknown token"),
        ({"a": 0.5}, r"pieces\['a'\]=0.5 is not the logarithm of a probability above 0 and up to 1"),
        ({"a": -math.inf}, r"pieces\['a'\]=-inf is not"),
        ({"a": math.nan}, r"pieces\['a'\]=nan is not"),
    ],
)
def test_pieces_that_cannot_be(pieces, message):
    with pytest.raises(ValueError, match=message):
        Unigram(pieces)
    assert Unigram({"a": 0.0}).encode_word("aa") == ["a", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(word_counts={}), "word_counts has no word to learn from"),
        (dict(word_counts={"ab": 0}), r"word_counts\['ab'\]=0 is below 1"),
        (dict(vocab_size=7), "vocab_size=7 is less than the 8 entries of the unknown token and all characters"),
        (dict(shrink=1.0), "shrink=1.0 is not between 0 and 1"),
        (dict(shrink=0.0), "shrink=0.0 is not between 0 and 1"),
        (dict(em_iters=0), "em_iters=0 is below 1"),
        (dict(max_length=0), "max_length=0 is below 1"),
    ],
)
def test_training_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Unigram.train(**{**dict(word_counts=HUGS, vocab_size=20), **arguments})
    assert set(Unigram.train(HUGS, 8).pieces) == set("hugpnbs") == set(Unigram.train(HUGS, 20, em_iters=1, max_length=1).pieces)


def test_bad_calls_say_what_came_and_what_is_allowed():
    model = Unigram({"a": -1.0})
    with pytest.raises(ValueError, match="n=0 is below 1"):
        model.nbest("a", 0)
    for alpha in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="alpha=.* is not a finite number of at least 0"):
            model.sample("a", alpha)
    with pytest.raises(ValueError, match="word_counts has 'ab' with a character that is no piece"):
        model.em_step({"ab": 1})
