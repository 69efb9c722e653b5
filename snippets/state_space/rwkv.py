"""RWKV's running average in NumPy, one channel."""

import numpy as np

from snippets.ops import scan


def weights(k, w, u):
    """The definition: what each token counts at each time, (T, T). Rows sum to 1."""
    T = len(k)
    ago = np.arange(T)[:, None] - np.arange(T)
    log = np.where(ago > 0, k - (ago - 1) * w, -np.inf)
    log[np.arange(T), np.arange(T)] = k + u  # the present token has a bonus instead of a decay
    weight = np.exp(log - log.max(1, keepdims=True))
    return weight / weight.sum(1, keepdims=True)


def wkv(k, v, w, u):
    """The same average as a recurrence: two sums that fade, and the scale m that keeps them from overflowing."""
    t = np.arange(len(k))
    m = np.maximum.accumulate(k + w * t) - w * t  # the largest weight so far, as it is now
    before = np.append(-np.inf, m[:-1])
    keep, take = np.exp(before - w - m), np.exp(k - m)
    num, den = scan(keep, take * v), scan(keep, take)
    num, den = np.append(0.0, num[:-1]), np.append(0.0, den[:-1])  # what is known before the present token
    top = np.maximum(before, k + u)
    past, now = np.exp(before - top), np.exp(k + u - top)
    return (past * num + now * v) / (past * den + now)


# %% demo
from snippets.live import demo, heatmap, line, slider

T = 16


@demo(
    w=slider(0.01, 3.0, log=True, label="decay w"),
    u=slider(-5.0, 5.0, step=0.25, label="bonus u of the present token"),
    key=slider(-5.0, 5.0, step=0.25, label="key of the chosen token"),
    chosen=slider(1, 16, label="chosen token"),
)
def show(w=0.3, u=0.0, key=3.0, chosen=5):
    """Raise the chosen token's key: its column lights up for all who come later, whoever they are. Raise w: columns fade sooner. With a large
    bonus the average is the present value; with a small one a token does not see itself."""
    rng = np.random.default_rng(0)
    k, v = 0.7 * rng.normal(size=T), rng.uniform(-1, 1, T)
    k[chosen - 1] = key
    w, u = float(w), float(u)
    weight, mean = weights(k, w, u), wkv(k, v, w, u)
    if not np.allclose(weight @ v, mean):
        raise ValueError("definition and recurrence differ: something in the code above has changed")
    t = np.arange(1, T + 1)
    names = [str(i) for i in t]
    share = weight[:, chosen - 1]
    lasts = int((share[chosen:] >= 0.1).cumprod().sum())
    return (
        heatmap(np.where(np.tri(T, dtype=bool), weight, np.nan), x="token that is read", y="time", value="weight", range=(0, 1), rows=names,
                columns=names, caption="What each token counts at each time. There is no query: columns fade together, and all rows agree on the order of the past."),
        line({"value": (t, v), "wkv": (t, mean)}, markers=["value"], range_y=(-1.1, 1.1), marks={"chosen": chosen}, x="token", y="value",
             caption="The average stays between the smallest and the largest value so far."),
        f"Token {chosen} counts {100 * share[chosen - 1]:.0f} % at its own time"
        + (f", {100 * share[chosen]:.0f} % one token later, and 10 % or more for {lasts} token{'' if lasts == 1 else 's'} after it." if chosen < T else "."),
    )
