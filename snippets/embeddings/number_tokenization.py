"""Groups of digits, and an adder that sees nothing else, in NumPy."""

import numpy as np


def group_digits(number, size=3, direction="left"):
    """"1234567" is 123 456 7 counted from the left, 1 234 567 from the right."""
    if direction == "left":
        return [number[i : i + size] for i in range(0, len(number), size)]
    return [number[max(i - size, 0) : i] for i in range(len(number), 0, -size)][::-1]


def features(number, size, direction, slots):
    """Values of the groups, the last one first. What a group is worth (1, 1000 ...) is not said: the adder has to learn it."""
    values = [int(group) for group in group_digits(number, size, direction)][::-1]
    return values + [0] * (slots - len(values))


def train_adder(pairs, size, direction, slots, ridge=1e-9):
    """A linear map from the groups of a and b to a + b, by least squares."""
    x = np.array([features(a, size, direction, slots) + features(b, size, direction, slots) for a, b in pairs], float)
    y = np.array([int(a) + int(b) for a, b in pairs], float)
    return np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)


def carries(a, b):
    """carries(a, b)[k]: 1 if adding the last k digits of a and b overflows into the next place."""
    return [int((int(a) % 10**k + int(b) % 10**k) >= 10**k) for k in range(max(len(a), len(b)) + 1)]


# %% demo
from snippets.live import bars, choice, demo, slider, table


def random_pairs(n, lengths, rng):
    """n pairs of numbers; lengths (n, 2) or (2,) says how many digits they have."""
    digits = rng.integers(0, 10, size=(n, 2, 9))
    digits[:, :, 0] = np.maximum(digits[:, :, 0], 1)
    return [tuple("".join(map(str, d[:k])) for d, k in zip(row, ks)) for row, ks in zip(digits, np.broadcast_to(lengths, (n, 2)))]


def accuracy(weights, pairs, size, direction, slots):
    x = np.array([features(a, size, direction, slots) + features(b, size, direction, slots) for a, b in pairs], float)
    return 100 * float((np.abs(x @ weights - [int(a) + int(b) for a, b in pairs]) < 0.5).mean())


def out_of_line(n_a, n_b, size, direction):
    """Borders of one number that lie within a group of the other, for numbers of so many digits."""
    places = []
    for n in (n_a, n_b):
        groups = group_digits("0" * n, size, direction)
        places.append({sum(map(len, groups[i:])) for i in range(1, len(groups))})
    return sum(place < min(n_a, n_b) for place in places[0] ^ places[1])


def columns(number, size, direction, width):
    """One cell per digit, a bar before the first digit of each group but the leftmost one."""
    cells = []
    for i, group in enumerate(group_digits(number, size, direction)):
        cells += [("│" if i and not j else "") + digit for j, digit in enumerate(group)]
    return [""] * (width - len(cells)) + cells


@demo(
    digits_a=slider(1, 9, label="digits of the first number"),
    digits_b=slider(1, 9, label="digits of the second number"),
    size=slider(1, 3, label="digits in a group"),
    direction=choice("left", "right", label="groups are counted from the"),
)
def show(digits_a=7, digits_b=5, size=3, direction="left"):
    """Count from the right: the bars of all three numbers fall into line, and one rule adds numbers of any length. Single digits need no direction."""
    a, b = "987654321"[:digits_a], "864297531"[:digits_b]
    total = str(int(a) + int(b))
    width = len(total)
    cuts = {}
    for name, number in (("a", a), ("b", b), ("sum", total)):
        place = len(number)
        for group in group_digits(number, size, direction)[:-1]:
            place -= len(group)
            cuts.setdefault(place, set()).add(name)
    over = carries(a, b)
    lengths = {"a": len(a), "b": len(b), "sum": width}
    shared = [place for place, who in cuts.items() if who == {n for n, k in lengths.items() if k > place}]
    powers = [f"1{'0' * k}" if k < 3 else f"10^{k}" for k in range(width)][::-1]
    carried = [("1" if k < len(over) and over[k] else "") for k in range(width)][::-1]
    rows = [["carry", *carried], *([name, *columns(n, size, direction, width)] for name, n in (("a", a), ("b", b), ("a + b", total)))]

    rng = np.random.default_rng(0)
    slots, here = -(-9 // size), np.array([len(a), len(b)])
    scores = {"from the left": {}, "from the right": {}}
    for name, lengths in (("all lengths", rng.integers(1, 10, size=(200, 2))), ("these lengths only", here)):
        known, new = random_pairs(200, lengths, rng), random_pairs(200, lengths, rng)
        for side in ("left", "right"):
            weights = train_adder(known, size, side, slots)
            scores[f"from the {side}"][name] = accuracy(weights, new, size, side, slots)
    other = "from the left" if direction == "left" else "from the right"
    return (
        table(rows, columns=("row", *powers), caption=f"The addition in columns; │ is a border between tokens. {len(shared)} of {len(cuts)} borders are at the same place in every number "
              "that reaches there. One that is not cuts another number's group in two."),
        bars({f"from the {side}": {n: out_of_line(len(a), n, size, side) for n in range(1, 10)} for side in ("left", "right")}, x=f"digits of the number added to one of {len(a)}",
             y="borders out of line", range_y=(0, 6), caption="Counted from the right there are none, whatever the lengths. From the left, only lengths that leave the same rest fit together."),
        bars(scores, y="additions exactly right (%)", range_y=(0, 100), caption="A linear adder that is given the groups' values, trained on 200 additions and tried on 200 new ones. What a group is worth depends, from the left, on the length of its number: "
             "one rule for all lengths cannot be right, and every pair of lengths needs a rule of its own."),
        f"{a} + {b}: {sum(over[k] for k in cuts if k < len(over))} carries cross borders, {len(cuts) - len(shared)} of {len(cuts)} borders are out of line. Counted {other}, one linear rule for all lengths "
        f"gets {scores[other]['all lengths']:.0f} % of additions right.",
    )
