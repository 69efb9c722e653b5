"""HiPPO in NumPy: a signal compressed, while it is read, into the coefficients of a polynomial."""

import numpy as np

from snippets.ops import matmul


def hippo(N, window=False):
    """A and B of dc/dt = (A c + B f) / (length of what is remembered): all of the past, or a window."""
    n = np.arange(N)
    weight = np.sqrt(2.0 * n + 1)
    if window:  # LegT
        sign = np.where(n[:, None] < n, (-1.0) ** (n - n[:, None]), 1.0)
        return -np.outer(weight, weight) * sign, weight
    return -np.outer(weight, weight) * np.tri(N, k=-1) - np.diag(n + 1.0), weight  # LegS


def expm(A):
    """Matrix exponentials: a Taylor series of A / 2^s, squared s times."""
    s = int(np.ceil(np.log2(np.abs(A).sum(-1).max(initial=1.0)))) + 1
    term = total = np.broadcast_to(np.eye(A.shape[-1]), A.shape)
    for k in range(1, 13):
        term = matmul(term, A / (2.0**s * k))
        total = total + term
    for _ in range(s):
        total = matmul(total, total)
    return total


def memory(f, N, window=None):
    """Signal (T,) -> coefficients after each sample (T, N)."""
    A, _ = hippo(N, window is not None)
    t = np.arange(2, len(f) + 1.0)
    # The whole past: a sample counts for less the more have been read, 1/t, or log(t) - log(t-1) exactly.
    steps = expm(A * np.log(t / (t - 1))[:, None, None]) if window is None else [expm(A / window)] * len(t)
    still = np.eye(N)[0]  # what a signal that stands still has for coefficients
    c = np.zeros(N) if window else f[0] * still
    seen = [f[0] * still + expm(A / window) @ (c - f[0] * still) if window else c]
    for f_t, step in zip(f[1:], steps):
        seen.append(f_t * still + step @ (seen[-1] - f_t * still))
    return np.stack(seen)


def reconstruct(c, t):
    """The polynomial with these coefficients, at points from 0 (oldest) to 1 (now)."""
    return np.polynomial.legendre.legval(2 * t - 1, c * np.sqrt(2.0 * np.arange(len(c)) + 1))


# %% demo
from snippets.live import bars, choice, demo, line, slider

T, WINDOW = 96, 24


@demo(
    N=slider(2, 32, label="numbers kept N"),
    time=slider(0.0, 1.0, step=0.02, label="time read so far"),
    frequency=slider(1, 10, label="frequency of the signal"),
    signal=choice("sines", "noise", label="signal"),
    method=choice("LegS", "LegT", label="memory: all (LegS) or a window (LegT)"),
)
def show(N=10, time=0.8, frequency=3, signal="sines", method="LegS"):
    """Move the time: with LegS the same N numbers cover ever more past, and detail goes. LegT keeps the last quarter only, at the same
    detail for ever. Raise N until the wiggles come back."""
    x = np.arange(T) / T
    if signal == "sines":
        f = 0.7 * np.sin(2 * np.pi * frequency * x) + 0.4 * np.sin(2 * np.pi * (1.7 * frequency + 0.3) * x + 1)
    else:
        raw = np.fft.rfft(np.random.default_rng(0).normal(size=T))
        raw[2 * frequency + 1:] = 0
        f = np.fft.irfft(raw, T)
        f = f / np.abs(f).max()
    read = max(1, int(round(time * T)))
    window = WINDOW if method == "LegT" else None
    c = memory(f[:read], N, window)[-1]
    span = window or read
    past = np.arange(max(read - span, 0), read)
    drawn = reconstruct(c, (past + 0.5 - (read - span)) / span)  # a sample stands for the middle of its step
    error = np.sqrt(np.mean((drawn - f[past]) ** 2)) / max(np.sqrt(np.mean(f[past] ** 2)), 1e-12)
    return (
        line({"signal": (np.arange(T) / (T - 1), f), "from memory": (past / (T - 1), np.clip(drawn, -1.5, 1.5))}, dashed=["signal"],
             marks={"now": read / T}, range_y=(-1.5, 1.5), x="time", y="value",
             caption=f"The signal, and what {N} numbers still say about {'its last quarter' if window else 'all of it up to now'}."),
        bars({str(n): round(float(v), 2) for n, v in enumerate(c[:10])}, x="degree of the polynomial", y="coefficient", range_y=(-1, 1),
             caption=f"{'The first 10 of the' if N > 10 else 'The'} {N} numbers. If the last ones are small, N is large enough."),
        f"{min(read, span)} samples kept as {N} numbers; the reconstruction is off by {100 * min(error, 10):.0f} % (root mean square).",
    )
