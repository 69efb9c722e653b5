"""Generalized-mean pooling in NumPy."""

import numpy as np


def gem(x, p, eps=1e-6):
    """x (..., n): the power mean (mean x^p)^(1/p), through logarithms so that no power overflows."""
    logs = p * np.log(np.maximum(x, eps))
    top = logs.max(-1, keepdims=True)
    return np.exp((top[..., 0] + np.log(np.exp(logs - top).mean(-1))) / p)


def gradient(x, p):
    """Of the power mean by each x: (x / y)^(p - 1) / n."""
    return (np.maximum(x, 1e-6) / gem(x, p)) ** (p - 1) / len(x)


# %% demo
from snippets.live import bars, demo, line, slider, toggle


@demo(
    p=slider(1.0, 50.0, log=True, label="exponent p"),
    value=slider(0.0, 10.0, step=0.1, label="activation 5"),
    show_gradient=toggle(label="show who gets the gradient"),
)
def show(p=3.0, value=6.0, show_gradient=True):
    """Raise p: the pooled value climbs from the mean to the maximum, and the gradient gathers on the largest activation."""
    x = np.round(np.random.default_rng(7).gamma(1.2, 1.6, size=16), 1)
    x[4] = value
    y = gem(x, p)
    exponents = np.geomspace(1, 50, 60)
    names = [str(i + 1) for i in range(16)]
    share = gradient(x, p) / gradient(x, p).sum()
    figures = [
        bars(dict(zip(names, x)), x="position", y="activation", range_y=(0, 10), levels={"pooled": y, "mean": x.mean(), "maximum": x.max()},
             caption="Sixteen activations of one channel, and what they are pooled to."),
        line({"pooled": [gem(x, q) for q in exponents]}, at=exponents, x="exponent p", y="pooled value", log_x=True, range_y=(0, 10.5),
             levels={"mean": x.mean(), "maximum": x.max()}, marks={"now": p}, caption="The pooled value rises with p, always: from the mean at 1 towards the maximum."),
    ]
    if show_gradient:
        figures.append(bars(dict(zip(names, share)), x="position", y="share of the gradient", range_y=(0, 1),
                            caption="How the gradient is divided: evenly at p = 1, to the largest alone at a large p."))
    return (*figures, f"Mean {x.mean():.2f}, pooled {y:.2f}, maximum {x.max():.2f}. The largest activation gets {share.max():.0%} of the gradient.")
