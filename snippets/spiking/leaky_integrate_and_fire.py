"""Leaky integrate-and-fire neurons in NumPy."""

import numpy as np


def lif(current, tau=20.0, v_rest=0.0, v_th=1.0, v_reset=0.0, R=1.0, dt=1.0, t_ref=0.0, subtract=False):
    """Spikes and membrane of neurons driven by current (T, ...)."""
    decay = np.exp(-dt / tau)
    refractory = int(np.ceil(t_ref / dt - 1e-9))
    v = np.full(current.shape[1:], v_rest)
    wait = np.zeros(current.shape[1:], int)
    spikes, history = np.zeros(current.shape), np.zeros(current.shape)
    for t, drive in enumerate(current):
        target = v_rest + R * drive                 # where the membrane would settle under this input
        free = target + decay * (v - target)        # exact for an input that is constant during the step
        free = np.where(wait > 0, v, free)
        fires = (free >= v_th) & (wait == 0)
        v = np.where(fires, free - (v_th - v_reset) if subtract else v_reset, free)
        wait = np.where(fires, refractory, np.maximum(wait - 1, 0))
        spikes[t], history[t] = fires, v
    return spikes, history


def firing_rate(current, tau=20.0, v_rest=0.0, v_th=1.0, v_reset=0.0, R=1.0, t_ref=0.0):
    """Spikes per unit of time under constant input; zero below the rheobase."""
    above = np.maximum(R * np.asarray(current, float) + v_rest - v_th, 0.0)
    with np.errstate(divide="ignore"):              # at the rheobase the wait is infinite
        return 1 / (t_ref + tau * np.log((above + v_th - v_reset) / above))


# %% demo
from snippets.live import choice, demo, line, slider


@demo(
    current=slider(0.0, 3.0, step=0.05, label="input current"),
    tau=slider(5, 50, label="membrane time constant", unit="ms"),
    t_ref=slider(0, 10, label="refractory period", unit="ms"),
    dt=choice(0.25, 0.5, 1.0, label="time step (ms)"),
    reset=choice("zero", "subtract", label="reset"),
)
def show(current=1.5, tau=20, t_ref=2, dt=0.5, reset="zero"):
    """Lower the input below 1, the rheobase: the membrane settles and is silent. Raise it and lengthen the refractory period:
    the rate saturates. Take a long step and a short tau: a reset to zero loses spikes that subtraction keeps."""
    subtract = reset == "subtract"
    steps = round(150 / dt)
    spikes, v = lif(np.full((steps, 1), current), tau, dt=dt, t_ref=t_ref, subtract=subtract)
    times = dt * np.arange(1, steps + 1)
    fired = np.flatnonzero(spikes[:, 0])
    shown = v[:, 0].copy()
    shown[fired] = 1.4  # a spike as an experimenter would see it; the model only resets

    inputs = np.linspace(0, 3, 31)
    many, _ = lif(np.broadcast_to(inputs, (round(300 / dt), 31)), tau, dt=dt, t_ref=t_ref, subtract=subtract)
    # From first to last spike: the wait for the first one is not a whole period after the reset.
    first, last = many.argmax(0), len(many) - 1 - many[::-1].argmax(0)
    periods = many.sum(0) - 1
    measured = np.where(periods > 0, 1000 * periods / np.maximum((last - first) * dt, dt), 0.0)
    fine = np.linspace(0, 3, 151)
    rate = 1000 * firing_rate(current, tau, t_ref=t_ref)
    if current <= 1:
        result = f"Silent: the membrane ends at {v[-1, 0]:.3f}, on its way to R·I = {current:g}, below the threshold of 1."
    else:
        result = f"{len(fired)} spikes in 150 ms. The closed form says {rate:.1f} per second, one every {1000 / rate:.1f} ms."
    return (
        line({"membrane": (times, shown)}, x="time (ms)", y="membrane potential", range_y=(-0.1, 1.5), levels={"threshold": 1.0},
             caption="The membrane bends towards R·I. Strokes above the threshold are spikes; after each it stays at the reset for t_ref."),
        line({"simulated": (inputs, measured), "closed form": (fine, 1000 * firing_rate(fine, tau, t_ref=t_ref))},
             x="input current", y="firing rate (1/s)", markers=["simulated"], marks={"now": current},
             caption="Nothing below the rheobase, then a steep rise. Simulated points lie at or under the curve: a spike waits for its step."),
        result,
    )
