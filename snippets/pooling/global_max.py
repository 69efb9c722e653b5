"""Global max pooling in NumPy."""

import numpy as np


def global_max(x, mask=None):
    """x (C, N), mask (N,): the largest of every channel over the positions that count."""
    if mask is not None:
        x = np.where(mask, x, -np.inf)  # 0 would win over negative features
    return x.max(-1)


def critical(x):
    """The positions that hold a maximum in some channel: at most C, and the rest could be left out."""
    return np.unique(x.argmax(-1))


# %% demo
from snippets.live import bars, choice, demo, scatter, slider

C = 6
ANGLES = np.arange(C) * 2 * np.pi / C
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)


def features(points):
    """One number per point and channel: how far the point lies in each of six directions."""
    return DIRECTIONS @ points.T


@demo(
    n=slider(4, 64, label="points"),
    duplicates=slider(0, 20, label="copies of one point"),
    outlier=slider(0.0, 10.0, step=0.5, label="distance of an added outlier (0: none)"),
    pool=choice("max", "mean", "sum", label="pooling"),
)
def show(n=24, duplicates=8, outlier=0.0, pool="max"):
    """Add copies: the maximum does not notice, mean and sum do. Add one outlier: the maximum is all about it."""
    points = np.random.default_rng(5).normal(size=(n, 2))
    changed = np.concatenate([points, np.repeat(points[:1], duplicates, 0), [[0.94 * outlier, 0.34 * outlier]] if outlier else np.zeros((0, 2))])
    pools = {"max": global_max, "mean": lambda x: x.mean(-1), "sum": lambda x: x.sum(-1)}
    before, after = pools[pool](features(points)), pools[pool](features(changed))
    winners = critical(features(changed))
    others = np.setdiff1d(np.arange(len(changed)), winners)
    groups = {"critical points": changed[winners]}
    if len(others):
        groups["never a maximum"] = changed[others]
    kept = global_max(features(changed[winners]))
    names = [f"{a * 60}°" for a in range(C)]
    return (
        scatter(groups, x="x", y="y", equal=True,
                caption="The set. Only the marked points hold a maximum of some channel; any other could be removed, and the vector would stay."),
        bars({"the points": dict(zip(names, before)), "with copies and outlier": dict(zip(names, after))}, x="channel: direction", y=f"{pool} over the points",
             caption=f"The pooled vector ({pool}), of the points alone and with what was added."),
        f"{len(winners)} of {len(changed)} points decide the maximum; pooling those alone differs by {np.abs(kept - global_max(features(changed))).max():.1f}. "
        f"What was added moves the {pool} by up to {np.abs(after - before).max():.2f}.",
    )
