"""Rescaled rotary rates in NumPy: NTK-aware, YaRN, Llama 3.1."""

import numpy as np

from snippets.positional.rope import rates


def ntk(d, base, factor):
    """A larger base: the fastest pair stays, the slowest gets slower by the factor, the others are in between."""
    return rates(d, base * factor ** (d / (d - 2)))


def blend(rate, factor, divided):
    """Rates of which a share (0 to 1) is divided by the factor."""
    return rate * (1 - divided) + rate / factor * divided


def yarn(d, base, factor, length, fast=32, slow=1):
    """Pairs that turn more than 32 times within the trained length stay, those below one turn are divided."""

    def pair_that_turns(times):
        return d * np.log(length / (times * 2 * np.pi)) / (2 * np.log(base))

    first, last = max(np.floor(pair_that_turns(fast)), 0), min(np.ceil(pair_that_turns(slow)), d - 1)
    divided = np.clip((np.arange(d // 2) - first) / max(last - first, 1e-3), 0, 1)
    return blend(rates(d, base), factor, divided), 0.1 * np.log(factor) + 1


def llama3(d, base, factor, length, low=1, high=4):
    """The ramp runs over the number of turns itself, from 4 down to 1."""
    turns = length * rates(d, base) / (2 * np.pi)
    return blend(rates(d, base), factor, 1 - np.clip((turns - low) / (high - low), 0, 1))


# %% demo
from snippets.live import bars, demo, line, slider


@demo(
    factor=slider(1.0, 32.0, step=0.5, label="how many times longer"),
    d=slider(32, 128, step=16, label="width of a head"),
    length=slider(1024, 8192, step=1024, label="trained length", unit="tokens"),
    base=slider(1e4, 1e6, log=True, label="base"),
)
def show(factor=8.0, d=128, length=4096, base=1e4):
    """See which pairs each rule slows down. Raise the base: more pairs never finish a turn, and more are divided."""
    plain = rates(d, base)
    pair = np.arange(d // 2)
    slowed = {
        "interpolation": plain * 0 + factor,
        "NTK": plain / ntk(d, base, factor),
        "YaRN": plain / yarn(d, base, factor, length)[0],
        "Llama 3.1": plain / llama3(d, base, factor, length),
    }
    turns = length * plain / (2 * np.pi)
    shown = np.unique(np.linspace(0, d // 2 - 1, 11).round().astype(int))
    kept = int((slowed["YaRN"] < 1.01).sum())
    seen = np.argmax(turns < 1) if (turns < 1).any() else d // 2
    return (
        line({name: (pair, v) for name, v in slowed.items()}, x="pair, fast to slow", y="slowed down by", log_y=True,
             range_y=(0.9, 40), marks={"one turn": seen} if seen < d // 2 else {}, dashed=["interpolation"],
             caption="Interpolation slows all pairs alike. The others spare the fast ones, which tell a token from its neighbour. NTK "
                     "never quite reaches the factor except in the last pair."),
        bars({str(i): turns[i] for i in shown}, x="pair", y="turns in training", log_y=True, levels={"32": 32, "1": 1},
             range_y=(0.01, 2000),
             caption="How often a pair turned within the trained length. Above 32 YaRN leaves it alone; below 1 it never saw all "
                     "angles, and its rate is divided."),
        f"YaRN leaves {kept} of {d // 2} pairs as they are, and divides {int((slowed['YaRN'] > 0.99 * factor).sum())} by {factor:g}. "
        f"Scores are multiplied by {yarn(d, base, factor, length)[1] ** 2:.2f}.",
    )
