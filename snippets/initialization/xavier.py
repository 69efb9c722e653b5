"""Xavier initialization in NumPy: one variance, two directions."""

import numpy as np

from snippets.initialization.variance_propagation import ACTIVATIONS, backward, forward, second_moments


def xavier_std(fan_in, fan_out, gain=1.0):
    """Between 1/√fan_in, which keeps the signal, and 1/√fan_out, which keeps the gradient."""
    return gain * np.sqrt(2 / (fan_in + fan_out))


def xavier_bound(fan_in, fan_out, gain=1.0):
    """Of the uniform form: a uniform number within ±b has variance b²/3."""
    return np.sqrt(3) * xavier_std(fan_in, fan_out, gain)


RULES = {
    "Xavier": xavier_std,
    "fan_in only": lambda fan_in, fan_out, gain: gain / np.sqrt(fan_in),
    "fan_out only": lambda fan_in, fan_out, gain: gain / np.sqrt(fan_out),
}


# %% demo
from snippets.initialization.variance_propagation import squares
from snippets.live import choice, demo, line, slider


@demo(
    rule=choice(*RULES, label="variance from"),
    ratio=slider(0.25, 4.0, step=0.25, label="fan_out / fan_in of every other layer"),
    depth=slider(1, 60, label="layers"),
    gain=slider(0.5, 3.0, step=0.05, label="gain"),
)
def show(rule="Xavier", ratio=3.0, depth=24, gain=1.0):
    """Widths go up by the ratio and down again. Compare the three rules at ratio 1, then move it: no rule keeps both curves smooth."""
    narrow = 48
    wide = max(1, round(narrow * ratio))
    widths = [narrow if i % 2 == 0 else wide for i in range(depth + 1)]
    layers = squares(widths, lambda n, m: RULES[rule](n, m, gain))
    rng = np.random.default_rng(1)
    f, slope = ACTIVATIONS["tanh"]
    zs = forward(0.1 * rng.normal(size=(48, narrow)), layers, f)
    gs = backward(rng.normal(size=zs[-1].shape), zs, layers, slope)
    signal, gradient = second_moments(zs) / 0.01, second_moments(gs)
    at, ratios = np.arange(1, depth + 1), np.linspace(0.25, 4, 46)
    std = np.array([RULES[rule](1, r, gain) for r in ratios])
    here = RULES[rule](narrow, wide, gain) ** 2
    cut = lambda v: np.clip(v, 1e-4, 1e2)  # noqa: E731
    return (
        line({"signal": (at, cut(signal)), "gradient": (at, cut(gradient))}, x="layer", y="mean square", log_y=True, range_y=(1e-4, 1e2),
             levels={"kept": 1.0}, caption=f"A tanh net of widths {narrow}, {wide}, {narrow} ... The signal starts at the left, the gradient at "
             "the right, both with 1 (the signal is small, so that tanh is nearly linear until it has grown)."),
        line({"forward: fan_in·Var(w)": (ratios, std**2), "backward: fan_out·Var(w)": (ratios, ratios * std**2)}, x="fan_out / fan_in", y="factor of one layer",
             levels={"kept": 1.0}, marks={"chosen": ratio}, range_y=(0, 4),
             caption="What one linear layer does to the mean square. With Xavier and gain 1 the two factors sum to 2; both are 1 for square layers only."),
        f"A layer from {narrow} to {wide} multiplies the signal's mean square by {narrow * here:.3g} and the gradient's by {wide * here:.3g}. "
        f"After {depth} layers the signal's is {signal[-1]:.2g}, and {gradient[0]:.2g} of the gradient's is left at the first.",
    )
