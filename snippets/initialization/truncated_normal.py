"""Normal numbers with a small fixed deviation in NumPy, cut or not, and a Transformer-like stack that starts with them."""

import numpy as np

from snippets.initialization.variance_propagation import gelu


def trunc_normal(shape, std, a, b, rng):
    """Draw again what lies outside a and b: bounds like the weights themselves, not multiples of std."""
    w = std * rng.normal(size=shape)
    while (outside := (w < a) | (w > b)).any():
        w[outside] = std * rng.normal(size=outside.sum())
    return w


def small_std(d_model):
    return np.sqrt(2 / (5 * d_model))


def product(h, outputs, std, rng):
    """W h for a fresh W of this deviation. Its rows are independent, so W need not be made: the results are
    independent normal numbers of variance std²·|h|²."""
    return std * np.linalg.norm(h) * rng.normal(size=outputs)


def normalize(x):
    return x / np.sqrt(np.mean(x**2) + 1e-12)


def stack(width, std, layers, scaled, vocabulary=2000, seed=0):
    """Mean square of the stream after each layer, and the logits of one token."""
    rng = np.random.default_rng(seed)
    x = std * rng.normal(size=width)  # the embedding
    sizes = [np.mean(x**2)]
    out = std / np.sqrt(2 * layers) if scaled else std
    some = min(width, 256)  # this many hidden units, of width (attention) or 4·width (feed-forward), stand for all
    for _ in range(layers):
        values = product(normalize(x), some, std, rng)
        x = x + product(values, width, out * np.sqrt(width / some), rng)
        hidden = gelu(product(normalize(x), 4 * some, std, rng))
        x = x + product(hidden, width, out * np.sqrt(width / some), rng)
        sizes.append(np.mean(x**2))
    return np.array(sizes), product(normalize(x), vocabulary, std, rng)


def loss_above_uniform(logits):
    """Cross-entropy of a random target, minus ln V: what the model wrongly believes before it has seen anything."""
    top = logits.max()
    return top + np.log(np.mean(np.exp(logits - top))) - logits.mean()


# %% demo
from snippets.live import demo, line, slider, toggle

WIDTHS = [64, 128, 256, 512, 1024, 2048, 4096, 8192]


@demo(
    width=slider(64, 8192, log=True, label="width"),
    std=slider(0.002, 0.1, step=0.001, log=True, label="std of all weights"),
    layers=slider(2, 48, label="layers"),
    scaled=toggle(label="GPT-2's 1/√(2·layers) on what enters the stream"),
)
def show(width=4096, std=0.02, layers=12, scaled=False):
    """At 0.02, move the width: the same number is timid for a narrow model and loud for a wide one. Then change the number."""
    sizes, logits = stack(width, float(std), layers, scaled)
    grid = np.geomspace(64, 8192, 29)
    measured = [loss_above_uniform(product(np.ones(w), 2000, float(std), np.random.default_rng(w))) for w in WIDTHS]
    cut = lambda v: np.clip(v, 1e-4, 20)  # noqa: E731
    return (
        line({"this std": (grid, cut(grid * std**2 / 2)), "measured": (WIDTHS, cut(np.array(measured))), "small init": (grid, np.full(29, 0.2))}, x="width",
             y="initial loss above ln V (nats)", log_x=True, log_y=True, range_y=(1e-4, 20), dashed=["small init"], markers=["measured"], marks={"chosen": width},
             caption="Logits behind the last norm have deviation std·√width, and a random target then costs half of its square more than guessing. "
             "A deviation that shrinks with the width, as small init's, costs the same at every width."),
        line({"stream": np.clip(sizes, 1e-6, 1e4)}, x="layer", y="mean square of the stream", log_y=True, range_y=(1e-6, 1e4), levels={"1": 1.0},
             caption="It starts with the embedding, std². Each layer adds two branches; how large they are depends on width and std, too."),
        f"Logits have a deviation of {logits.std():.3g}; theory says {std * width**0.5:.3g}. The initial loss is {loss_above_uniform(logits):.3g} above ln V. "
        f"{std:g} is {std * width**0.5:.2g} times 1/√width.",
    )
