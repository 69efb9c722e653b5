"""Octave convolution in NumPy."""

import numpy as np

from snippets.convolution.conv2d import conv2d


def half(x):
    """The mean of every 2×2 square."""
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def double(x):
    """Every pixel four times."""
    return x.repeat(2, -2).repeat(2, -1)


def octave_conv2d(high, low, w, low_out):
    """high (Ch, H, W), low (Cl, H/2, W/2), w (O, Ch + Cl, k, k), O − low_out channels stay high -> the new high and low."""
    p, Ch, Oh = w.shape[-1] // 2, len(high), len(w) - low_out
    to_high, to_low = w[:Oh], w[Oh:]
    new_high = conv2d(high, to_high[:, :Ch], padding=p) + double(conv2d(low, to_high[:, Ch:], padding=p))
    new_low = conv2d(half(high), to_low[:, :Ch], padding=p) + conv2d(low, to_low[:, Ch:], padding=p)
    return new_high, new_low


def cost(alpha):
    """Multiply-adds and memory, relative to a layer at full resolution."""
    return 1 - 0.75 * alpha * (2 - alpha), 1 - 0.75 * alpha


def split(x):
    """What half the resolution can show, and the rest."""
    low = double(half(x))
    return low, x - low


# %% demo
from snippets.live import bars, demo, image, line, slider


def picture(blur):
    """Shapes and fine stripes, blurred a few times."""
    i, j = np.mgrid[:32, :32]
    x = np.full((32, 32), 0.2)
    x[(i - 10) ** 2 + (j - 10) ** 2 < 50] = 0.9
    x[4:16, 18:30] = 0.5 + 0.4 * (-1.0) ** (j[4:16, 18:30])
    x[19:30, 3:29] = 0.5 + 0.4 * np.sin((j[19:30, 3:29] ** 2) / 40)
    for _ in range(blur):
        padded = np.pad(x, 1, mode="edge")
        x = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
        x = (x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4
    return x


@demo(
    alpha=slider(0.0, 1.0, step=0.05, label="share of channels at half resolution"),
    blur=slider(0, 3, label="blur of the image", unit="passes"),
)
def show(alpha=0.5, blur=0):
    """Blur the image: almost nothing is left for the full resolution to keep. Then choose the share and read off what it saves."""
    x = picture(blur)
    low, rest = split(x)
    spread = ((x - x.mean()) ** 2).sum()
    share = {"half resolution": ((low - x.mean()) ** 2).sum() / spread, "the rest": (rest**2).sum() / spread}
    alphas = np.linspace(0, 1, 41)
    work, memory = cost(alphas)
    now = cost(alpha)
    gap = np.ones((32, 1))
    return (
        image(np.hstack([x, gap, low, gap, 0.5 + rest / 2]),
              caption="The image; what half its resolution keeps; what is lost, around grey. Fine stripes are lost whole."),
        bars(share, y="share of the variance", range_y=(0, 1), caption="The two parts share nothing, so their variances add up to that of the image."),
        line({"multiply-adds": (alphas, work), "memory": (alphas, memory)}, x="share of channels at half resolution, α", y="relative to a full layer",
             marks={"chosen": alpha}, range_y=(0, 1), caption="Work falls faster than memory: three of the four paths run at half resolution."),
        f"At α = {alpha:g}: {100 * now[0]:.3g} % of the multiply-adds, {100 * now[1]:.3g} % of the activations, all of the weights.",
    )
