"""Instance normalization in NumPy."""

import numpy as np

from snippets.normalization.layer import moments, standardize


def instance_norm(x, gamma=1.0, beta=0.0, eps=1e-5):
    """x (B, C, H, W): each channel of each image, over its own pixels."""
    channel = (-1, 1, 1)
    return standardize(x, *moments(x, (2, 3)), eps) * np.reshape(gamma, channel) + np.reshape(beta, channel)


# %% demo
from snippets.live import choice, demo, image, slider, table
from snippets.normalization.group import group_norm

NORMS = {
    "instance": (instance_norm, "H, W"),
    "group": (lambda x: group_norm(x, 2), "2 of 4 channels, H, W"),
    "layer": (lambda x: group_norm(x, 1), "C, H, W"),
    "batch": (lambda x: standardize(x, *moments(x, (0, 2, 3)), 1e-5), "B, H, W"),
}


def shapes(size=36):
    """A red disc, a green square and a blue stripe on grey, (4, size, size); the fourth channel is the mean of the three."""
    y, x = np.mgrid[:size, :size] / size
    picture = np.full((3, size, size), 0.35)
    picture[:, (x - 0.32) ** 2 + (y - 0.35) ** 2 < 0.05] = [[0.9], [0.25], [0.2]]
    picture[:, (abs(x - 0.7) < 0.17) & (abs(y - 0.6) < 0.17)] = [[0.2], [0.75], [0.3]]
    picture[:, abs(x + y - 1.45) < 0.06] = [[0.2], [0.3], [0.9]]
    return np.concatenate([picture, picture.mean(0, keepdims=True)])


@demo(
    contrast=slider(0.2, 3.0, step=0.1, label="contrast"),
    brightness=slider(-1.0, 1.0, step=0.05, label="brightness"),
    channel=choice("red", "all", label="channels changed"),
    norm=choice(*NORMS, label="norm"),
)
def show(contrast=0.4, brightness=0.3, channel="red", norm="instance"):
    """Change contrast and brightness of the copy on the right. Below: both pictures after the norm. Which norm makes them equal?"""
    first = shapes()
    which = slice(0, 1) if channel == "red" else slice(0, 4)
    second = first.copy()
    second[which] = contrast * (second[which] - 0.5) + 0.5 + brightness
    x = np.stack([first, second])
    size = first.shape[1]
    mosaic = np.ones((2 * size + 4, 2 * size + 4, 3))
    y = NORMS[norm][0](x)
    for row, pair in enumerate((x, 0.4 + 0.2 * y)):  # normalised numbers, -2 to 3, as shades
        for column, picture in enumerate(pair):
            mosaic[row * (size + 4) :, column * (size + 4) :][:size, :size] = picture[:3].transpose(1, 2, 0)
    apart = {name: np.abs(np.subtract(*f(x)[:, :3])).max() for name, (f, _) in NORMS.items()}
    return (
        image(mosaic, caption=f"Above: the picture and its changed copy. Below: both after {norm} normalization, in one batch of two."),
        table([[name, axes, f"{apart[name]:.3f}"] for name, (_, axes) in NORMS.items()],
              columns=["norm", "one mean over", "largest difference"],
              caption="How far the two outputs differ, in deviations. Instance normalization cannot tell the two pictures apart, whichever channels were changed."),
        f"After {norm} normalization the two pictures differ by up to {apart[norm]:.3f} deviations.",
    )
