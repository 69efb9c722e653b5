import itertools

import numpy as np
import pytest
import torch

from snippets.embeddings import number_tokenization as numpy_variant
from vocab.embeddings.number_tokenization import Border, digit_alignment, group_digits, place_value_features
from vocab.embeddings.pre_tokenizer import PreTokenizer

SCHEMES = [(size, direction) for size in (1, 2, 3) for direction in ("left", "right")]


def number(length):
    return 10 ** (length - 1) if length > 1 else 7


@pytest.mark.parametrize(("size", "direction"), SCHEMES)
def test_joined_groups_are_the_text_and_a_number_of_n_digits_has_ceil_of_n_over_size(size, direction):
    for n in range(1, 13):
        text = "1234567890123"[:n]
        groups = group_digits(text, size, direction)
        assert "".join(groups) == text and len(groups) == -(-n // size)
        assert max(map(len, groups)) <= size
        full = groups[:-1] if direction == "left" else groups[1:]
        assert all(len(group) == size for group in full)
    text = "On 3 May 2024, 12345.678 (or 7%) of ٣٤٥٦ ½"
    assert "".join(group_digits(text, size, direction)) == text


@pytest.mark.oracle("published splits of cl100k and o200k: 1234567 is 123|456|7")
def test_the_two_directions_of_1234567():
    assert group_digits("1234567", 3) == ["123", "456", "7"] == group_digits("1234567")
    assert group_digits("1234567", 3, "right") == ["1", "234", "567"] == f"{1234567:,}".split(",")


@pytest.mark.oracle("tokenizers Split with the digit part of GPT-4's pattern")
def test_from_the_left_equals_what_the_pattern_of_gpt_4_does():
    tokenizers = pytest.importorskip("tokenizers")
    split = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\p{N}{1,3}"), "isolated")
    for text in ("7 or 1234567 and 98765", "99.1234", "a12345b", "٣٤٥٦"):
        assert group_digits(text) == [piece for piece, _ in split.pre_tokenize_str(text)]
        assert group_digits(text, 2) == [piece for piece, _ in PreTokenizer("digits", digits=2).split(text)]


@pytest.mark.oracle("Python's thousands separator")
def test_from_the_right_equals_commas():
    for n in (5, 42, 999, 1000, 54321, 10**9, 123456789012):
        assert group_digits(str(n), 3, "right") == f"{n:,}".split(",")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_right_aligned_groups_share_every_border_and_carry_at_most_one(size):
    """Every pair of lengths up to six digits, with no, some and all carries."""
    for n, m in itertools.product(range(1, 7), repeat=2):
        for a, b in ((10**n - 1, 10**m - 1), (10 ** (n - 1), 10 ** (m - 1)), (int("5" * n), int("46" * 3) % 10**m)):
            for border in digit_alignment(a, b, size, "right"):
                assert border.shared and border.carry in (0, 1)
                assert border.place % size == 0


@pytest.mark.oracle("addition group by group in base 10**size")
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_carries_make_the_sum_column_by_column(size):
    rng = np.random.default_rng(0)
    for a, b in rng.integers(0, 10**6, size=(60, 2)).tolist():
        carry, total, expected = 0, 0, {}
        for i in range(9 // size):  # schoolbook addition, one group a column
            column = a // 10 ** (size * i) % 10**size + b // 10 ** (size * i) % 10**size + carry
            carry, total = column // 10**size, total + column % 10**size * 10 ** (size * i)
            expected[size * (i + 1)] = carry
        assert total == a + b
        for border in digit_alignment(a, b, size, "right"):
            assert border.carry == expected[border.place]


@pytest.mark.parametrize("size", [2, 3])
def test_left_grouping_misaligns_whenever_lengths_leave_another_rest(size):
    """All lengths up to six digits. Of numbers that both have a border; one of a single group can only lie across one of the other's."""
    for n, m in itertools.product(range(1, 7), repeat=2):
        a, b = number(n), number(m)  # small enough that the sum is as long as the longer one
        out = [border for border in digit_alignment(a, b, size, "left") if not border.shared]
        short, long = sorted((n, m))
        if short > size:
            assert bool(out) == (n % size != m % size)
        else:
            assert bool(out) == any(place % size == long % size for place in range(1, short))
        assert not any(not border.shared for border in digit_alignment(a, b, 1, "left"))


def test_a_sum_that_grows_by_a_digit_moves_all_its_groups_from_the_left():
    borders = digit_alignment(9999, 1)
    assert borders == [Border(1, 1, ("a",), False), Border(2, 1, ("sum",), False)]
    assert digit_alignment(9999, 1, direction="right") == [Border(3, 1, ("a", "sum"), True)]
    assert digit_alignment(500, 499) == [] and digit_alignment(500, 500) == [Border(1, 0, ("sum",), False)]


@pytest.mark.parametrize(("size", "direction"), SCHEMES)
def test_values_times_places_add_up_to_the_number(size, direction):
    for n in (0, 7, 1234567, 100000, 98765432101):
        value, digits, place = place_value_features(group_digits(str(n), size, direction)).T
        assert (value * 10**place).sum() == n and digits.sum() == len(str(n))
        assert place[-1] == 0 and (place[:-1] - place[1:] == digits[1:]).all()


def test_from_the_right_a_place_follows_from_the_groups_after_it_and_from_the_left_it_does_not():
    for n in range(4, 10):
        right, left = (place_value_features(group_digits("1" * n, 3, d))[:, 2] for d in ("right", "left"))
        assert right.tolist() == [3.0 * i for i in range(len(right))][::-1]
        assert (left[0] == right[0]) == (n % 3 == 0)


def test_decimals_are_cut_as_if_they_were_whole_numbers():
    """0.1234 and 0.12340 are equal; counted from the right, their fractions have other groups. From the left they fit."""
    assert group_digits("0.1234", direction="right") == ["0", ".", "1", "234"]
    assert group_digits("0.12340", direction="right") == ["0", ".", "12", "340"]
    assert group_digits("0.12340")[2] == group_digits("0.1234")[2] == "123"
    assert group_digits("1,234") == ["1", ",", "234"], "commas make groups from the right whatever the tokenizer"


def test_single_tokens_for_all_three_digits_do_not_order_the_columns():
    """A widely copied text expects better reasoning from them: a linear adder of their values fails from the left, and not with single digits."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 10, size=(200, 2))
    known, new = (numpy_variant.random_pairs(200, lengths, rng) for _ in range(2))
    share = {}
    for size, direction in ((3, "left"), (3, "right"), (1, "left")):
        slots = -(-9 // size)
        weights = numpy_variant.train_adder(known, size, direction, slots)
        share[size, direction] = numpy_variant.accuracy(weights, new, size, direction, slots)
    assert share[3, "left"] < 5 and share[3, "right"] == share[1, "left"] == 100


@pytest.mark.parametrize(("size", "direction"), SCHEMES)
def test_numpy_variant_agrees(agree, size, direction):
    for n in ("7", "1234567", "98765"):
        groups = group_digits(n, size, direction)
        assert numpy_variant.group_digits(n, size, direction) == groups
        agree(numpy_variant.features(n, size, direction, len(groups))[::-1], place_value_features(groups)[:, 0])
    for a, b in (("9876543", "86429"), ("999", "1"), ("123456", "654321")):
        borders = digit_alignment(int(a), int(b), size, direction)
        mine = numpy_variant.carries(a, b)
        agree([mine[x.place] for x in borders], [x.carry for x in borders])
        within = [x for x in digit_alignment(10 ** (len(a) - 1), 10 ** (len(b) - 1), size, direction) if x.place < min(len(a), len(b)) and not x.shared]
        if len(str(10 ** (len(a) - 1) + 10 ** (len(b) - 1))) == max(len(a), len(b)):
            agree(numpy_variant.out_of_line(len(a), len(b), size, direction), len(within))


def test_the_demo_adds_with_one_rule_from_the_right_only():
    bars = {direction: numpy_variant.show(direction=direction) for direction in ("left", "right")}
    assert bars["left"][2]["series"] == bars["right"][2]["series"] == {"from the left": [0.0, 100.0], "from the right": [100.0, 100.0]}
    assert "3 of 3 borders" in bars["left"][-1]["caption"] and "0 of 2 borders" in bars["right"][-1]["caption"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_digits("12", 0), "size=0 is below 1"),
        (lambda: group_digits("no digit", 0), "size=0 is below 1"),
        (lambda: group_digits("12", 3, "up"), "direction='up' is neither 'left' nor 'right'"),
        (lambda: digit_alignment(-1, 5), "a=-1, b=5: a sign has a token of its own"),
        (lambda: digit_alignment(1, -5), "a=1, b=-5"),
        (lambda: digit_alignment(1, 5, 0), "size=0 is below 1"),
        (lambda: place_value_features([]), r"tokens=\[\]; expected groups of digits"),
        (lambda: place_value_features(["12", "3a"]), r"tokens=\['12', '3a'\]; expected groups of digits"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_empty_text_has_no_pieces_and_features_are_float64():
    assert group_digits("") == []
    assert place_value_features(["5"]).dtype == torch.float64 and digit_alignment(0, 0) == []
