"""Step decay in NumPy."""

import numpy as np


def step_decay(step, lr, step_size, gamma=0.1):
    """Learning rate of a step, counted from 0: times gamma after every step_size of them."""
    return lr * gamma ** (np.asarray(step) // step_size)


def multi_step(step, lr, milestones, gamma=0.1):
    """Learning rate of a step, counted from 0: times gamma at each milestone."""
    passed = (np.asarray(step)[..., None] >= np.array(milestones)).sum(-1)
    return lr * gamma**passed


# %% demo
from snippets.live import demo, line, slider
from snippets.schedulers.arena import CURVATURES, beside, expected_loss


def floor(lr, noise):
    """Where the expected loss settles at a constant rate: what a step adds is what it takes away."""
    return sum(lr * noise**2 / (2 - lr * h) / 2 for h in CURVATURES)


@demo(
    step_size=slider(5, 100, step=5, label="steps between drops"),
    gamma=slider(0.05, 0.9, step=0.05, label="factor of a drop"),
    noise=slider(0.0, 2.0, step=0.1, label="noise of the gradient"),
)
def show(step_size=60, gamma=0.3, noise=1.0):
    """Every drop of the rate is a drop of the loss, to the floor of the new rate. Drop too often, and the run freezes where it is."""
    t = np.arange(240)
    rates = step_decay(t, 0.5, step_size, gamma)
    losses = expected_loss(rates, noise)[:-1]
    floors = floor(rates, noise)
    _, race = beside({"step decay": rates}, noise)
    return (
        line({"step decay": rates}, x="step", y="learning rate", log_y=True, steps=True, range_y=(1e-6, 1),
             caption="On a logarithmic axis equal drops are equal steps of a staircase. Rates below a millionth leave the figure."),
        line({"expected loss": np.maximum(losses, 1e-4), "floor of the rate": np.maximum(floors, 1e-4)}, x="step", y="expected loss", log_y=True,
             dashed=["floor of the rate"], caption="The floor is where the loss would settle if the rate stayed: the noise of the gradients, not the landscape. "
             "The sudden fall after a drop is the cloud of weights shrinking in steep directions; flat ones are left above, as they hardly move any more."),
        race,
        f"The last rate is {rates[-1]:.2g}. Expected loss at the end: {losses[-1]:.3g}; its floor at that rate is {floors[-1]:.2g}.",
    )
