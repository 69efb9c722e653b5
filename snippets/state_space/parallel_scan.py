"""The parallel scan in NumPy: two trees that compute all states of a linear recurrence in a few rounds."""

import numpy as np


def compose(first, second):
    """Two steps h -> a h + b, one after the other, are one step of the same form."""
    (a1, b1), (a2, b2) = first, second
    return a2 * a1, a2 * b1 + b2


def hillis_steele(a, b):
    """In every round each position takes in the one `reach` before it. Gives (a, b) after every round; the last b is h."""
    rounds, reach = [(a, b)], 1
    while reach < len(a):
        joined = compose((a[:-reach], b[:-reach]), (a[reach:], b[reach:]))
        a, b = np.concatenate([a[:reach], joined[0]]), np.concatenate([b[:reach], joined[1]])
        rounds.append((a, b))
        reach *= 2
    return rounds


def blelloch(a, b):
    """Up: blocks of 2, 4, 8 ... gather in their last position. Down: the positions between take in what came before."""
    a, b = a.copy(), b.copy()
    rounds = [(a.copy(), b.copy())]

    def join(at, reach):
        a[at], b[at] = compose((a[at - reach], b[at - reach]), (a[at], b[at]))
        rounds.append((a.copy(), b.copy()))

    reaches = [2**k for k in range(int(np.ceil(np.log2(len(a)))))]
    for reach in reaches:
        join(np.arange(2 * reach - 1, len(a), 2 * reach), reach)
    for reach in reaches[-2::-1]:
        join(np.arange(3 * reach - 1, len(a), 2 * reach), reach)
    return rounds


# %% demo
from snippets.live import bars, choice, demo, heatmap, line, slider
from snippets.ops import scan

TREES = {"Hillis-Steele": hillis_steele, "Blelloch": blelloch}


@demo(
    tree=choice(*TREES, label="tree"),
    T=choice(4, 8, 16, 32, label="steps T"),
    stage=slider(0, 9, label="rounds done"),
    decay=slider(0.0, 1.1, step=0.05, label="decay a"),
)
def show(tree="Blelloch", T=16, stage=4, decay=0.9):
    """Raise the rounds one by one: blocks double, until every position has gathered all steps before it. Change the tree: one needs fewer
    rounds, the other less work. With a decay of 0.5 the early rounds are already close: what is older hardly counts."""
    ones, b = np.ones(T), np.random.default_rng(0).normal(size=T)
    # With a = b = 1 the recurrence counts: b is then the number of steps that a position stands for.
    gathered = {name: np.stack([b for _, b in f(ones, ones)]) for name, f in TREES.items()}
    rounds = TREES[tree](np.full(T, float(decay)), b)
    last = len(rounds) - 1
    shown = min(stage, last)
    partial, h = rounds[shown][1], scan(np.array(float(decay)), b)
    table = gathered[tree].copy()
    table[shown + 1:] = np.nan
    t = np.arange(1, T + 1)
    final = int((gathered[tree][shown] == t).sum())
    size = np.ceil(1.1 * max(np.abs(h).max(), np.abs(b).max()))
    work = {"loop": T - 1} | {name: int((g[1:] != g[:-1]).sum()) for name, g in gathered.items()}
    depth = {"loop": T - 1} | {name: len(g) - 1 for name, g in gathered.items()}
    return (
        heatmap(table, x="position (steps)", y="round", value="steps combined", range=(1, T), rows=[str(i) for i in range(last + 1)],
                columns=[str(i) for i in t], caption="How many steps each position stands for, from itself backwards. Final is a position "
                "that stands for all up to it; after the last round the row reads 1, 2, 3 and so on."),
        line({"loop": (t, h), "partial": (t, partial)}, markers=["partial"], range_y=(-size, size), x="time (steps)", y="state h",
             caption=f"After round {shown} of {last}, dots on the line are final, or close because old steps have decayed."),
        bars({"work (joins)": work, "depth (rounds)": depth}, y="count",
             caption=f"For {T} steps: the loop does the least work in the most rounds; each tree buys depth with work."),
        f"After {shown} of {last} rounds {final} of {T} states are final. The {tree} tree makes {work[tree]} joins in {depth[tree]} rounds; "
        f"the loop makes {T - 1} in {T - 1}.",
    )
