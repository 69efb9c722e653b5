"""Where the schedules meet: a noisy quadratic on which the expected loss of SGD is known exactly, and the figures beside the usual ones."""

import numpy as np

from snippets.live import line

CURVATURES = np.geomspace(0.005, 1.0, 8)


def spread(square, lr, noise=1.0, curvatures=CURVATURES):
    """The mean of w^2 after one more step of SGD: (1 - lr h)^2 of it stays, and lr^2 noise^2 is added."""
    return (1 - lr * curvatures) ** 2 * square + lr**2 * noise**2


def expected_loss(rates, noise=1.0, curvatures=CURVATURES, start=3.0):
    """Expected loss before each step of SGD and after the last, on sum(h w^2) / 2, each weight's gradient with noise of this deviation.

    Rates (steps) or, for many schedules at once, (schedules, steps).

    The mean of w^2 obeys a recursion of its own, so nothing is drawn at random.
    """
    rates = np.asarray(rates, float)
    square, losses = np.full((*rates.shape[:-1], len(curvatures)), start**2), []
    for lr in np.moveaxis(rates, -1, 0)[..., None]:
        losses.append(square @ curvatures / 2)
        square = spread(square, lr, noise, curvatures)
    return np.stack([*losses, square @ curvatures / 2], -1)


def beside(schedules, noise=1.0, caption=""):
    """Figures of ``{name: rates of all steps}`` beside a constant rate and a cosine with the same highest rate: the rates, and the expected loss."""
    from snippets.schedulers.cosine_annealing import cosine_annealing  # here, because the cosine's own demo imports this file

    rates = np.asarray(next(iter(schedules.values())), float)
    steps, peak = len(rates), float(rates.max())
    usual = {"constant": np.full(steps, peak), "cosine": cosine_annealing(np.arange(steps), steps, peak)}
    every = {**schedules, **{name: values for name, values in usual.items() if name not in schedules}}
    references = [name for name in every if name not in schedules]
    return (
        line(every, x="step", y="learning rate", dashed=references, range_y=(0, 1.05 * peak), caption=caption or "The rate at each step."),
        line({name: np.clip(expected_loss(values, noise), 1e-4, 1e3) for name, values in every.items()}, x="step", y="expected loss", log_y=True,
             dashed=references, caption=f"Expected loss of SGD on a quadratic with curvatures from {CURVATURES[0]:g} to {CURVATURES[-1]:g} and gradient noise of "
             f"deviation {noise:g}, computed exactly. High rates travel, low rates settle."),
    )
