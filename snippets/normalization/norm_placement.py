"""Where the norm stands in a residual layer, in NumPy, with its backward pass."""

import numpy as np

from snippets.normalization.layer import moments, standardize


def norm(x, eps=1e-5):
    """Layer norm of each row, and what turns the gradient of its output into that of its input."""
    mean, variance = moments(x, -1)
    y = standardize(x, mean, variance, eps)
    return y, lambda g: (g - g.mean(-1, keepdims=True) - y * (g * y).mean(-1, keepdims=True)) / np.sqrt(variance + eps)


def residual_norm(x, sublayer, placement):
    """One residual layer: its output, and the function that takes a gradient back through it."""
    same = lambda g: g
    u, d_in = norm(x) if placement in ("pre", "sandwich") else (x, same)
    f, d_f = sublayer(u)
    f, d_out = norm(f) if placement in ("sandwich", "reordered") else (f, same)
    y, d_sum = norm(x + f) if placement == "post" else (x + f, same)

    def backward(g):
        g = d_sum(g)
        return g + d_in(d_f(d_out(g)))

    return y, backward


# %% demo
from snippets.live import choice, demo, line, slider, toggle

PLACEMENTS = ("pre", "post", "sandwich", "reordered")


def linear(W, gain):
    return lambda x: (gain * x @ W, lambda g: gain * g @ W.T)


def average(W, gain):
    """What attention does before it has learned anything: every token gets the mean of all."""
    mean = lambda x: np.broadcast_to(x.mean(0), x.shape)
    return lambda x: (gain * mean(x) @ W, lambda g: gain * mean(g) @ W.T)


def stack(depth, gain, placement, mixing, T=16, d=48):
    """Deviation of the stream, and size of the gradient in it, in front of each layer and behind the last."""
    rng = np.random.default_rng(0)
    x, g = norm(rng.normal(size=(T, d)))[0], rng.normal(size=(T, d))
    spread, backs = [x.std()], []
    for i in range(depth):
        W = rng.normal(size=(d, d)) / np.sqrt(d)
        x, back = residual_norm(x, (average if mixing and i % 2 == 0 else linear)(W, gain), placement)
        spread.append(x.std())
        backs.append(back)
    if placement != "post":
        g = norm(x)[1](g)  # the last norm, without which the output would be as loud as the stream
    sizes = [g.std()]
    for back in backs[::-1]:
        g = back(g)
        sizes.append(np.sqrt((g**2).mean()))
    return np.array(spread), np.array(sizes[::-1])


@demo(
    depth=slider(1, 64, label="residual layers"),
    gain=slider(0.2, 3.0, step=0.1, label="gain of a sublayer"),
    placement=choice(*PLACEMENTS, label="placement"),
    mixing=toggle(label="every second layer averages over 16 tokens"),
)
def show(depth=32, gain=2.0, placement="pre", mixing=False):
    """Compare the right end of the gradients: post-norm hands its last layers the whole gradient, pre-norm a share that shrinks with depth."""
    found = {name: stack(depth, gain, name, mixing) for name in PLACEMENTS}
    order = [placement, *(p for p in PLACEMENTS if p != placement)]
    others = order[1:]
    spread, sizes = found[placement]
    said = {
        "pre": f"closed form without averaging: √(1 + {gain:g}²·{depth}) = {np.sqrt(1 + gain**2 * depth):.2f}",
        "post": "it is set back to 1 after every layer",
        "sandwich": f"every layer adds exactly variance 1: about √(1 + {depth}) = {np.sqrt(1 + depth):.2f} whatever the gain",
        "reordered": f"every layer adds exactly variance 1: about √(1 + {depth}) = {np.sqrt(1 + depth):.2f} whatever the gain",
    }[placement]
    return (
        line({name: found[name][0] for name in order}, x="layer", y="deviation of the stream", log_y=True, dashed=others,
             caption="Forwards. Post-norm stays at 1; the others let the stream grow, so that late layers change it less and less."),
        line({name: found[name][1] for name in order}, x="layer", y="size of the gradient", log_y=True, dashed=others,
             caption="Backwards, from right to left, after a gradient of size 1 at the very end. The growing stream divides what late layers get."),
        f"{placement}: the stream ends at {spread[-1]:.2f} ({said}). The last layer gets a gradient of {sizes[-1]:.3f}, the first one of {sizes[0]:.3f}.",
    )
