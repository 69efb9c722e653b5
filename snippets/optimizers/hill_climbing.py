"""Hill climbing in NumPy: a random change, kept if it is not worse."""

import numpy as np


def climb_step(w, loss, change, state, adapt=True):
    """Tries w + sigma * change. Returns what is kept; state has sigma and the loss of w."""
    if "loss" not in state:
        state["loss"] = loss(w)
    child = w + state["sigma"] * change
    found = loss(child)
    success = found <= state["loss"]  # equal counts, or a plateau would be the end
    if adapt:  # longer after a success, shorter after a failure: in balance at one success in five
        state["sigma"] *= np.exp((success - 0.2) / (1 + w.size / 2))
    if success:
        w, state["loss"] = child, found
    return w


# %% demo
from snippets.live import choice, demo, line, scatter, slider, toggle
from snippets.optimizers.arena import NAMES, race, surface

LOW, HIGH = -3.0, 3.0


def egg_box(w):
    """Many valleys; the lowest, 0, at the origin."""
    w = np.asarray(w)
    return (0.3 * w**2 + 1 - np.cos(2.5 * w)).sum(-1)


def climb(loss, start, sigma, adapt, evaluations, rng):
    """The points tried, those kept, and the best loss after each evaluation."""
    w, state = np.array(start, float), {"sigma": sigma}
    tried, kept, best = [], [w], []
    for _ in range(evaluations):
        change = rng.standard_normal(2)
        tried.append(w + state["sigma"] * change)
        w = climb_step(w, loss, change, state, adapt)
        kept.append(w)
        best.append(state["loss"])
    return np.array(tried), np.array(kept), best


@demo(
    sigma=slider(0.01, 1.0, step=0.01, label="sigma: size of the changes at the start", log=True),
    restarts=slider(1, 10, label="starts that share the evaluations"),
    adapt=toggle(label="adapt sigma by the 1/5 rule"),
    ground=choice(*NAMES, label="surface of the race"),
)
def show(sigma=0.3, restarts=4, adapt=True, ground="bowl"):
    """One start with small changes sees one valley. Try more starts, or larger changes without adaptation."""
    rng, budget = np.random.default_rng(0), 240
    starts = rng.uniform(LOW, HIGH, (10, 2))[:restarts]
    runs = [climb(egg_box, start, sigma, adapt, budget // restarts, rng) for start in starts]
    axis = np.linspace(LOW, HIGH, 40)
    inside = np.concatenate([tried for tried, _, _ in runs])
    inside = inside[np.abs(inside).max(1) < HIGH]
    best = np.minimum.accumulate(np.concatenate([losses for _, _, losses in runs]))
    place = surface(ground)
    path = climb(place.value, place.start, 0.3, True, 120, np.random.default_rng(1))[1]
    spread = np.concatenate([path[:1], path[2::2]])  # two evaluations beside each step of a gradient method
    return (
        scatter({"tried": inside, "end": [kept[-1] for _, kept, _ in runs], "lowest": [(0.0, 0.0)]},
                lines={"kept": [kept for _, kept, _ in runs]},
                field=egg_box(np.stack(np.meshgrid(axis, axis), -1)), range_x=(LOW, HIGH), range_y=(LOW, HIGH), x="weight 1", y="weight 2",
                caption=f"{budget} evaluations, shared by {restarts} start{'s' if restarts > 1 else ''}; darker is lower. "
                "A path ends in a valley near its start."),
        line({"best so far": np.maximum(best, 1e-8)}, at=range(1, len(best) + 1), x="evaluation", y="loss", log_y=True, range_y=(1e-8, 10),
             caption="The best value so far, over all starts, drawn down to 1e-8: it never rises."),
        *race({"hill climbing": spread}, place, caption="Two evaluations of the loss for each gradient of the others, about the same cost. No slope is used."),
        f"Best loss after {budget} evaluations: {max(best[-1], 1e-8):.2g}. The lowest of all is 0.",
    )
