"""Connectionist temporal classification in NumPy."""

from collections import defaultdict

import numpy as np


def trellis(log_p, word, blank=0):
    """Log-probability of all beginnings of paths, by frame and state. log_p (T, C); states are blank, label, blank, ..., blank."""
    states = np.full(2 * len(word) + 1, blank)
    states[1::2] = word
    may_skip = np.zeros(len(states), bool)
    may_skip[2:] = (states[2:] != blank) & (states[2:] != states[:-2])  # between equal labels the blank must stay
    alpha = np.full((len(log_p) + 1, len(states)), -np.inf)
    alpha[0, 0] = 0  # before the first frame
    for t, frame in enumerate(log_p):
        stay, step, skip = alpha[t], np.roll(alpha[t], 1), np.roll(alpha[t], 2)
        step[:1] = skip[:2] = -np.inf
        alpha[t + 1] = np.logaddexp(np.logaddexp(stay, step), np.where(may_skip, skip, -np.inf)) + frame[states]
    return alpha[1:], states


def ctc(log_p, word, blank=0):
    """Minus the log-probability of the word: its paths end in the last label or in the blank after it."""
    alpha, _ = trellis(log_p, word, blank)
    return -np.logaddexp.reduce(alpha[-1, -2:])


def share(log_p, word, blank=0):
    """Probability of each class in each frame among the paths that spell the word. The gradient is p minus this."""
    forth, states = trellis(log_p, word, blank)
    back = trellis(log_p[::-1], word[::-1], blank)[0][::-1, ::-1]  # the same from the end; both count the frame itself
    here = np.exp(forth + back - log_p[:, states] + ctc(log_p, word, blank))
    return np.stack([here[:, states == c].sum(1) for c in range(log_p.shape[1])], 1)


def collapse(path, blank=0):
    """Merges equal neighbors, then drops blanks."""
    return [c for c, before in zip(path, [None, *path]) if c not in (before, blank)]


def prefix_beam(log_p, beam=16, blank=0):
    """The most probable words with their log-probabilities. Each prefix has two: last frame blank, last frame its label."""
    kept = {(): (0.0, -np.inf)}
    for frame in log_p:
        ways = defaultdict(lambda: [-np.inf, -np.inf])

        def add(prefix, i, x):
            ways[prefix][i] = np.logaddexp(ways[prefix][i], x)

        for prefix, (blank_last, label_last) in kept.items():
            add(prefix, 0, np.logaddexp(blank_last, label_last) + frame[blank])
            for c in set(range(len(frame))) - {blank}:
                add((*prefix, c), 1, blank_last + frame[c])
                add(prefix if prefix[-1:] == (c,) else (*prefix, c), 1, label_last + frame[c])
        kept = dict(sorted(ways.items(), key=lambda item: -np.logaddexp(*item[1]))[:beam])
    return [(list(prefix), np.logaddexp(*both)) for prefix, both in kept.items()]


# %% demo
from snippets.activations.log_softmax import log_softmax
from snippets.live import choice, demo, heatmap, slider, table

LETTERS = "–to"
WORDS = ("to", "too", "otto", "toot")


def spell(word):
    return [LETTERS.index(letter) for letter in word]


def heard(word, frames, sharpness):
    """Log-probabilities of a network that hears the word, slowly spoken, with some noise."""
    path = [c for letter in spell(word) for c in (letter, letter, 0)][:-1]
    said = np.array(path)[np.arange(frames) * len(path) // frames]
    return log_softmax(sharpness * (np.eye(3)[said] + 0.35 * np.random.default_rng(2).normal(size=(frames, 3))))


def best_paths(log_p, word, count):
    """The most probable paths that spell the word, the best first: the trellis again, with a short list instead of a sum."""
    _, states = trellis(log_p[:1], word)
    lists = [[(0.0, ())]] + [[] for _ in states[1:]]
    for frame in log_p:
        ways = [lists[s] + (lists[s - 1] if s else []) + (lists[s - 2] if s > 1 and states[s] not in (0, states[s - 2]) else [])
                for s in range(len(states))]
        lists = [sorted(((p + frame[c], (*path, int(c))) for p, path in way), reverse=True)[:count] for way, c in zip(ways, states)]
    return sorted(lists[-1] + lists[-2], reverse=True)[:count]


def written(path):
    return "".join(LETTERS[c] for c in path)


@demo(
    frames=slider(3, 12, label="frames T"),
    word=choice(*WORDS, label="target word"),
    hears=choice(*WORDS, label="what the network hears"),
    sharpness=slider(0.1, 10.0, label="sharpness", log=True),
)
def show(frames=9, word="too", hears="to", sharpness=1.0):
    """Let the network hear another word than the target: which frames does the loss want changed? Then take too few frames."""
    log_p, target = heard(hears, frames, sharpness), spell(word)
    read = written(collapse(log_p.argmax(1)))
    best = written(prefix_beam(log_p)[0][0])
    chance = {text: f"{np.exp(-ctc(log_p, spell(text))):.2g}" for text in (read, best)}
    reading = f'Frame by frame the network reads "{read}", of probability {chance[read]}; ' + (
        "no word is more probable." if best == read else f'but "{best}" has {chance[best]}.')
    columns = [str(t + 1) for t in range(frames)]
    loss = ctc(log_p, target)
    paths = best_paths(log_p, target, 5)
    p = np.exp(log_p).T
    if not paths:
        needed = len(word) + sum(a == b for a, b in zip(word, word[1:]))
        return (
            heatmap(p, x="frame", y="class", value="probability", rows=list(LETTERS), columns=columns, range=(0, 1), caption="What the network says."),
            f'No path of {frames} frames collapses to "{word}": it needs {needed}. The loss is infinite. ' + reading,
        )
    alpha, states = trellis(log_p, target)
    rows = [LETTERS[c] for c in states]
    return (
        heatmap(np.vstack([p, share(log_p, target).T]), x="frame", y="class", value="probability", range=(0, 1), columns=columns,
                rows=[f"{kind} {letter}" for kind in ("says", "wanted") for letter in LETTERS],
                caption=f'Above: what the network says in each frame. Below: how often a path that spells "{word}" is in each class there. '
                        "The gradient by the logits is the upper half minus the lower."),
        heatmap(alpha.T / np.log(10), x="frame and the letter of the best path", y="state", value="log₁₀ α", rows=rows, signed=False,
                columns=[f"{t + 1} {LETTERS[c]}" for t, c in enumerate(paths[0][1])],
                caption="α: probability of all beginnings of paths that are in a state. A path enters at the upper left, and in each frame "
                        "stays, goes down one, or skips the blank between different letters. It must end in one of the last two rows."),
        table([[written(path), f"{100 * np.exp(q):.2g}", f"{100 * np.exp(q + loss):.2g}"] for q, path in paths],
              columns=["path", "probability (%)", "of the word's paths (%)"],
              caption=f'The most probable paths that collapse to "{word}". The loss adds up all of them.'),
        f'"{word}" has probability {np.exp(-loss):.2g}: the loss is {loss:.2f}. ' + reading,
    )
