import random
import re
from collections import Counter

import numpy as np
import pytest

from snippets.embeddings.byte_pair_encoding import TEXT, encode, show, train
from vocab.embeddings.byte_pair_encoding import BPE

SENNRICH = {"low": 5, "lower": 2, "newest": 6, "widest": 3}
WORDS = Counter(re.findall(r"[a-z]+", TEXT.lower()))
# All pairs of GPT-2's published list of merges whose result is part of "unhappiness", in the order of that list.
GPT2 = """i n|e s|p p|u n|es s|a p|in e|n e|s s|n ess|in es|in ess|a pp|n es|h a|p in|p i|p ine|app iness|h ap"""


def some_words(generator, n=40, letters="abcd", length=7):
    return {"".join(generator.choice(letters) for _ in range(generator.randint(1, length))): generator.randint(1, 50) for _ in range(n)}


def lowest_rank_first(word, merges):
    """The rule as it stands: look at all pairs, join the one of lowest rank, start again."""
    symbols = list(word)
    while True:
        found = [(merges.index(pair), i) for i, pair in enumerate(zip(symbols, symbols[1:])) if pair in merges]
        if not found:
            return symbols
        _, i = min(found)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


@pytest.mark.oracle("the published example (Sennrich et al. 2016)")
def test_the_first_merges_of_the_papers_four_words():
    bpe = BPE.train(SENNRICH, 16, end_of_word="</w>")
    assert bpe.merges == [("e", "s"), ("es", "t"), ("est", "</w>"), ("l", "o"), ("lo", "w")]
    assert list(bpe.vocab) == ["</w>", *"deilnorstw", "es", "est", "est</w>", "lo", "low"]
    assert list(bpe.vocab.values()) == list(range(16))
    assert bpe.encode_word("lowest") == ["low", "est</w>"] and bpe.encode_word("low") == ["low", "</w>"] and bpe.encode_word("") == []


@pytest.mark.oracle("counting all pairs anew after each merge")
@pytest.mark.parametrize("seed", range(6))
def test_updating_the_counts_learns_the_same_merges_as_counting_anew(seed, agree):
    words = some_words(random.Random(seed), letters="ab" if seed % 2 else "abcde")
    symbols = sorted({c for word in words for c in word})
    bpe = BPE.train(words, len(symbols) + 40)
    merges = train(words, 40)
    assert bpe.merges == merges
    ids = {token: i for i, token in enumerate([*symbols, *(a + b for a, b in merges)])}
    for word in [*words, *some_words(random.Random(seed + 100), letters="ab")]:
        agree([ids[t] for t in encode(word, merges)], [bpe.vocab[t] for t in bpe.encode_word(word)])


@pytest.mark.oracle("tokenizers' BpeTrainer, as long as no two pairs have the same count")
@pytest.mark.parametrize("seed", range(5))
def test_learns_what_tokenizers_learns(seed):
    tokenizers = pytest.importorskip("tokenizers")
    words = some_words(random.Random(seed), letters="abc", length=5)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=3 + 6, min_frequency=2, show_progress=False)
    theirs.train_from_iterator([w for word, count in words.items() for w in [word] * count], trainer)
    ours = BPE.train(words, 3 + 6)
    clear = 0
    for clear in range(6):  # up to the first tie, which the two break differently
        splits = {w: lowest_rank_first(w, ours.merges[:clear]) for w in words}
        counts = Counter()
        for w, split in splits.items():
            for pair in zip(split, split[1:]):
                counts[pair] += words[w]
        (_, first), (_, second) = counts.most_common(2)
        if first == second:
            break
    assert clear >= 3
    assert sorted(theirs.get_vocab(), key=theirs.token_to_id)[3 : 3 + clear] == [a + b for a, b in ours.merges[:clear]]


@pytest.mark.oracle("tokenizers.models.BPE")
@pytest.mark.parametrize("seed", range(4))
def test_splits_words_as_tokenizers_does(seed):
    tokenizers = pytest.importorskip("tokenizers")
    generator = random.Random(seed)
    bpe = BPE.train(some_words(generator, letters="abc"), 60, alphabet="abc")
    theirs = tokenizers.models.BPE(bpe.vocab, bpe.merges)
    for word in some_words(generator, 200, "abc", 30):
        assert bpe.encode_word(word) == [t.value for t in theirs.tokenize(word)]


@pytest.mark.oracle("joining the lowest rank first, without a heap")
def test_the_heap_finds_what_the_rule_says():
    generator = random.Random(0)
    for _ in range(30):
        made = ["a", "b", "c"]
        merges = []
        while len(merges) < 12:  # any list of merges, also one that no training would give
            pair = (generator.choice(made), generator.choice(made))
            if pair not in merges:
                merges.append(pair)
                made.append(pair[0] + pair[1])
        bpe = BPE(merges, {t: i for i, t in enumerate(dict.fromkeys(made))})
        for word in some_words(generator, 20, "abc", 20):
            assert bpe.encode_word(word) == lowest_rank_first(word, merges)


def test_tokens_join_to_the_word_and_each_token_is_what_its_merges_make():
    bpe = BPE.train(WORDS, 120)
    assert all("".join(bpe.encode_word(word)) == word for word in [*WORDS, "unhappiness", "xylophones"] if set(word) <= set(bpe.vocab))
    assert all(bpe.encode_word(token) == [token] for token in bpe.vocab)
    assert len(bpe.vocab) == 120 and len(bpe.merges) == 120 - len({c for w in WORDS for c in w})


@pytest.mark.parametrize("marker", [None, "</w>"])
def test_the_text_has_as_many_tokens_as_training_left(marker):
    words = {w: c for w, c in WORDS.items()}
    splits = {w: [*w, *([marker] if marker else [])] for w in words}
    bpe = BPE.train(words, 130, end_of_word=marker)
    for a, b in bpe.merges:  # what training did, with the text as one string of symbols a word
        pattern = re.compile(r"(?<!\S)" + re.escape(f"{a} {b}") + r"(?!\S)")
        splits = {w: pattern.sub(a + b, " ".join(s)).split() for w, s in splits.items()}
    assert {w: bpe.encode_word(w) for w in words} == splits
    assert sum(len(s) * words[w] for w, s in splits.items()) == sum(len(bpe.encode_word(w)) * c for w, c in words.items())


def test_vocabularies_are_nested():
    small, large = BPE.train(WORDS, 60), BPE.train(WORDS, 120)
    assert large.merges[: len(small.merges)] == small.merges
    assert {t: large.vocab[t] for t in small.vocab} == small.vocab


def test_of_equal_counts_the_first_in_the_alphabet_whatever_the_order_of_the_words():
    words = {"zy": 4, "ba": 4, "ac": 4, "ab": 4}
    assert BPE.train(words, 100).merges == [("a", "b"), ("a", "c"), ("b", "a"), ("z", "y")]
    assert BPE.train(dict(reversed(words.items())), 100).vocab == BPE.train(words, 100).vocab


def test_rare_pairs_are_not_merged_and_the_alphabet_is_kept():
    assert BPE.train({"ab": 3, "cd": 2, "ef": 1}, 100).merges == [("a", "b"), ("c", "d")]
    assert BPE.train({"ab": 3, "cd": 2, "ef": 1}, 100, min_frequency=3).merges == [("a", "b")]
    assert BPE.train({"ab": 3, "cd": 2, "ef": 1}, 100, min_frequency=1).merges == [("a", "b"), ("c", "d"), ("e", "f")]
    bpe = BPE.train({"ab": 3}, 4, alphabet="za")
    assert bpe.vocab == {"a": 0, "b": 1, "z": 2, "ab": 3} and bpe.encode_word("zab") == ["z", "ab"]
    assert BPE.train({"ab": 3}, 2).merges == [] and BPE.train({}, 0).vocab == {}


def test_a_run_of_one_character_is_joined_from_the_left():
    bpe = BPE.train({"aaaaa": 10}, 2)
    assert bpe.merges == [("a", "a")] and bpe.encode_word("aaaaa") == ["aa", "aa", "a"]
    assert BPE.train({"aaa": 3, "ab": 4, "b": 1}, 4).merges == [("a", "a"), ("a", "b")], "aaa has the pair twice, overlapping: 6 against 4"


@pytest.mark.oracle("GPT-2's published merges")
def test_unhappiness_is_un_h_appiness_with_the_merges_of_gpt2():
    bpe = BPE([pair.split() for pair in GPT2.split("|")])
    assert bpe.encode_word("unhappiness") == ["un", "h", "appiness"]
    assert bpe.encode_word("happiness") == ["h", "appiness"]


def test_neither_the_fewest_tokens_nor_the_longest_match():
    bpe = BPE([("b", "c"), ("a", "b"), ("c", "d")])
    assert bpe.encode_word("abcd") == ["a", "bc", "d"]
    assert {"ab", "cd"} <= set(bpe.vocab), "two tokens would have done, and the longest match at the start is ab"
    assert bpe.vocab == {"a": 0, "b": 1, "c": 2, "d": 3, "bc": 4, "ab": 5, "cd": 6}


def test_without_dropout_a_word_has_one_segmentation_and_with_it_several():
    bpe = BPE.train(SENNRICH, 16)
    assert {tuple(bpe.encode_word("lowest")) for _ in range(20)} == {("low", "est")}
    generator = random.Random(0)
    several = {tuple(bpe.encode_word("lowest", 0.3, generator)) for _ in range(200)}
    assert len(several) > 5 and all("".join(s) == "lowest" for s in several)
    assert bpe.encode_word("lowest", 1.0) == list("lowest")
    assert bpe.encode_word("lowest", 0.5, random.Random(3)) == bpe.encode_word("lowest", 0.5, random.Random(3))


@pytest.mark.oracle("all outcomes of algorithm 1 of Provilkov et al. 2020, with their probabilities")
def test_dropout_passes_over_each_possible_merge_with_its_probability():
    p, merges, word = 0.4, [("b", "c"), ("a", "b"), ("a", "bc"), ("c", "d"), ("ab", "cd")], "abcd"
    exact = Counter()

    def follow(symbols, probability):
        found = sorted((merges.index(pair), i) for i, pair in enumerate(zip(symbols, symbols[1:])) if pair in merges)
        for k, (_, i) in enumerate(found):  # the first k are passed over, this one is not
            follow([*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]], probability * p**k * (1 - p))
        exact[tuple(symbols)] += probability * p ** len(found)

    follow(list(word), 1.0)
    assert sum(exact.values()) == pytest.approx(1) and len(exact) == 7
    generator, bpe, n = random.Random(0), BPE(merges), 20_000
    drawn = Counter(tuple(bpe.encode_word(word, p, generator)) for _ in range(n))
    assert set(drawn) == set(exact)
    chi2 = sum((drawn[s] - n * q) ** 2 / (n * q) for s, q in exact.items())
    assert chi2 < 22.5, "beyond it lies one in a thousand, with six degrees of freedom"


def test_no_merge_crosses_a_word():
    bpe = BPE.train({"ab": 9, "ba": 9, "aab": 3}, 100)
    assert bpe.encode_word("abba") == ["ab", "ba"] and "bb" not in bpe.vocab


def test_what_is_not_in_the_vocabulary():
    with pytest.raises(ValueError, match="word has 'z', which is not in vocab, and there is no unk"):
        BPE.train(SENNRICH, 16).encode_word("lowz")
    vocab = {t: i for i, t in enumerate(["<unk>", "a", "b", "ab"])}
    assert BPE([("a", "b")], vocab, unk="<unk>").encode_word("zaby") == ["<unk>", "ab", "<unk>"]


def test_settings_that_cannot_be():
    with pytest.raises(ValueError, match=r"merges has \('a', 'b'\) twice"):
        BPE([("a", "b"), ("c", "d"), ("a", "b")])
    with pytest.raises(ValueError, match=r"merges\[1\] joins 'ef', which is no character and made by no earlier merge"):
        BPE([("a", "b"), ("ef", "c"), ("e", "f")])
    with pytest.raises(ValueError, match=r"merges\[0\] joins 'a' and 'b', but 'ab' is not in vocab"):
        BPE([("a", "b")], {"a": 0, "b": 1})
    with pytest.raises(ValueError, match="unk='<unk>' is not in vocab"):
        BPE([("a", "b")], unk="<unk>")
    with pytest.raises(ValueError, match="end_of_word='#' is not in vocab"):
        BPE([], {"a": 0}, end_of_word="#")
    with pytest.raises(ValueError, match=r"word_counts\['ab'\]=0; expected 1 or more"):
        BPE.train({"ab": 0}, 10)
    with pytest.raises(ValueError, match="'a#', which holds end_of_word='#'"):
        BPE.train({"a#": 1}, 10, end_of_word="#")
    with pytest.raises(ValueError, match="vocab_size=3 is below the 4 single characters"):
        BPE.train({"abc": 1}, 3, end_of_word="#")
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="dropout=.* is not between 0 and 1"):
            BPE([("a", "b")]).encode_word("ab", p)


def test_the_demo_counts_as_the_module_does():
    words = {w + "·": c for w, c in WORDS.items()}
    merges, word, length, top, _ = show(merges=60, word="lowest")
    bpe = BPE.train(words, len({c for w in words for c in w}) + 60)
    assert [row[1] for row in merges["rows"]][-1] == " + ".join(bpe.merges[-1])
    assert word["rows"][-1][-1].split(" | ") == bpe.encode_word("lowest·")
    assert length["series"]["text"][60][1] == sum(len(bpe.encode_word(w)) * c for w, c in words.items())
