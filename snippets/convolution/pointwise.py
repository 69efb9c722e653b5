"""Pointwise (1×1) convolution in NumPy."""

import numpy as np


def pointwise(x, w, bias=0.0):
    """x (C, H, W), w (O, C) -> (O, H, W): pixels are columns, and one matrix multiplies them all."""
    C, H, W = x.shape
    pixels = x.reshape(C, H * W)
    return (w @ pixels + np.reshape(bias, (-1, 1))).reshape(len(w), H, W)


# %% demo
from snippets.live import choice, demo, heatmap, image, slider

LIGHT = [0.299, 0.587, 0.114]  # how bright red, green and blue look
REST = {  # the rows of the green and blue outputs, and what is added to all three
    "identity": ([[0, 1, 0], [0, 0, 1]], [0, 0, 0]),
    "greyscale": ([LIGHT, LIGHT], [0, 0, 0]),
    "opponent": ([[0.5, -0.5, 0], [-0.25, -0.25, 0.5]], [0, 0.5, 0.5]),  # red − green and blue − yellow, grey at zero
}


def picture():
    i, j = np.mgrid[:32, :32]
    x = np.full((3, 32, 32), 0.15)
    for colour, shape in [
        ([0.95, 0.2, 0.15], (i - 9) ** 2 + (j - 9) ** 2 < 40),
        ([0.2, 0.8, 0.25], (abs(i - 9) < 6) & (abs(j - 23) < 6)),
        ([0.2, 0.35, 0.95], (i > 18) & (i < 30) & (abs(j - 9) < (i - 18) * 0.6)),
        ([0.95, 0.85, 0.2], abs(i - 23) + abs(j - 23) < 8),
    ]:
        x[:, shape] = np.array(colour)[:, None]
    return x


@demo(
    preset=choice("identity", "greyscale", "opponent", label="rows of the green and blue outputs"),
    red=slider(-1.0, 2.0, step=0.1, label="red output, from red"),
    green=slider(-1.0, 2.0, step=0.1, label="red output, from green"),
    blue=slider(-1.0, 2.0, step=0.1, label="red output, from blue"),
)
def show(preset="identity", red=0.0, green=0.0, blue=1.0):
    """The first row of the matrix is yours. Set it to 0, 1, 0 with identity below: the red and the green output become the same."""
    x = picture()
    rows, bias = REST[preset]
    w = np.array([[red, green, blue], *rows])
    y = pointwise(x, w, bias)
    names = ["red", "green", "blue"]
    _, sizes, _ = np.linalg.svd(w)
    rank = int((sizes > 1e-9).sum())
    lost = "Nothing is lost: the inverse matrix brings the image back." if rank == 3 else (
        f"Only {rank} of 3 numbers per pixel survive: colours that differ in the rest look alike, and no later layer can part them.")
    return (
        image(np.moveaxis(x, 0, -1), caption="Before: four shapes, three channels."),
        image(np.moveaxis(y, 0, -1), caption="After. Every shape keeps its outline: no pixel has seen another."),
        heatmap(w, rows=names, columns=names, x="from channel", y="to channel", value="weight", range=(-2, 2), signed=True,
                caption="The whole layer: one matrix of nine weights for all pixels."),
        f"The matrix has rank {rank}. " + lost,
    )
