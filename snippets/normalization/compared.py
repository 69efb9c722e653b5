"""Which numbers share one mean: every norm asked by nudging one input and watching all outputs."""

import numpy as np

from snippets.normalization.group import group_norm
from snippets.normalization.instance import instance_norm
from snippets.normalization.layer import layer_norm, moments, standardize
from snippets.normalization.rms import rms_norm


def norms(groups):
    """Functions of an array (batch, channel, space, 1)."""
    last = lambda f: lambda x: np.moveaxis(f(np.moveaxis(x, 1, -1)), -1, 1)  # channels last and back
    return {
        "batch": lambda x: standardize(x, *moments(x, (0, 2, 3)), 1e-5),
        "layer": last(layer_norm),
        "RMS": last(rms_norm),
        "group": lambda x: group_norm(x, groups),
        "instance": instance_norm,
    }


def response(f, x, at, step=1e-5):
    """Derivative of every output by the one input at `at`, by a central difference."""
    nudge = np.zeros_like(x)
    nudge[at] = step
    return (f(x + nudge) - f(x - nudge)) / (2 * step)


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider

B, C, S = 3, 4, 4


@demo(
    image=slider(1, B, label="image of the nudged number"),
    channel=slider(1, C, label="its channel"),
    position=slider(1, S, label="its position"),
    groups=choice(1, 2, 4, label="groups of group norm"),
)
def show(image=2, channel=2, position=3, groups=2):
    """One number is nudged. Coloured cells are the outputs that notice: those that share its mean. Move the number; change the groups."""
    x = np.random.default_rng(0).normal(size=(B, C, S, 1))
    at = (image - 1, channel - 1, position - 1, 0)
    panels, columns, shared = [], [], {}
    for name, f in norms(groups).items():
        d = response(f, x, at)[..., 0]
        d[np.abs(d) < 1e-9] = np.nan  # does not depend on it at all
        shared[name] = int(np.isfinite(d).sum())
        panels += [np.log10(np.abs(d)).reshape(B * C, S), np.full((B * C, 1), np.nan)]
        columns += [name if s == 0 else "" for s in range(S)] + [""]
    grid = np.concatenate(panels[:-1], 1)
    rows = [f"{b + 1} · {c + 1}" for b in range(B) for c in range(C)]
    said = {1: "all channels", 2: "two channels", 4: "one channel, as instance norm"}[groups]
    return (
        heatmap(grid, rows=rows, columns=columns[:-1], x="norm, with four positions each", y="image · channel", value="log₁₀ of the change per unit",
                signed=False, range=(-3.0, 0.2),
                caption=f"Computed, not drawn. Batch: the channel in all images. Layer and RMS: all channels at one position. Group: {said} of the image. "
                        "Instance: the channel of the image."),
        bars(shared, y=f"numbers that notice, of {B * C * S}", range_y=(0, 17), caption="How many numbers share one mean. Only batch norm reaches into other images."),
        f"A nudge in image {image}, channel {channel}, position {position} is felt by {shared['batch']} numbers under batch norm, {shared['layer']} under layer norm, "
        f"{shared['group']} under group norm and {shared['instance']} under instance norm.",
    )
