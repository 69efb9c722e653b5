"""Residual branches that start small, in NumPy: the stream through a deep stack, and what one step of gradient descent changes."""

import numpy as np

from snippets.ops import matmul

RULES = {  # for L branches: factor on W1, factor on W2, trained factor behind the branch, factor on the way around, norm after the sum
    "none": lambda L: (1, 1, None, 1, False),
    "GPT-2": lambda L: (1, L**-0.5, None, 1, False),
    "zero": lambda L: (1, 0, None, 1, False),
    "Fixup": lambda L: (L**-0.5, 0, None, 1, False),
    "ReZero": lambda L: (1, 1, 0.0, 1, False),
    "LayerScale": lambda L: (1, 1, 0.1 if L <= 36 else 1e-5 if L <= 48 else 1e-6, 1, False),
    "DeepNorm": lambda L: ((4 * L) ** -0.25, (4 * L) ** -0.25, None, L**0.25, True),
}


def start(width, depth, rule, seed=0):
    """Matrices with which a branch W2 relu(W1 x) returns the size of what it gets, scaled by the rule; and the trained factors."""
    rng = np.random.default_rng(seed)
    one, two, factor, _, _ = RULES[rule](depth)
    w1 = one * rng.normal(size=(depth, width, width)) / width**0.5
    w2 = two * rng.normal(size=(depth, width, width)) * (2 / width) ** 0.5
    return w1, w2, np.full(depth, 1.0 if factor is None else factor)


def forward(x, net, rule):
    """x (N, width): the stream before each branch and at the end, and what the backward pass needs."""
    _, _, _, around, norm = RULES[rule](len(net[0]))
    stream, kept = [x], []
    for w1, w2, g in zip(*net):
        h = np.maximum(matmul(stream[-1], w1.T), 0)
        branch = matmul(h, w2.T)
        y = around * stream[-1] + g * branch
        size = np.sqrt(np.mean(y**2, 1, keepdims=True)) if norm else 1.0
        kept.append((h, branch, size))
        stream.append(y / size)
    return stream, kept


def gradients(g_out, stream, kept, net, rule):
    """Of the inner product with g_out, for W1, W2 and the trained factors."""
    _, _, factor, around, norm = RULES[rule](len(net[0]))
    w1s, w2s, gs = net
    d1, d2, dg = np.zeros_like(w1s), np.zeros_like(w2s), np.zeros_like(gs)
    for i in range(len(gs) - 1, -1, -1):
        h, branch, size = kept[i]
        if norm:  # through y / rms(y)
            g_out = (g_out - stream[i + 1] * np.mean(g_out * stream[i + 1], 1, keepdims=True)) / size
        if factor is not None:
            dg[i] = np.sum(g_out * branch)
        back = gs[i] * g_out
        d2[i] = matmul(back.T, h)
        hidden = matmul(back, w2s[i]) * (h > 0)
        d1[i] = matmul(hidden.T, stream[i])
        g_out = around * g_out + matmul(hidden, w1s[i])
    return d1, d2, dg


# %% demo
from snippets.live import choice, demo, line, slider

WIDTH, DEPTHS = 24, [2, 4, 8, 16, 32, 64]


def step(x, target, depth, rule, rate):
    """Stream, and by how much one step moves the output, per unit of the learning rate."""
    net = start(WIDTH, depth, rule)
    with np.errstate(all="ignore"):
        stream, kept = forward(x, net, rule)
        found = gradients(target / x.size, stream, kept, net, rule)
        after = forward(x, tuple(w - rate * d for w, d in zip(net, found)), rule)[0][-1]
        moved = np.sqrt(np.mean((after - stream[-1]) ** 2)) / rate
    return [float(np.mean(s**2)) for s in stream], float(moved)


@demo(
    rule=choice(*RULES, label="rule"),
    depth=slider(1, 200, label="branches"),
    rate=slider(0.001, 1.0, step=0.001, log=True, label="learning rate of the one step"),
)
def show(rule="GPT-2", depth=64, rate=0.01):
    """Start with no rule: the stream doubles in every branch. GPT-2's keeps it; Fixup keeps the change of one step, too, at every depth."""
    rng = np.random.default_rng(1)
    x, target = rng.normal(size=(2, 12, WIDTH))
    x /= np.sqrt(np.mean(x**2, 1, keepdims=True))
    sizes, _ = step(x, target, depth, rule, float(rate))
    plain, _ = step(x, target, depth, "none", float(rate))
    cut = lambda v: np.clip(np.nan_to_num(np.array(v), nan=1e9, posinf=1e9), 1e-6, 1e9)  # noqa: E731
    moved = [step(x, target, L, rule, float(rate))[1] for L in DEPTHS]
    slope = np.polyfit(np.log(DEPTHS[2:]), np.log(cut(moved[2:])), 1)[0]
    growth = "multiplies with every branch" if rule == "none" else f"grows like depth to the power {abs(slope):.1f}" if abs(slope) > 0.05 else "is the same at every depth"
    at = np.arange(depth + 1)
    return (
        line({rule: (at, cut(sizes)), **({"no rule": (at, cut(plain))} if rule != "none" else {})}, x="branches passed", y="mean square of the stream",
             log_y=True, range_y=(1e-2, 1e9), dashed=["no rule"] if rule != "none" else [], levels={"e": float(np.e)},
             caption="One random stack. Without a rule it passes every bound; with deviation 1/√L per branch it ends near e, with zero it does not move."),
        line({"one step": (DEPTHS, np.clip(cut(moved), 1e-3, 1e4))}, x="branches", y="change of the output / rate", log_x=True, log_y=True, range_y=(1e-3, 1e4),
             caption="How far one gradient step moves the output, for stacks of different depth. Flat: the same learning rate works at every depth."),
        f"After {depth} branches the mean square is {sizes[-1]:.3g}. The change that one step makes {growth}.",
    )
