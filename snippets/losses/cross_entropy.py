"""Cross-entropy in NumPy."""

import numpy as np

from snippets.activations.log_softmax import log_softmax


def cross_entropy(logits, target, weight=None):
    """Loss of each row: minus the log-probability of its target, times the weight of that class."""
    rows = np.arange(len(logits))
    loss = -log_softmax(logits)[rows, target]  # never log(softmax): it would be infinite for a hopeless class
    return loss if weight is None else weight[target] * loss


def push(logits, target):
    """Derivative by the logits: the probabilities, minus 1 at the truth."""
    gradient = np.exp(log_softmax(logits))
    gradient[np.arange(len(logits)), target] -= 1
    return gradient


# %% demo
from snippets.live import bars, choice, demo, line, slider

CLASSES = ("cat", "dog", "owl", "fox", "bee")


def logit(name):
    return slider(-6.0, 6.0, step=0.1, label=f"logit of {name}")


@demo(cat=logit("cat"), dog=logit("dog"), owl=logit("owl"), fox=logit("fox"), bee=logit("bee"), truth=choice(*CLASSES, label="truth"))
def show(cat=1.0, dog=3.0, owl=0.0, fox=-1.0, bee=-2.0, truth="cat"):
    """Raise the logit of the truth until the loss is nearly flat, then that of a wrong class. Who is pushed, and how hard?"""
    z = np.array([[cat, dog, owl, fox, bee]], float)
    target = np.array([CLASSES.index(truth)])
    loss, gradient = cross_entropy(z, target)[0], push(z, target)[0]
    p = np.exp(log_softmax(z))[0]

    at = np.linspace(-12, 12, 121)
    rows = np.repeat(z, len(at), 0)
    rows[:, target[0]] = at
    rivals = np.log(np.exp(np.delete(z[0], target[0])).sum())  # the logit at which the truth has probability one half
    own = float(z[0, target[0]])
    return (
        bars(dict(zip(CLASSES, z[0])), y="logit", range_y=(-6, 6), caption="What the network says."),
        bars({"probability": dict(zip(CLASSES, p)), "gradient": dict(zip(CLASSES, gradient))}, y="probability and gradient", range_y=(-1, 1),
             caption=f"The gradient is the probability, minus 1 for the truth ({truth}). The bars of the gradient add up to 0: what the truth "
                     "gains, the wrong classes lose in proportion to their probability."),
        line({"loss": (at, cross_entropy(rows, np.repeat(target, len(at)))), "rivals − logit": (at, np.where(at < rivals, rivals - at, np.nan)),
              "now": ([own], [loss])},
             x=f"logit of the truth, {truth}", y="loss", dashed=["rivals − logit"], markers=["now"], range_y=(0, 18), marks={"p = 1/2": rivals},
             caption="On the wrong side the loss is a straight line: the push stays near 1 however wrong the network is. "
                     "On the right side it fades exponentially."),
        f"{truth} has probability {p[target[0]]:.3f}: the loss is {loss:.3f}, against ln 5 = 1.609 for a network that knows nothing.",
    )
