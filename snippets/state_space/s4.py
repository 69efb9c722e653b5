"""S4D in NumPy: a long kernel as a sum of damped oscillations."""

import numpy as np


def poles(N, init="lin"):
    """One of each conjugate pair: N/2 complex numbers with negative real part."""
    n = np.arange(N // 2)
    if init == "lin":  # a Fourier series on a window that fades
        return -0.5 + 1j * np.pi * n
    if init == "inv":  # close to those of HiPPO
        return -0.5 + 1j * N / np.pi * (N / (2 * n + 1) - 1)
    rng = np.random.default_rng(0)
    return -rng.uniform(0.1, 3.0, N // 2) + 1j * np.pi * rng.uniform(0, N // 2, N // 2)


def basis(A, dt, L):
    """exp(t dt A), the response of each state to a single 1: (L, N/2)."""
    return np.exp(np.arange(L)[:, None] * (dt * A))


def kernel(A, C, dt, L):
    """K[t] = 2 Re sum_n C_n (exp(dt A_n) - 1)/A_n exp(t dt A_n): the 2 is for the conjugates."""
    return 2 * (basis(A, dt, L) @ (C * np.expm1(dt * A) / A)).real


def run(A, C, dt, x):
    """The same as a recurrence: N/2 complex numbers of state."""
    h, y = np.zeros(len(A), complex), []
    for x_t in x:
        h = np.exp(dt * A) * h + x_t
        y.append(2 * (C * np.expm1(dt * A) / A * h).sum().real)
    return np.array(y)


def fit(A, dt, target):
    """The C with the least squared error of the kernel; large C cost a little, or nearly equal states would cancel."""
    columns = 2 * basis(A, dt, len(target)) * (np.expm1(dt * A) / A)
    parts = np.hstack([columns.real, -columns.imag])
    size = np.sqrt((parts**2).sum(0) + 1e-12)
    parts = parts / size
    found = np.linalg.solve(parts.T @ parts + 1e-4 * np.eye(parts.shape[1]), parts.T @ target) / size
    return found[: len(A)] + 1j * found[len(A) :]


# %% demo
from snippets.live import choice, demo, line, scatter, slider

L = 256
NAMES = {"S4D-Lin": "lin", "S4D-Inv": "inv", "random": "random"}


@demo(
    init=choice(*NAMES, label="poles"),
    N=slider(2, 64, step=2, label="numbers of state N"),
    dt=slider(0.001, 0.1, log=True, label="time between samples dt"),
    delay=slider(1, 200, label="delay wanted", unit="samples"),
)
def show(init="S4D-Lin", N=32, dt=0.01, delay=80):
    """The kernel wanted is a pulse after a delay: a memory of one moment. Raise the delay until the fit dies: the state has forgotten. Lower dt, and it
    remembers for longer, in less detail. Raise N for the detail. Choose random poles: the same N do worse."""
    t = np.arange(L)
    target = np.exp(-0.5 * ((t - delay) / 4) ** 2)
    fits = {}
    for name, kind in NAMES.items():
        A = poles(N, kind)
        fits[name] = kernel(A, fit(A, dt, target), dt, L)
    error = {name: np.sqrt(((k - target) ** 2).sum() / (target**2).sum()) for name, k in fits.items()}
    A = poles(N, NAMES[init])
    shown = basis(A, dt, L).real
    some = sorted({0, min(1, N // 2 - 1), min(3, N // 2 - 1), N // 2 - 1})
    edge = 1 / dt  # so fast that a sample is a radian
    groups = {name: np.stack([poles(N, kind).real, np.minimum(poles(N, kind).imag, 120)], 1) for name, kind in NAMES.items()}
    return (
        line({"wanted": (t, target), "fit": (t, np.clip(fits[init], -0.5, 1.25))}, dashed=["wanted"], range_y=(-0.5, 1.25),
             x="samples since the input", y="weight", caption=f"The kernel that {N} numbers of state come closest with."),
        line({f"pole {i + 1}": (t, shown[:, i]) for i in some}, range_y=(-1, 1), x="samples since the input", y="real part",
             caption="What it is made of: some of the oscillations exp(t dt A). All the fit can do is to weigh and shift them."),
        scatter(groups, x="real part: how fast it fades", y="imaginary part: how fast it turns", range_x=(-3.2, 0.2), range_y=(-5, 125),
                caption=f"The first poles, for {N} numbers of state; those above 120 are drawn there. S4D-Inv spreads from slow to very fast; "
                f"with dt = {dt:.3g} a pole at {edge:,.0f} turns by a radian a sample."),
        "Error of the fit: " + ", ".join(f"{name} {100 * e:.0f} %" for name, e in error.items())
        + f". Every state fades to {100 * np.exp(-dt * delay / 2):.3g} % in {delay} samples (Lin and Inv).",
    )
