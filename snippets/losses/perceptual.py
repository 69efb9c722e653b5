"""Perceptual loss in NumPy, with a bank of Gabor filters as the network."""

import numpy as np

from snippets.ops import conv2d


def features(image, bank):
    """What the filters find: (H, W) -> (filters, H', W'). A convolution and a ReLU, as in the first layer of a network."""
    return np.maximum(0, conv2d(image[None, None], bank[:, None])[0])


def pooled(f, size=8):
    """Means over squares of size x size: where exactly something was found is forgotten."""
    rows, columns = f.shape[1] // size, f.shape[2] // size
    return f[:, :rows * size, :columns * size].reshape(-1, rows, size, columns, size).mean((2, 4))


def feature_distance(f, g):
    return ((f - g) ** 2).mean()


def gram(f):
    """How strongly each pair of filters answers together, wherever that is."""
    flat = f.reshape(len(f), -1)
    return flat @ flat.T / flat.size


def style_distance(f, g):
    return ((gram(f) - gram(g)) ** 2).sum()


def gabor_bank(size=9):
    """Eight waves under a bell: four directions, each once even and once odd about its center."""
    y, x = np.mgrid[-1:1:size * 1j, -1:1:size * 1j]
    bank = []
    for angle in np.arange(4) * np.pi / 4:
        along = x * np.cos(angle) + y * np.sin(angle)
        for phase in (0, np.pi / 2):
            wave = np.exp(-4 * (x**2 + y**2)) * np.cos(6 * along + phase)
            bank.append((wave - wave.mean()) / np.sqrt(((wave - wave.mean()) ** 2).sum()))
    return np.array(bank)


# %% demo
from snippets.live import bars, demo, image, line, slider

SIDE, MOST = 48, 6


def scene(which):
    """A picture with room for a shift: stripes of two directions and a disc, or rings and a square."""
    y, x = np.mgrid[:SIDE, :SIDE + MOST] / SIDE
    if which == 0:
        stripes = np.where(y < 0.5, np.sin(67 * x), np.sin(50 * (x - y)))
        return np.where(np.hypot(x - 0.6, y - 0.55) < 0.25, 0.9, 0.5 + 0.3 * stripes)
    rings = 0.5 + 0.3 * np.sin(67 * np.hypot(x - 0.2, y - 0.9))
    return np.where((abs(x - 0.65) < 0.2) & (abs(y - 0.3) < 0.2), 0.1, rings)


def crop(picture, shift):
    return picture[:, MOST - shift:MOST - shift + SIDE]


BANK = gabor_bank()
NOISE = np.random.default_rng(0).standard_normal((SIDE, SIDE))


def distances(a, b):
    f, g = features(a, BANK), features(b, BANK)
    return {"pixels": ((a - b) ** 2).mean(), "features": feature_distance(pooled(f), pooled(g)), "Gram": style_distance(f, g)}


@demo(
    shift=slider(0, MOST, label="shift of the copy", unit="px"),
    noise=slider(0.0, 0.5, step=0.02, label="noise on the other copy"),
)
def show(shift=2, noise=0.2):
    """A shifted copy looks the same, a noisy one does not. Which distance agrees with your eyes?"""
    picture = crop(scene(0), 0)
    noisy = np.clip(picture + noise * NOISE, 0, 1)
    another = distances(picture, crop(scene(1), 0))
    by_shift = [distances(picture, crop(scene(0), s)) for s in range(MOST + 1)]
    to_shifted, to_noisy = by_shift[shift], distances(picture, noisy)
    percent = {copy: {name: round(100 * found[name] / another[name], 3) for name in another} for copy, found in (("shifted", to_shifted), ("noisy", to_noisy))}
    gap = np.ones((SIDE, 3))
    return (
        image(np.hstack([picture, gap, crop(scene(0), shift), gap, noisy, gap, crop(scene(1), 0)]),
              caption=f"The picture, shifted by {shift} px, with noise of {noise:g}, and another picture, whose distance counts as 100."),
        bars(percent, y="distance (another picture = 100)", caption="Pixels compare place by place, features what is found near a place, Gram matrices what is found anywhere."),
        line({name: [100 * d[name] / another[name] for d in by_shift] for name in another}, x="shift (px)", y="distance (another picture = 100)",
             marks={"now": float(shift)}, caption="Every shift. The upper stripes are 4.5 px apart: after as much, pixels fit again."),
        f"Pixels call the noisy copy {percent['noisy']['pixels'] / 100:.0%} as different as another picture, and the shifted one {percent['shifted']['pixels'] / 100:.0%}. "
        f"Gram matrices say {percent['noisy']['Gram'] / 100:.1%} and {percent['shifted']['Gram'] / 100:.1%}.",
    )
