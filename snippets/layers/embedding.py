"""An embedding table in NumPy, with its gradient."""

import numpy as np

from snippets.ops import segment_sum, softmax


def embed(table, ids):
    """table (V, D), ids (N,) -> (N, D): one_hot(ids) @ table without the zeros."""
    return table[ids]


def embed_backward(g, ids, n_rows, padding=None):
    """g (N, D), slopes at the rows taken -> (V, D). An id that occurs twice counts twice."""
    d_table = segment_sum(g, ids, n_rows)
    if padding is not None:
        d_table[padding] = 0
    return d_table


def train(table, heads, classes, batches, rate, padding=None):
    """Softmax cross-entropy, heads (C, D) fixed; yields the table and its gradient."""
    for ids in batches:
        p = softmax(embed(table, ids) @ heads.T)
        p[np.arange(len(ids)), classes[ids]] -= 1
        d_table = embed_backward(p @ heads / len(ids), ids, len(table), padding)
        table = table - rate * d_table
        yield table, d_table


# %% demo
from snippets.live import demo, heatmap, scatter, slider, toggle

CLASSES = np.arange(10) % 3


@demo(
    rate=slider(0.01, 1.0, step=0.01, label="learning rate"),
    repeats=slider(1, 5, label="times that id 7 is in a batch"),
    padding=toggle(label="id 0 is padding"),
)
def show(rate=0.5, repeats=1, padding=True):
    """Ten ids, three classes. In the heatmap only the ids of a batch have a gradient. Put id 7 into each batch five times:
    its gradients add up and its row runs ahead. Let id 0 be an id like the others: its row begins to move."""
    rng = np.random.default_rng(0)
    angle = 2 * np.pi * (np.arange(3) / 3 + 0.25)
    heads = 2 * np.column_stack([np.cos(angle), np.sin(angle)])
    start = rng.normal(size=(10, 2)) * 0.5
    if padding:
        start[0] = 0
    batches = [np.concatenate([rng.permutation([0, 1, 2, 3, 4, 5, 6, 8, 9])[:4], [7] * repeats]) for _ in range(100)]
    steps = list(train(start, heads, CLASSES, batches, rate, 0 if padding else None))
    tables = np.stack([start] + [t for t, _ in steps])
    grads = np.stack([np.linalg.norm(g, axis=1) for _, g in steps])
    p = softmax(tables[-1] @ heads.T)
    right = int((p.argmax(1) == CLASSES)[padding:].sum())
    length = np.linalg.norm(tables[-1], axis=1)
    return (
        scatter({f"class {c}": tables[-1][CLASSES == c] for c in range(3)}, equal=True, range_x=(-2.4, 2.4), range_y=(-2.4, 2.4),
                labels={f"class {c}": [str(i) for i in np.nonzero(CLASSES == c)[0]] for c in range(3)},
                lines={"way": [tables[::4, i] for i in range(10)]}, x="first number of a row", y="second",
                caption="The rows after 100 steps and the way they went. Rows of a class gather; the table itself is all that learns."),
        heatmap(grads[:24].T, x="step", y="id", value="length of the gradient", rows=[str(i) for i in range(10)],
                columns=[str(s + 1) for s in range(24)], range=(0, 0.8),
                caption="Who got a gradient in the first 24 steps. All other rows stay exactly where they are."),
        f"{right} of {10 - padding} ids are on the side of their class. Row 7 has come to a length of {length[7]:.2f}, the others to "
        f"{np.delete(length, [0, 7]).mean():.2f} on average; row 0 is {'zero, and stays so' if padding else 'an id like the others'}.",
    )
