"""A learned position table in NumPy: training pulls the rows that are used, and no others."""

import numpy as np


def gradient(table, target):
    """Of the mean squared difference of the products of all rows and a target; and that mean itself."""
    error = table @ table.T - target
    return 4 * error @ table / error.size, (error**2).mean()


def fit(length, trained, steps=200, rate=0.1, width=16):
    """Trains a table so that nearby positions have large products; only the first rows occur in the data."""
    table = np.random.default_rng(0).normal(0, 0.3, (length, width))
    at = np.arange(trained)
    target = np.exp(-np.abs(at[:, None] - at) / 3)
    losses = []
    for _ in range(steps):
        grad, loss = gradient(table[:trained], target)
        table[:trained] -= rate * trained * grad  # times trained: a row's gradient is a mean over the others
        losses.append(loss)
    return table, np.array(losses)


# %% demo
from snippets.live import demo, heatmap, line, slider


@demo(
    length=slider(8, 32, label="rows of the table"),
    share=slider(0.5, 1.0, step=0.05, label="part that occurs in training"),
    rate=slider(0.01, 0.5, step=0.01, label="learning rate"),
)
def show(length=24, share=0.75, rate=0.1):
    """Train with short texts only: the rows behind them stay as they were drawn. Then let all rows occur."""
    trained = max(2, int(round(share * length)))
    table, losses = fit(length, trained, rate=rate)
    gram = table @ table.T
    distance = np.arange(trained)
    mean = [np.diagonal(gram[:trained, :trained], d).mean() for d in distance]
    known = f"rows 0 to {trained - 1}"
    series = {known: (distance, mean), "asked for": (distance, np.exp(-distance / 3))}
    if trained < length:
        late = gram[trained - 1 :, trained - 1 :][1:, 1:]
        series["rows behind"] = (np.arange(len(late)), [np.diagonal(late, d).mean() for d in range(len(late))])
    return (
        heatmap(gram, x="position", y="position", value="product of rows", signed=True, range=(-1.5, 1.5),
                caption=f"Products of all rows after 200 steps. Up to row {trained - 1} they fall off evenly with the distance. "
                        + ("Behind it they are what was drawn at the start." if trained < length else "All rows were trained.")),
        line(series, x="distance of two positions", y="mean product", dashed=["asked for"], range_y=(-0.6, 2.0),
             caption="What training asked for, what trained rows give, and what the rows give that no text reached."),
        line({"loss": (np.arange(len(losses)), losses)}, x="step", y="mean squared error", log_y=True,
             caption="The loss looks at trained rows only. It says nothing about the others."),
        f"The loss fell from {losses[0]:.2f} to {losses[-1]:.1e}; {length - trained} of {length} rows never had a gradient.",
    )
