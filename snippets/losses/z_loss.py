"""z-loss in NumPy."""

import numpy as np

from snippets.activations.log_softmax import logsumexp


def log_z(logits):
    """Logarithm of the softmax's normalizer, one per row."""
    return logsumexp(logits)[..., 0]


def z_push(logits, coef=1e-4):
    """Gradient of coef * log_z**2 by the logits of each row."""
    lse = logsumexp(logits)
    return 2 * coef * lse * np.exp(logits - lse)


def bfloat16(x):
    """Rounded to 8 significant bits, as a network in 16 bits sees it."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 256) / 256, exponent)


# %% demo
from snippets.live import demo, line, slider
from snippets.losses.arena import value_and_gradient


def train(coef, growth, steps=500, rate=3.0):
    """log Z of ten logits whose true class changes slowly, and that something else in the network lifts a little at every step."""
    z, truth = np.zeros(10), np.repeat(np.random.default_rng(0).integers(0, 10, steps // 20), 20)  # a new class every 20 steps
    height = []
    for step in range(steps):
        top = z.max()
        e = np.exp(z - top)
        total = e.sum()
        height.append(top + np.log(total))
        gradient = e / total * (1 + 2 * coef * height[-1]) - 0.01  # both losses: the probabilities, a little more of them, minus the target
        gradient[truth[step]] -= 0.9
        z = z + growth - rate * gradient
    return np.array(height)


def rounding(height):
    """Root mean square error of ten probabilities, were their logits as high as this and rounded; over a few places near by."""
    z = np.linspace(-2, 2, 10)
    z = z - logsumexp(z) + np.asarray(height)[..., None, None] + np.linspace(-1, 1, 32)[:, None]
    seen = bfloat16(z)
    return np.sqrt(((np.exp(seen - logsumexp(seen)) - np.exp(z - logsumexp(z))) ** 2).mean((-2, -1)))


@demo(
    coef=slider(0.0, 1e-2, step=5e-4, label="coefficient of the penalty"),
    growth=slider(0.0, 0.1, step=0.005, label="lift of all logits per step"),
)
def show(coef=1e-2, growth=0.1):
    """The task does not care how high the logits are, so they drift. Raise the coefficient until they stay; watch the rounding error."""
    free, held = train(0.0, growth), train(coef, growth)
    at, names = np.arange(len(free)), ("without", "with penalty")
    some = np.arange(0, 500, 10)
    base = np.array([0.0, -1.0, -2.0]) - logsumexp(np.array([0.0, -1.0, -2.0]))  # three logits with log Z = 0
    worst = 100 * rounding([free[-1], held[-1]])
    return (
        line(dict(zip(names, (free, held))), at=at, x="step", y="log Z", dashed=["without"], range_y=(0, 55),
             caption="log Z over training. Cross-entropy has no gradient along it; the penalty is a spring to 0."),
        line(dict(zip(names, (100 * rounding(free[some]), 100 * rounding(held[some])))), at=some, x="step", y="error of a probability (% points)", dashed=["without"],
             range_y=(0, 1.2), caption="What bfloat16 does to a softmax at that height. The numbers near 10 are 1/16 apart, near 50 they are 1/4 apart."),
        *value_and_gradient({"z-loss": lambda s: coef * s**2, "cross-entropy": lambda s: logsumexp(base + s[:, None])[:, 0] - base[0] - s}, np.linspace(-50, 50, 101), "log Z",
                            range_value=(0, 10), range_gradient=(-1, 1), dashed=("cross-entropy",),
                            caption="Both losses while a constant is added to all logits: one is flat, the other a parabola.")[:1],
        f"At the end log Z is {free[-1]:.1f} without and {held[-1]:.1f} with the penalty; rounding moves a probability by about {worst[0]:.2f} and {worst[1]:.2f} % points.",
    )
