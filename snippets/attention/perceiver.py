"""Perceiver attention in NumPy: a few latents read many inputs."""

import numpy as np

from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def perceive(latents, x, wq, wk, wv, wo):
    """Latents (M, D) ask, inputs (S, C) answer: M x S scores, and M rows come out, however large S is."""
    read, _ = scaled_dot_product_attention(latents @ wq, x @ wk, x @ wv)
    return read @ wo


def attend_and_move(latents, x, temperature):
    """Without projections, and with the score -|latent - input|² / 2: each latent moves to the mean of what is near it.

    As |latent|² is the same for a whole row, it cancels: what is left is a dot product with one more coordinate.
    """
    keys = np.hstack((x, -0.5 * np.sum(x**2, 1, keepdims=True)))
    queries = np.hstack((latents, np.ones((len(latents), 1))))
    moved, _ = scaled_dot_product_attention(queries, keys, x, scale=1 / temperature)
    return moved


# %% demo
from snippets.live import bars, demo, scatter, slider, toggle

CENTRES = np.array([[-2.0, -1.0], [2.0, -1.2], [0.2, 2.0]])
POINTS = CENTRES[np.arange(200) % 3] + 0.45 * np.random.default_rng(0).normal(size=(200, 2))


@demo(
    n_latents=slider(1, 8, label="latents"),
    temperature=slider(0.05, 2.0, step=0.05, label="temperature"),
    steps=slider(0, 10, label="times read"),
    alike=toggle(label="latents start alike"),
)
def show(n_latents=4, temperature=0.4, steps=4, alike=False):
    """Let the latents read again and again: they settle on the clusters. Raise the temperature, or let them start alike."""
    latents = np.random.default_rng(9).normal(size=(n_latents, 2)) * 2
    if alike:
        latents[:] = latents[0]
    paths = [latents]
    for _ in range(steps):
        paths.append(attend_and_move(paths[-1], POINTS, temperature))
    paths = np.array(paths)
    ends = np.unique(paths[-1].round(1), axis=0)  # latents that ended in the same place
    distance = np.linalg.norm(POINTS[:, None] - ends, axis=2)
    lost, places = np.sqrt((distance.min(1) ** 2).mean()), len(ends)
    owner = distance.argmin(1)
    near = {f"nearest to place {m + 1}": POINTS[owner == m] for m in range(places) if (owner == m).any()}
    if len(near) > 4:
        near = {"inputs": POINTS}
    return (
        scatter(
            {"latents": paths[-1], **near}, x="first coordinate", y="second coordinate", equal=True, range_x=(-4, 4), range_y=(-3, 4),
            lines={"latents": [paths[:, m] for m in range(n_latents)] if steps else []},
            caption="200 inputs, and the way of each latent. In each reading a latent moves to the mean of the inputs, weighted by nearness.",
        ),
        bars(
            {"latents · inputs": n_latents * 200, "inputs²": 200 * 200}, y="scores of a reading", log_y=True,
            caption="What a reading costs, against full self-attention over the inputs.",
        ),
        f"{n_latents} latents stand at {places} different place{'s' * (places > 1)}; an input is {lost:.2f} away from the nearest, "
        "typically. That is what the bottleneck loses.",
    )
