"""L2 regularization in NumPy: ridge regression with a polynomial."""

import numpy as np


def l2_penalty(w, lam):
    return 0.5 * lam * (w**2).sum()


def shrinkage(s, lam):
    """What is left along a direction with the singular value s."""
    return s**2 / (s**2 + lam)


def ridge(X, y, lam):
    """The weights with the least squared error and penalty: each singular direction is shrunk on its own."""
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    return Vt.T @ (shrinkage(s, lam) * (U.T @ y) / s)


# %% demo
from snippets.live import bars, demo, line, slider

DEGREE = 12


@demo(
    log_lam=slider(-8.0, 2.0, step=0.25, label="log₁₀ of lam"),
    noise=slider(0.0, 1.0, step=0.05, label="noise of the 16 targets"),
)
def show(log_lam=-2.0, noise=0.3):
    """Go from left to right: the wild curve calms down, the coefficients shrink as a whole, and none becomes zero."""
    rng = np.random.default_rng(4)
    x, grid = np.linspace(-1, 1, 16), np.linspace(-1, 1, 81)
    truth = lambda x: np.sin(3 * x) + 0.5 * x
    y = truth(x) + noise * rng.normal(size=16)
    powers = np.arange(1, DEGREE + 1)
    X, G = x[:, None] ** powers, grid[:, None] ** powers
    mean, spread = X.mean(0), X.std(0)
    X, G = (X - mean) / spread, (G - mean) / spread  # standardized; the intercept is the mean of y, without a penalty
    lams = 10 ** np.arange(-8, 2.01, 0.25)
    every = np.array([ridge(X, y - y.mean(), lam) for lam in lams])
    trained = ((X @ every.T + y.mean() - y[:, None]) ** 2).mean(0)
    tested = ((G @ every.T + y.mean() - truth(grid)[:, None]) ** 2).mean(0)
    lam = 10**log_lam
    w = ridge(X, y - y.mean(), lam)
    s = np.linalg.svd(X, compute_uv=False)
    return (
        line({"ridge": (grid, G @ w + y.mean()), "truth": (grid, truth(grid)), "data": (x, y)}, x="x", y="y", dashed=["truth"], markers=["data"],
             range_y=(-3, 3), caption=f"A polynomial of degree {DEGREE} through 16 points."),
        bars({"at lam": dict(zip(powers, w)), "at 10·lam": dict(zip(powers, ridge(X, y - y.mean(), 10 * lam)))}, x="power of x, standardized", y="coefficient",
             range_y=(-4, 4), caption=f"The norm shrinks as lam grows, though single ones may grow. The smallest at lam has the size {np.abs(w).min():.2g}: none is zero."),
        line({"training data": np.maximum(trained, 1e-4), "truth": np.maximum(tested, 1e-4)}, at=lams, x="lam", y="mean squared error", log_x=True, log_y=True,
             marks={"lam": lam}, caption="The training error only rises with lam. The error against the truth falls first: that is what the penalty is for."),
        f"Effective parameters: {shrinkage(s, lam).sum():.1f} of {DEGREE}. Error against the truth {((G @ w + y.mean() - truth(grid)) ** 2).mean():.3f}, "
        f"lowest at lam = {lams[tested.argmin()]:.1g}.",
    )
