"""Group normalization in NumPy."""

import numpy as np

from snippets.normalization.layer import moments, standardize


def group_norm(x, groups, gamma=1.0, beta=0.0, eps=1e-5):
    """x (B, C, H, W): each image's channels are dealt into groups of neighbours; one mean and deviation per group."""
    B, C = x.shape[:2]
    if C % groups:
        raise ValueError(f"{C} channels cannot form {groups} equal groups")
    parts = x.reshape(B, groups, C // groups, *x.shape[2:])
    y = standardize(parts, *moments(parts, tuple(range(2, parts.ndim))), eps)
    channel = (-1, *[1] * (x.ndim - 2))
    return y.reshape(x.shape) * np.reshape(gamma, channel) + np.reshape(beta, channel)


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


def divisor(x, norm, groups):
    """The deviation (B, C) that each channel of each image is divided by: how much the norm's output is smaller than x."""
    y = {"BN": lambda: standardize(x, *moments(x, (0, 2, 3)), 1e-5), "LN": lambda: group_norm(x, 1),
         "GN": lambda: group_norm(x, groups), "IN": lambda: group_norm(x, x.shape[1])}[norm]()
    return x.std((2, 3)) / y.std((2, 3)), y


@demo(
    groups=choice(1, 2, 4, 8, label="groups"),
    batch=slider(1, 16, label="batch size"),
    loud=slider(0.1, 20.0, log=True, label="scale of channel 3"),
)
def show(groups=4, batch=4, loud=6.0):
    """Make channel 3 loud: whoever shares its block is turned down with it. Compare 1 group, 4 groups and 8."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, 8, 4, 4)) * rng.uniform(0.7, 1.4, size=(batch, 8, 1, 1))
    x[:, 2] *= loud
    norms, seen = ("BN", "LN", "GN", "IN"), min(batch, 4)
    rows, names = [], []
    for norm in norms:
        rows += [[np.nan] * 8] * bool(rows) + list(np.round(np.log10(divisor(x, norm, groups)[0][:seen]), 2))
        names += [""] * bool(names) + [f"{norm} {i + 1}" for i in range(seen)]
    spread = {norm: divisor(x, norm, groups)[1].std((0, 2, 3)) for norm in ("BN", "GN")}

    changed = x.copy()
    changed[1:] += 1.0  # the other images become brighter: does the first one notice?
    moved = {norm: np.abs(divisor(changed, norm, groups)[1][0] - divisor(x, norm, groups)[1][0]).max() for norm in ("BN", "GN")}
    channels = [str(c + 1) for c in range(8)]
    return (
        heatmap(rows, rows=names, columns=channels, x="channel", y="norm and image", value="log₁₀ of the deviation divided by",
                signed=True, caption="Cells of one colour share one deviation. BN: columns. LN over channels and space: rows. "
                f"GN: {groups} block{'s' * (groups > 1)} in a row. IN: every cell alone."),
        bars({norm: dict(zip(channels, values)) for norm, values in spread.items()}, x="channel", y="deviation of the output",
             range_y=(0, 3), caption="BN brings each channel to 1. In a group the loud channel takes the room, and its neighbours come out quiet."),
        f"In groups of {8 // groups}, channel 3 comes out at {spread['GN'][2]:.2f} and channel 4 at {spread['GN'][3]:.2f}. When the other images get "
        f"brighter, the first image's output moves by {moved['BN']:.2f} with BN and by {moved['GN']:.2f} with GN.",
    )
