"""Warm-up with linear decay in NumPy."""

import numpy as np

from snippets.schedulers.warmup import warmup


def warmup_linear_decay(step, warmup_steps, total, lr, final=0.0):
    """Learning rate of a step, counted from 0: up to lr at warmup_steps, down to a share of it at total."""
    step = np.asarray(step)
    done = np.clip((step - warmup_steps) / (total - warmup_steps), 0, 1)
    return lr * np.where(step < warmup_steps, warmup(step, warmup_steps), 1 - (1 - final) * done)


# %% demo
from snippets.live import bars, demo, slider
from snippets.schedulers.arena import beside, expected_loss
from snippets.schedulers.cosine_annealing import cosine_annealing


@demo(
    share=slider(0.0, 0.5, step=0.01, label="share of warm-up"),
    final=slider(0.0, 1.0, step=0.05, label="final rate, as a share of the peak"),
    peak=slider(0.01, 2.0, label="peak learning rate", log=True),
    noise=slider(0.1, 2.0, step=0.1, label="noise of the gradient"),
)
def show(share=0.1, final=0.0, peak=0.5, noise=1.0):
    """Lift the final rate to that of the peak and see what the fall is worth. The bars also give each shape its own best peak, as one must."""
    steps = 240
    t = np.arange(steps)
    rates = warmup_linear_decay(t, round(share * steps), steps, peak, final)
    curves = beside({"linear": rates}, noise, caption="A triangle: whatever the share of warm-up, down to zero it holds half of what a constant rate would.")
    shapes = {
        "linear": lambda top: warmup_linear_decay(t, round(share * steps), steps, top, final),
        "cosine to 0": lambda top: cosine_annealing(t, steps, top),
        "cosine to 10 %": lambda top: cosine_annealing(t, steps, top, 0.1 * top),
        "constant": lambda top: np.full(steps, top),
    }
    tops = np.geomspace(0.05, 1.9, 16)
    ends = {name: expected_loss([shape(top) for top in (peak, *tops)], noise)[:, -1] for name, shape in shapes.items()}
    here, best = ({name: pick(values) for name, values in ends.items()} for pick in (lambda v: v[0], lambda v: v[1:].min()))
    return (
        *curves,
        bars({"with this peak": {name: min(v, 2.0) for name, v in here.items()}, "with its best peak": best}, y="expected loss at the end",
             caption=f"All with {steps} steps. The best of 16 peaks from 0.05 to 1.9 is taken for each shape, so that none is judged by another's rate. Bars end at 2."),
        f"Linear ends at {here['linear']:.3g} with this peak, {best['linear']:.3g} with its best; a cosine to zero at {here['cosine to 0']:.3g} and "
        f"{best['cosine to 0']:.3g}.",
    )
