"""Spectral normalization in NumPy."""

import numpy as np


def power_iteration(W, u, n=1):
    """Estimate of the largest singular value of W after n steps, with its vectors u and v."""
    for _ in range(n):
        v = W.T @ u
        v = v / np.linalg.norm(v)
        u = W @ v
        u = u / np.linalg.norm(u)
    return u @ W @ v, u, v


def conv_spectral_norm(kernel, height, width):
    """Exact norm of a circular convolution: one small matrix per frequency, kernel (O, C, k, k)."""
    per_frequency = np.fft.fft2(kernel, (height, width)).transpose(2, 3, 0, 1)
    return np.linalg.svd(per_frequency, compute_uv=False).max()


# %% demo
from snippets.live import demo, line, scatter, slider


@demo(
    s1=slider(0.1, 5.0, step=0.1, label="singular value s₁"),
    s2=slider(0.1, 5.0, step=0.1, label="singular value s₂"),
    angle=slider(0, 180, label="angle of s₁'s axis", unit="°"),
    steps=slider(0, 20, label="iterations"),
)
def show(s1=3.0, s2=2.0, angle=50, steps=3):
    """Bring s₂ close to s₁: the iterate crawls. Try 90°: it starts at right angles to the longest axis and never finds it."""
    a = np.radians(angle)
    axes = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    W = axes @ np.diag([s1, s2]) @ np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]]).T
    start = np.array([1.0, 0.0])
    true = max(s1, s2)
    estimates = [1 / np.linalg.norm(np.linalg.solve(W, start))]  # how far W stretches what it sends in the first direction
    tips = [start * estimates[0]]
    for n in range(1, 21):
        sigma, u, _ = power_iteration(W, start, n)
        estimates.append(sigma)
        tips.append(u * sigma)
    turn = np.linspace(0, 2 * np.pi, 73)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    image = circle @ W.T
    sigma = estimates[steps]
    ends = np.array(tips[: steps + 1])
    limit = 1.15 * max(true, 1.3, min(true / sigma, 6.0))
    return (
        scatter({"iterates": ends}, lines={"unit circle": [circle], "image of the circle": [image], "image after dividing by the estimate": [image / sigma],
                                           "iterate": [np.stack([-ends[-1], ends[-1]])]},
                x="first output", y="second output", equal=True, range_x=(-limit, limit), range_y=(-limit, limit),
                caption="W maps the unit circle to an ellipse. Power iteration climbs along the ellipse to its long axis; divided by the exact norm, the ellipse fits into the circle."),
        line({"estimate": estimates}, levels={"largest singular value": true}, marks={"now": steps}, x="iterations", y="estimated spectral norm",
             caption="From below, always: an estimate is never above the truth, so the divided weight is never below norm 1."),
        f"After {steps} iteration{'s' * (steps != 1)} the estimate is {sigma:.4f} of {true:.4f}: the normalised weight still stretches by {true / sigma:.4f}. "
        f"Each further step shrinks the error by (s₂/s₁)⁴ = {(min(s1, s2) / true) ** 4:.3f}.",
    )
