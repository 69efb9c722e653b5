import itertools
import random

import pytest

from snippets.embeddings import wordpiece as snippet
from vocab.embeddings.byte_pair_encoding import BPE
from vocab.embeddings.wordpiece import WordPiece

HUGS = {"hug": 10, "pug": 5, "pun": 12, "bun": 4, "hugs": 5}


def ids(*pieces):
    return {piece: i for i, piece in enumerate(("[UNK]", *pieces))}


def random_case(rng):
    """A vocabulary over few letters, where pieces often overlap, and words of the same letters."""
    pieces = {"".join(rng.choices("abc", k=rng.randint(1, 4))) for _ in range(rng.randint(2, 14))}
    marked = {("##" if rng.random() < 0.6 else "") + p for p in pieces} | {p for p in ("a", "b", "c", "##a", "##b", "##c") if rng.random() < 0.7}
    words = ["".join(rng.choices("abc", k=rng.randint(1, 9))) for _ in range(30)]
    return ids(*sorted(marked)), words


def splits(word, vocab):
    """Every split of a word into pieces of the vocabulary, by trying all 2^(n-1)."""
    for cuts in itertools.product((False, True), repeat=len(word) - 1):
        parts, start = [], 0
        for end in [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]:
            parts.append(("##" if start else "") + word[start:end])
            start = end
        if all(p in vocab for p in parts):
            yield parts


@pytest.mark.oracle("the example in the source of BERT's tokenizer: un ##aff ##able")
def test_unaffable_is_cut_as_in_the_source_of_bert():
    model = WordPiece(ids("[CLS]", "[SEP]", "want", "##want", "##ed", "wa", "un", "runn", "##ing", "##aff", "##able"))
    assert model.encode_word("unaffable") == ["un", "##aff", "##able"]
    assert model.encode_word("running") == ["runn", "##ing"] and model.encode_word("wanted") == ["want", "##ed"]
    assert model.encode_word("unaffableX") == ["[UNK]"]  # one letter, and the whole word is gone
    assert model.encode_word("unwantedX") == ["[UNK]"] and model.encode_word("") == []


@pytest.mark.oracle("tokenizers.models.WordPiece")
def test_equals_tokenizers_on_random_vocabularies():
    models = pytest.importorskip("tokenizers.models")
    rng, unknown = random.Random(0), 0
    for _ in range(100):
        vocab, words = random_case(rng)
        theirs = models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=7, continuing_subword_prefix="##")
        ours = WordPiece(vocab, max_chars=7)
        for word in [*words, "a##b", "##a", "ab c", "é"]:
            found = ours.encode_word(word)
            assert found == [t.value for t in theirs.tokenize(word)], (vocab, word)
            unknown += found == ["[UNK]"]
    assert 500 < unknown < 3000  # both outcomes are common


@pytest.mark.oracle("a quadratic scan over all ends of every piece")
def test_the_trie_equals_the_scan():
    rng = random.Random(1)
    for _ in range(60):
        vocab, words = random_case(rng)
        model = WordPiece(vocab)
        for word in words:
            assert model.encode_word(word) == snippet.greedy(word, vocab)[0]


@pytest.mark.oracle("brute force over all prefixes of the word")
def test_the_first_token_is_the_longest_prefix_in_the_vocabulary():
    rng, checked = random.Random(2), 0
    for _ in range(60):
        vocab, words = random_case(rng)
        model = WordPiece(vocab)
        for word in words:
            found = model.encode_word(word)
            if found != ["[UNK]"]:
                assert found[0] == max((word[:n] for n in range(1, len(word) + 1) if word[:n] in vocab), key=len)
                assert "".join(p.removeprefix("##") for p in found) == word
                assert all(p.startswith("##") for p in found[1:]) and not found[0].startswith("##")
                checked += 1
    assert checked > 200


def test_greedy_fails_where_a_split_exists():
    model = WordPiece(ids("a", "ab", "##bc"))
    assert list(splits("abc", model.vocab)) == [["a", "##bc"]]
    assert model.encode_word("abc") == ["[UNK]"] and model.encode_word("ab") == ["ab"]


def test_greedy_is_not_the_split_into_the_fewest_pieces():
    vocab = ids("low", "lowe", "##est", "##s", "##t")
    assert WordPiece(vocab).encode_word("lowest") == ["lowe", "##s", "##t"]
    assert snippet.fewest("lowest", vocab)[0] == ["low", "##est"]


@pytest.mark.oracle("byte-pair encoding with the same pieces")
def test_longest_match_is_the_rule_of_wordpiece_and_not_of_every_tokenizer():
    merges = [("b", "c"), ("a", "b")]
    assert BPE(merges).encode_word("abc") == ["a", "bc"]  # the merge learned first comes first
    assert WordPiece(ids("a", "b", "ab", "##b", "##c", "##bc")).encode_word("abc") == ["ab", "##c"]


@pytest.mark.oracle("the worked example of the Hugging Face course: ##g + ##s first")
def test_training_joins_the_most_surprising_pair_first():
    letters = ["[UNK]", "##g", "##n", "##s", "##u", "b", "h", "p"]
    vocab = WordPiece.train(HUGS, 9).vocab  # 5 / (20 * 5); the most frequent pair, ##u ##g, has only 20 / (36 * 20)
    assert list(vocab) == [*letters, "##gs"] and list(vocab.values()) == list(range(9))
    # Then every pair has ##u and the same score, 1 / 36: 15 / (15 * 36) for h ##u, 15 / (36 * 15) for ##u ##g.
    assert list(WordPiece.train(HUGS, 10).vocab)[9:] == ["##ug"]
    assert list(WordPiece.train(HUGS, 8).vocab) == letters
    everything = WordPiece.train(HUGS, 100)
    assert len(everything.vocab) < 20 and all(everything.encode_word(w) == [w] for w in HUGS)


@pytest.mark.oracle("tokenizers.trainers.WordPieceTrainer")
def test_the_trainer_of_tokenizers_counts_pairs_as_byte_pair_encoding_does():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    settings = dict(special_tokens=["[UNK]"], show_progress=False, min_frequency=2)
    theirs.train_from_iterator([" ".join([w] * n) for w, n in HUGS.items()], tokenizers.trainers.WordPieceTrainer(vocab_size=13, **settings))
    learned = {p for p in theirs.get_vocab() if len(p.removeprefix("##")) == 2}  # its alphabet has each letter with and without ##
    assert learned == {"##ug"}
    assert "##ug" in snippet.train(HUGS, 9, rule="count") and "##gs" in snippet.train(HUGS, 9)


def test_a_pair_that_occurs_once_scores_highest_of_all():
    counts = {"qz": 1, **HUGS}
    assert "qz" in WordPiece.train(counts, 11, min_frequency=1).vocab  # 1 / (1 * 1)
    assert "qz" not in WordPiece.train(counts, 100).vocab and "q" in WordPiece.train(counts, 11).vocab
    assert "hugs" in WordPiece.train(HUGS, 100, min_frequency=5).vocab
    assert "hugs" not in WordPiece.train(HUGS, 100, min_frequency=6).vocab


def test_equal_scores_go_to_the_first_pair_in_lexicographic_order():
    assert list(WordPiece.train({"dc": 2, "ba": 2}, 6).vocab)[5:] == ["ba"]
    assert list(WordPiece.train({"ba": 2, "dc": 2}, 6).vocab)[5:] == ["ba"]


def test_a_joined_piece_stands_in_the_vocabulary_once():
    vocab = WordPiece.train({"aaaaa": 4, "baaaa": 3, "abab": 9}, 40).vocab
    assert len(set(vocab)) == len(vocab) == max(vocab.values()) + 1
    assert list(WordPiece.train({"b": 10, "baaaa": 2}, 5).vocab)[3:] == ["##aa", "##aaaa"]


def test_training_takes_other_marks_and_skips_words_that_are_too_long():
    model = WordPiece.train({"hug": 3, "hugging": 9}, 50, unk="<unk>", prefix="@@", max_chars=4)
    assert model.encode_word("hug") == ["hug"] and model.encode_word("hugging") == ["<unk>"]
    assert "@@n" not in model.vocab and model.vocab["<unk>"] == 0 and "@@u" in model.vocab
    assert model.encode_word("hugg") == ["hug", "@@g"]
    assert len(WordPiece.train({"ab" * 50: 1}, 4, min_frequency=99).encode_word("ab" * 50)) == 100
    with pytest.raises(ValueError, match="no word"):
        WordPiece.train({"a" * 101: 1}, 9)


@pytest.mark.parametrize("extra", [0, 1])
def test_longer_words_are_unknown_without_a_look(extra):
    model = WordPiece(ids("a", "##a"), max_chars=5)
    assert model.encode_word("a" * (5 + extra)) == (["[UNK]"] if extra else ["a", *["##a"] * 4])
    default = WordPiece(ids("a", "##a"))
    assert len(default.encode_word("a" * 100)) == 100 and default.encode_word("a" * 101) == ["[UNK]"]


def test_a_text_cannot_spell_the_unknown_token_as_a_piece():
    model = WordPiece(ids("s", "##s"))
    assert model.encode_word("[UNK]s") == ["[UNK]"]  # not [UNK] ##s


def test_a_word_that_spells_a_continuation_matches_it():
    # Nothing but the pre-tokenizer, which cuts at #, stands between a text and this.
    assert WordPiece(ids("#", "##able")).encode_word("##able") == ["##able"]


def test_the_vocabulary_given_is_not_changed_and_not_shared():
    vocab = ids("a")
    model = WordPiece(vocab)
    vocab["##a"] = 9
    assert model.encode_word("aa") == ["[UNK]"] and model.vocab == ids("a")


def test_numpy_variant_agrees(agree):
    counts = dict(snippet.COUNTS)
    for size in (60, 120, 500):
        ours, theirs = WordPiece.train(counts, size), snippet.train(counts, size)
        assert sorted(ours.vocab) == sorted(theirs)
        for word in [*counts, *snippet.WORDS]:
            agree([ours.vocab[p] for p in snippet.greedy(word, set(theirs))[0]], [ours.vocab[p] for p in ours.encode_word(word)])


@pytest.mark.oracle("brute force over all splits")
def test_in_numpy_the_fewest_pieces_are_the_fewest():
    rng = random.Random(3)
    for _ in range(40):
        vocab, words = random_case(rng)
        for word in words:
            possible = list(splits(word, vocab))
            found = snippet.fewest(word, vocab)[0]
            assert found in possible and len(found) == min(map(len, possible)) if possible else found == ["[UNK]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(vocab={"a": 0}), r"vocab has no '\[UNK\]', the token of unknown words; its 1 entries must include it"),
        (dict(vocab={"[UNK]": 0, "a": 0}), "vocab gives the same id to two pieces"),
        (dict(vocab=ids("a"), prefix=""), "prefix is empty"),
        (dict(vocab=ids("a"), max_chars=0), "max_chars=0 is below 1"),
    ],
)
def test_settings_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordPiece(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(word_counts={}, vocab_size=9), "word_counts has no word to learn from"),
        (dict(word_counts={"ab": 0}, vocab_size=9), r"word_counts\['ab'\]=0 is below 1"),
        (dict(word_counts=HUGS, vocab_size=7), "vocab_size=7 is less than the 8 entries of the unknown token and all characters"),
        (dict(word_counts=HUGS, vocab_size=9, min_frequency=0), "min_frequency=0 is below 1"),
    ],
)
def test_training_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        WordPiece.train(**arguments)
    assert WordPiece(ids("a"), max_chars=1).encode_word("a") == ["a"]
    assert WordPiece.train({"ab": 1}, 9, min_frequency=1).encode_word("ab") == ["ab"]
