"""DropConnect in NumPy."""

import numpy as np

from snippets.regularization.dropout import dropout_mask


def dropconnect(x, W, b, p, rng):
    """In training: each weight is there or not, for all of the batch. x (B, I), W (O, I)."""
    return x @ (W * dropout_mask(W.shape, p, rng)).T + b


def output_variance(W, x, p):
    """Over the masks, for each example and output. That of dropout of the inputs is the same."""
    return p / (1 - p) * x**2 @ (W**2).T


# %% demo
from snippets.live import choice, demo, heatmap, line, slider

DRAWS = 200


@demo(
    p=slider(0.0, 0.9, step=0.05, label="p, probability of a zero"),
    method=choice("DropConnect", "dropout", label="what is dropped"),
    inputs=choice(4, 16, 32, label="inputs of a unit"),
)
def show(p=0.5, method="DropConnect", inputs=16):
    """Switch to dropout: whole columns vanish, the histogram of one unit stays what it is. What changes is how two units vary together."""
    rng = np.random.default_rng(0)
    W, x = rng.normal(size=(8, inputs)) / np.sqrt(inputs), rng.normal(size=(1, inputs)) + 0.5
    masks = dropout_mask((DRAWS, 8, inputs) if method == "DropConnect" else (DRAWS, 1, inputs), p, rng) * np.ones((1, 8, 1))
    outputs = ((W * masks) * x).sum(-1)
    mean, std = (W @ x[0])[0], np.sqrt(output_variance(W, x, p)[0, 0])
    spread = max(std, 0.05)
    edges = np.linspace(mean - 3.5 * spread, mean + 3.5 * spread, 22)
    centers = (edges[1:] + edges[:-1]) / 2
    share = np.histogram(outputs[:, 0], edges)[0] / DRAWS
    normal = np.exp(-0.5 * ((centers - mean) / spread) ** 2) / (spread * np.sqrt(2 * np.pi)) * (edges[1] - edges[0])
    curves = {"200 draws": share} | ({"Gaussian": normal} if p else {})
    both = (outputs[:, 0] - outputs[:, 0].mean()) * (outputs[:, 1] - outputs[:, 1].mean())
    scale = outputs[:, 0].std() * outputs[:, 1].std()
    together = both.mean() / scale if scale > 1e-9 else 0.0
    return (
        heatmap(np.where(masks[0] > 0, W * masks[0], np.nan), x="input", y="output", value="weight", signed=True,
                caption="The weights under the first mask; dropped ones are empty. DropConnect draws for each weight, dropout for each column."),
        line(curves, at=centers, x="output of the first unit", y="share of the draws", dashed=["Gaussian"] if p else [],
             marks={"evaluation": mean}, caption="Outputs over 200 masks, against a Gaussian with the mean of evaluation and the variance p/(1−p) Σ w²x². With few inputs it fits badly."),
        f"Mean {outputs[:, 0].mean():.2f} and deviation {outputs[:, 0].std():.2f}; by the formulas {mean:.2f} and {std:.2f}. "
        f"Correlation of the first two units: {together + 0.0:.2f}.",
    )
