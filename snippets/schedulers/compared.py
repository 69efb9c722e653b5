"""All schedules side by side, and the exact expected loss of each."""

import numpy as np

from snippets.schedulers.arena import CURVATURES, expected_loss, spread
from snippets.schedulers.cosine_annealing import cosine_annealing
from snippets.schedulers.cosine_restarts import cosine_restarts
from snippets.schedulers.inverse_sqrt import inverse_sqrt
from snippets.schedulers.one_cycle import one_cycle
from snippets.schedulers.reduce_on_plateau import plateau_step
from snippets.schedulers.step import step_decay
from snippets.schedulers.warmup import warmup
from snippets.schedulers.warmup_cosine import warmup_cosine
from snippets.schedulers.warmup_linear_decay import warmup_linear_decay
from snippets.schedulers.warmup_stable_decay import warmup_stable_decay


def shapes(steps, share, final):
    """Every schedule as a share of its highest rate, with this share of warm-up and this last rate where it has one."""
    t, up = np.arange(steps), round(share * steps)
    fall = max(steps // 5, 1)
    drops = np.sqrt(final) if final else 0.1  # two drops come to the final share
    return {
        "constant": warmup(t, up),
        "step": step_decay(t, 1.0, -(-steps // 3), drops),
        "cosine": cosine_annealing(t, steps, 1.0, final),
        "warm-up, cosine": warmup_cosine(t, up, steps, 1.0, final),
        "warm-up, line": warmup_linear_decay(t, up, steps, 1.0, final),
        "inverse root": inverse_sqrt(t, max(up, 1), 1.0),
        "stable, decay": warmup_stable_decay(t, up, steps - up - fall, fall, 1.0, min_ratio=final),
        "restarts": cosine_restarts(t, -(-steps // 4), 1.0, 1, final),
        "one cycle": np.array([one_cycle(step, steps, 1.0)[0] for step in t]),
    }


def on_plateau(steps, peaks, factor=0.3, patience=2):
    """Reduce on plateau looks at the expected loss twenty times a run, so its rates depend on what has happened. One row for each peak."""
    lr, states, rates = np.array(peaks, float), [{} for _ in peaks], []
    square = np.full((len(peaks), len(CURVATURES)), 9.0)
    for t in range(steps):
        rates.append(lr)
        square = spread(square, lr[:, None])
        if (t + 1) * 20 // steps > t * 20 // steps:
            losses = square @ CURVATURES / 2
            lr = np.array([plateau_step(*each, factor, patience, 0.01) for each in zip(states, losses, lr)])
    return np.stack(rates, 1)


# %% demo
from snippets.live import choice, demo, line, slider, table

SHOWN = {
    "lines and cosines": ["constant", "cosine", "warm-up, cosine", "warm-up, line", "one cycle"],
    "end unknown": ["constant", "inverse root", "stable, decay", "on plateau", "warm-up, line"],
    "jumps": ["constant", "step", "restarts", "on plateau", "cosine"],
}


@demo(
    shown=choice(*SHOWN, label="curves"),
    steps=slider(40, 400, step=20, label="length", unit="steps"),
    share=slider(0.0, 0.5, step=0.01, label="share of warm-up"),
    final=slider(0.0, 1.0, step=0.05, label="final rate, as a share of the peak"),
    peak=slider(0.01, 1.9, label="peak", log=True),
)
def show(shown="lines and cosines", steps=240, share=0.05, final=0.0, peak=0.3):
    """All with the same peak; then, in the table, each at its own best one: the order changes. Where the end is unknown, look halfway, too."""
    tops = np.array([peak, *np.geomspace(0.03, 1.9, 12)])
    every = {name: tops[:, None] * shape for name, shape in shapes(steps, share, final).items()} | {"on plateau": on_plateau(steps, tops)}
    losses = dict(zip(every, expected_loss(list(every.values()))))
    best = {name: 1 + int(values[1:, -1].argmin()) for name, values in losses.items()}
    order = sorted(best, key=lambda name: losses[name][best[name], -1])
    return (
        line({name: every[name][0] for name in SHOWN[shown]}, x="step", y="learning rate", range_y=(0, 1.05 * peak), dashed=["constant"],
             caption="The rates. One cycle keeps its own rise of 30 %; cosine, step and restarts have no warm-up; the plateau rule looks at the loss 20 times."),
        line({name: np.clip(losses[name][0], 1e-3, 1e3) for name in SHOWN[shown]}, x="step", y="expected loss", log_y=True, dashed=["constant"],
             caption="Expected loss of SGD on a quadratic with curvatures from 0.005 to 1 and noise, computed exactly. High rates travel, low rates settle."),
        table([[name, f"{losses[name][0, -1]:.3g}", f"{losses[name][best[name], -1]:.3g}", f"{tops[best[name]]:.2g}"] for name in order if name != "constant"],
              columns=["schedule", f"peak {peak:.3g}", "best peak", "which is"],
              caption="Expected loss at the end of the nine that fall: with the peak of the control, and with the best of 12 peaks for each, by which they are sorted."),
        f"Each at its best peak, {order[0]} ends lowest, at {losses[order[0]][best[order[0]], -1]:.3g}; the constant rate at "
        f"{losses['constant'][best['constant'], -1]:.3g}.",
    )
