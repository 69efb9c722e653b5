"""Focal loss in NumPy."""

import numpy as np


def softplus(x):
    return np.logaddexp(0, x)


def focal(x, alpha=0.25, gamma=2.0):
    """Loss of one example whose truth has the logit x; alpha is the weight of its class."""
    cross_entropy = softplus(-x)           # -log p, where p = sigmoid(x) is the probability of the truth
    fading = np.exp(-gamma * softplus(x))  # (1 - p) ** gamma
    return alpha * fading * cross_entropy


def focal_slope(x, alpha=0.25, gamma=2.0):
    """Its derivative by x: how hard the example pushes its own logit up (a negative number)."""
    log_p, p = -softplus(-x), np.exp(-softplus(-x))
    return alpha * np.exp(-gamma * softplus(x)) * (gamma * p * log_p + p - 1)


# %% demo
from statistics import NormalDist

from snippets.live import bars, demo, line, slider


@demo(
    gamma=slider(0.0, 5.0, step=0.1, label="γ, how fast easy examples fade"),
    alpha=slider(0.05, 0.95, step=0.05, label="α, weight of objects"),
    ratio=slider(1, 1000, label="background examples per object", log=True),
)
def show(gamma=2.0, alpha=0.25, ratio=300):
    """With γ = 0, hundreds of solved backgrounds outweigh the one object. Raise γ, then see how far α may go down."""
    p = np.linspace(0.005, 0.995, 100)
    x = np.log(p / (1 - p))

    def curve(y):  # the axis from 0 to 1: nothing is finite at the left end, nothing is left at the right one
        return np.r_[0, p, 1], np.r_[np.nan, y, 0]

    # A detector in training, as two normal distributions of logits: sure of most background, undecided about objects.
    z = np.array([NormalDist().inv_cdf((i + 0.5) / 400) for i in range(400)])
    truth = {"object": 1.5 * z, "background": 5 + 1.5 * z}
    share = {}
    for name, (weights, g) in {"cross-entropy": ((1, 1), 0), "focal loss": ((alpha, 1 - alpha), gamma)}.items():
        for (kind, logits), weight, count in zip(truth.items(), weights, (1, ratio)):
            loss = count * focal(logits, weight, g) / 400
            solved = logits > np.log(0.9 / 0.1)
            share.setdefault(f"{kind}, solved", {})[name] = loss[solved].sum()
            share.setdefault(f"{kind}, not yet", {})[name] = loss[~solved].sum()
    for name in ("cross-entropy", "focal loss"):
        total = sum(row[name] for row in share.values())
        for row in share.values():
            row[name] = 100 * row[name] / total
    before, after = ((share["background, solved"][name], share["object, solved"][name] + share["object, not yet"][name])
                     for name in ("cross-entropy", "focal loss"))
    return (
        line(
            {"cross-entropy": curve(focal(x, 1, 0)), "object": curve(focal(x, alpha, gamma)),
             "background": curve(focal(x, 1 - alpha, gamma))},
            x="probability of the truth, p_t", y="loss", dashed=["cross-entropy"], range_y=(0, 5.5),
            caption=f"From dashed to solid an object costs {1 / (alpha * 0.5**gamma):.3g} times less at p_t = 0.5 "
            f"and {1 / (alpha * 0.1**gamma):,.0f} times less at p_t = 0.9.",
        ),
        line(
            {"cross-entropy": curve(-focal_slope(x, 1, 0)), "object": curve(-focal_slope(x, alpha, gamma)),
             "background": curve(-focal_slope(x, 1 - alpha, gamma))},
            x="probability of the truth, p_t", y="push on the logit", dashed=["cross-entropy"], range_y=(0, 1.4),
            caption="The gradient is what trains. Cross-entropy pushes by 1 − p_t; with a larger γ a solved example "
            "hardly pushes at all.",
        ),
        bars(share, y="share of the total loss (%)", stacked=True, range_y=(0, 100),
             caption=f"One object to {ratio} background examples. Solved: the truth has p_t > 0.9."),
        f"Solved background makes up {before[0]:.0f} % of the cross-entropy and {after[0]:.0f} % of the focal loss; "
        f"the objects make up {before[1]:.1f} % and {after[1]:.1f} %.",
    )
