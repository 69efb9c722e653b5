"""Rotary position embedding in NumPy."""

import numpy as np


def rates(width, base=10000.0):
    """Radians per token of each pair, fastest first."""
    return base ** (-np.arange(0, width, 2) / width)


def rope(x, positions, base=10000.0):
    """Turns the pairs (i, i + d/2) of x (..., T, d) by position times rate."""
    d = x.shape[-1]
    if d % 2:
        raise ValueError(f"a head of width {d} cannot be split into pairs")
    angle = np.asarray(positions)[:, None] * rates(d, base)
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)


# %% demo
from snippets.live import bars, demo, line, scatter, slider


@demo(
    m=slider(0, 64, label="position of the query, m"),
    n=slider(0, 64, label="position of the key, n"),
    pair=slider(0, 7, label="pair shown"),
    base=slider(10.0, 1e6, log=True, label="base"),
    context=slider(16, 65536, log=True, label="context length", unit="tokens"),
)
def show(m=12, n=4, pair=1, base=10000.0, context=2048):
    """Move m and n by the same amount: both arrows turn, the angle between them stays. Then look at a slower pair."""
    rate = rates(16, base)

    def arrow(length, position):  # content (length, 0) in the chosen pair, nothing elsewhere
        x = np.zeros((1, 16))
        x[0, pair] = length
        return rope(x, [position], base)[0, [pair, pair + 8]]

    q, k = arrow(1.0, m), arrow(0.7, n)
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    distance = np.unique(np.geomspace(1, context, 400).round())
    # The score of a query and a key with equal content, spread evenly over the pairs.
    same = rope(np.full((len(distance), 16), 0.25), distance, base) @ np.full(16, 0.25)
    wavelength = 2 * np.pi / rate
    seen = int((wavelength <= context).sum())
    gap = m - n
    return (
        scatter(
            {f"q at {m}": [q], f"k at {n}": [k], "before": [[1, 0], [0.7, 0]]},
            lines={"q": [circle, [[0, 0], q]], "k": [0.7 * circle, [[0, 0], k]]},
            x="first coordinate of the pair", y="second coordinate",
            equal=True, range_x=(-1.15, 1.15), range_y=(-1.15, 1.15),
            caption=f"Pair {pair}: the query is turned by {m} × {rate[pair]:.3g} rad, the key by {n} × {rate[pair]:.3g}.",
        ),
        line(
            {"all pairs": (distance, same), f"pair {pair} alone": (distance, np.cos(distance * rate[pair]))},
            dashed=[f"pair {pair} alone"], log_x=True, range_y=(-1.1, 1.1), marks={"m − n": abs(gap)} if gap else {},
            x="distance of query and key (tokens)", y="score, 1 at distance 0",
            caption="Equal content matches less with distance, on average: fast pairs fall out of step first. Each "
                    "pair alone comes back.",
        ),
        bars(
            {str(i): w for i, w in enumerate(wavelength)}, x="pair", y="tokens for one turn", log_y=True,
            levels={"context": context}, range_y=(1, 3e6),
            caption="Pairs above the line never finish a turn within the context: past it they reach angles no training "
                    "showed.",
        ),
        f"In pair {pair} the query is turned {gap * rate[pair]:.3g} rad against the key, since m − n = {gap}; nothing else "
        f"of m and n counts. {seen} of 8 pairs finish a turn within {context:,} tokens.",
    )
