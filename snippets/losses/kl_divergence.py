"""Kullback-Leibler divergence in NumPy."""

import numpy as np


def integrand(p, q):
    """What each place adds: p where it is, times the logarithm of how far q falls short."""
    safe = np.where(p > 0, p, 1)
    with np.errstate(divide="ignore"):
        return np.where(p > 0, p * (np.log(safe) - np.log(q)), 0.0)


def kl(p, q, width=1.0):
    """KL(p || q) over the last axis; for densities, `width` is that of a cell."""
    return integrand(p, q).sum(-1) * width


def kl_gauss(mean, sigma):
    """Of a Gaussian from the standard one, in closed form."""
    return (mean**2 + sigma**2 - 1) / 2 - np.log(sigma)


# %% demo
from snippets.live import demo, line, slider, toggle


def bell(x, mean, sigma):
    return np.exp(-(((x - mean) / sigma) ** 2) / 2) / (sigma * np.sqrt(2 * np.pi))


X = np.linspace(-7, 7, 281)
WIDTH = X[1] - X[0]
TRUTH = 0.65 * bell(X, -1.6, 0.5) + 0.35 * bell(X, 1.6, 0.5)
MEANS = np.linspace(-3, 3, 121)


def best(reverse):
    """Mean and sigma with the least divergence. Forward: those of the truth itself. Reverse: tried out."""
    if not reverse:
        mean = (X * TRUTH).sum() * WIDTH
        return mean, np.sqrt(((X - mean) ** 2 * TRUTH).sum() * WIDTH)
    means, sigmas = (a.ravel()[:, None] for a in np.meshgrid(MEANS[::4], np.linspace(0.3, 1.2, 10)))
    least = kl(bell(X, means, sigmas), TRUTH, WIDTH).argmin()
    return means[least, 0], sigmas[least, 0]


@demo(
    mean=slider(-3.0, 3.0, step=0.05, label="mean of q"),
    sigma=slider(0.2, 3.0, step=0.05, label="σ of q"),
    reverse=toggle(label="reverse: KL(q ‖ p)"),
)
def show(mean=0.5, sigma=1.0, reverse=False):
    """Fit one bell to two bumps. Find the best mean and σ, then turn the direction round and find them again."""
    q = bell(X, mean, sigma)
    first, second = (q, TRUTH) if reverse else (TRUTH, q)
    name = "KL(q ‖ p)" if reverse else "KL(p ‖ q)"
    here, (m, s) = kl(first, second, WIDTH), best(reverse)
    both = {"forward": np.array([kl(TRUTH, bell(X, a, sigma), WIDTH) for a in MEANS]), "reverse": np.array([kl(bell(X, a, sigma), TRUTH, WIDTH) for a in MEANS])}
    seen = np.abs(X) <= 5
    least = kl(bell(X, m, s), TRUTH, WIDTH) if reverse else kl(TRUTH, bell(X, m, s), WIDTH)
    what = "sits on the larger bump and ignores the other" if reverse else "covers both bumps, and is high between them, where p has nothing"
    return (
        line({"p": TRUTH[seen], "q": q[seen], "best q": bell(X, m, s)[seen]}, at=X[seen], x="x", y="density", dashed=["best q"], range_y=(0, 0.9),
             caption=f"The best bell in this direction {what}."),
        line({name: integrand(first, second)[seen]}, at=X[seen], x="x", y="contribution", range_y=(-0.5, 2), levels={"0": 0.0},
             caption=f"What each place adds to {name}. It counts where the first distribution is, and most where the second is missing."),
        line({name_: np.where(values < 12, values, np.nan) for name_, values in both.items()}, at=MEANS, x="mean of q, with this σ", y="divergence (nats)",
             range_y=(0, 12), marks={"now": mean},
             caption="Both directions over the mean. With a small σ the reverse one has two valleys, one for each bump; the forward one always has one."),
        f"{name} is {here:.3f} nats = {here / np.log(2):.3f} bits. The best is {least:.3f}, at mean {m:.2f} and σ {s:.2f}.",
    )
