"""A linear state space in NumPy: sampled, run step by step, and as one long kernel."""

import numpy as np

from snippets.state_space.hippo import expm


def discretize(A, B, dt, method="zoh"):
    """dh/dt = A h + B x becomes h <- Ad h + Bd x, for samples dt apart."""
    N = len(B)
    rate = np.zeros((N + 1, N + 1))  # state and input together: A need not be inverted
    rate[:N, :N], rate[:N, N] = A * dt, B * dt
    one = np.eye(N + 1)
    if method == "zoh":  # exact if the input stands still between samples
        both = expm(rate)
    elif method == "bilinear":  # half a step backwards, half a step forwards
        both = np.linalg.solve(one - rate / 2, one + rate / 2)
    else:  # Euler: a straight line along the slope at the start
        both = one + rate
    return both[:N, :N], both[:N, N]


def run(Ad, Bd, C, x):
    """The recurrence: one step for each sample."""
    h, y = np.zeros(len(Bd)), []
    for x_t in x:
        h = Ad @ h + Bd * x_t
        y.append(C @ h)
    return np.array(y)


def kernel(Ad, Bd, C, L):
    """The same system as a convolution: its response to a single 1, of twice as many states in each round."""
    states, power = Bd[:, None], Ad
    while states.shape[1] < L:
        states = np.hstack([states, power @ states])
        power = power @ power
    return C @ states[:, :L]


# %% demo
from snippets.live import choice, demo, line, scatter, slider


@demo(
    damping=slider(0.0, 2.0, step=0.05, label="damping (1: no overshoot)"),
    frequency=slider(0.1, 5.0, step=0.1, label="frequency", unit="Hz"),
    dt=slider(0.01, 1.0, log=True, label="time between samples dt", unit="s"),
    method=choice("zoh", "bilinear", "Euler", label="discretization"),
    drive=choice("step", "chirp", label="input"),
)
def show(damping=0.2, frequency=1.0, dt=0.1, method="zoh", drive="step"):
    """A weight on a spring, pushed. Choose Euler: its poles leave the circle and the output explodes, though the spring is stable. Raise dt:
    zoh stays on the true curve for a step, bilinear stays stable but rings at a wrong pitch."""
    w = 2 * np.pi * frequency
    A, B, C = np.array([[0.0, 1.0], [-w * w, -2 * damping * w]]), np.array([0.0, w * w]), np.array([1.0, 0.0])
    seconds = float(np.clip(4 / frequency, 4, 20))

    def push(t):
        return np.ones_like(t) if drive == "step" else np.sin(np.pi * 2 * frequency * t**2 / seconds)

    fine = seconds / 500
    t_fine, t = np.arange(501) * fine, np.arange(int(seconds / dt)) * dt
    K_fine = kernel(*discretize(A, B, fine), C, 500)  # steps so small that the hold does not matter
    exact = np.append(0.0, np.convolve(push(t_fine[:-1]), K_fine)[:500])
    response = np.append(0.0, K_fine / fine)
    Ad, Bd = discretize(A, B, dt, method)
    with np.errstate(all="ignore"):
        y = run(Ad, Bd, C, push(t))
        K = kernel(Ad, Bd, C, len(t)) / dt
    top = float(np.ceil(12 * np.abs(response).max()) / 10)
    poles = np.linalg.eigvals(Ad)
    radius, angle = np.abs(poles).max(), np.linspace(0, 2 * np.pi, 60)

    def held(v, limit):  # an explosion stays at the edge of the picture
        return np.clip(np.nan_to_num(v, nan=limit, posinf=limit, neginf=-limit), -limit, limit)

    verdict = "stable" if radius < 1 - 1e-9 else "on the edge: it rings for ever" if radius < 1 + 1e-9 else "unstable: it explodes"
    return (
        line({"exact": (t_fine, exact), "sampled": (t + dt, held(y, 3.0))}, markers=["sampled"], range_y=(-3, 3), x="time (s)",
             y="position", caption=f"The spring's answer to a {drive}. Dots beyond the picture are drawn at its edge."),
        line({"exact": (t_fine, response), "K / dt": (t + dt, held(K, top))}, markers=["K / dt"], range_y=(-top, top), x="time since (s)",
             y="weight (1/s)", caption="The kernel: how much an input counts a time later. Convolved with the input it gives the dots above."),
        scatter({"poles": np.stack([held(poles.real, 3.0), held(poles.imag, 3.0)], 1)}, x="real part", y="imaginary part", equal=True, range_x=(-3, 3),
                range_y=(-3, 3), lines={"stable inside": [np.stack([np.cos(angle), np.sin(angle)], 1)]},
                caption="Eigenvalues of Ad. Each step multiplies by them: outside the circle that grows."),
        f"{method}: the largest eigenvalue of a step is {radius:.3f}; {verdict}.",
    )
