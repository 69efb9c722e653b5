"""A bidirectional recurrent network in NumPy."""

import numpy as np

from snippets.ops import matmul


def states(x, w_x, w_h, b=0.0):
    """x (B, T, I), w_x (H, I), w_h (H, H) -> the states of a plain RNN after every step, (B, T, H)."""
    h, out = np.zeros((len(x), len(w_h))), []
    for t in range(x.shape[1]):
        h = np.tanh(matmul(x[:, t], w_x.T) + matmul(h, w_h.T) + b)
        out.append(h)
    return np.stack(out, 1)


def bidirectional(x, ahead, back):
    """Two networks with weights (w_x, w_h, b) each: one reads x, one reads it from the end."""
    return np.concatenate([states(x, *ahead), states(x[:, ::-1], *back)[:, ::-1]], -1)


def influence_of_inputs(h, w_x, w_h):
    """h (T, H), states of one sequence -> (T, T): how strongly output t depends on input s."""
    size = np.zeros((len(h), len(h)))
    for s in range(len(h)):
        d = (1 - h[s] ** 2)[:, None] * w_x
        for t in range(s, len(h)):
            if t > s:
                d = (1 - h[t] ** 2)[:, None] * (w_h @ d)
            size[t, s] = np.linalg.norm(d)
    return size


# %% demo
from snippets.live import bars, demo, heatmap, slider


def ridge_accuracy(features, tag, train=400, strength=0.01):
    """A linear readout fitted to the first sequences; its share of right answers on the others."""
    f = np.hstack([features, np.ones((len(features), 1))])
    a, y = f[:train], 2.0 * tag - 1
    w = np.linalg.solve(a.T @ a + strength * np.eye(f.shape[1]), a.T @ y[:train])
    return ((f[train:] @ w > 0) == tag[train:]).mean()


@demo(
    length=slider(4, 20, label="sequence length"),
    units=slider(4, 64, step=4, label="hidden units of each direction"),
    where=slider(0.0, 1.0, step=0.05, label="where the needed bit is (0: left end, 1: right end)"),
)
def show(length=11, units=32, where=0.7):
    """The middle of a row of bits is to be tagged: is the bit over there the same as the one here? Move the needed bit from left to
    right: as soon as it is beyond the middle, a network that reads forwards can only guess. The weights are random and
    fixed; only the readout is fitted."""
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (800, length))
    middle, needed = length // 2, round(where * (length - 1))
    tag = bits[:, middle] == bits[:, needed] if needed != middle else bits[:, middle] == 1
    ahead, back = ((rng.normal(size=(units, 1)), 0.9 * np.linalg.qr(rng.normal(size=(units, units)))[0], rng.normal(size=units) * 0.5)
                   for _ in range(2))
    x = 2.0 * bits[..., None] - 1
    y = bidirectional(x, ahead, back)[:, middle]
    accuracy = {"forward": ridge_accuracy(y[:, :units], tag), "backward": ridge_accuracy(y[:, units:], tag), "both": ridge_accuracy(y, tag)}
    one = influence_of_inputs(states(x[:1], *ahead)[0], *ahead[:2])
    other = influence_of_inputs(states(x[:1, ::-1], *back)[0], *back[:2])[::-1, ::-1]
    names = [str(t + 1) for t in range(length)]
    scene = dict(x="input position", y="output position", value="influence", rows=names, columns=names,
                 range=(0, float(max(one.max(), other.max()))))
    side = "left of" if needed < middle else "right of" if needed > middle else "at"
    return (
        bars(accuracy, x="readout from the states that read", y="right answers (share)", range_y=(0, 1), levels={"guessing": 0.5},
             caption=f"The needed bit is at {needed + 1}, {side} the middle ({middle + 1})."),
        heatmap(one, caption="Forward only: everything above the diagonal, the future, has no influence.", **scene),
        heatmap(np.hypot(one, other), caption="Both directions together: no empty half. Influence still fades with distance, both ways.",
                **scene),
        f"Forward {accuracy['forward']:.0%}, backward {accuracy['backward']:.0%}, both {accuracy['both']:.0%} right on sequences the readout "
        "has not seen.",
    )
