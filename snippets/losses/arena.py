"""Where the losses meet: value and gradient of each against the error, the logit or the distance."""

import numpy as np

from snippets.live import line


def slope(loss, at):
    """Derivative of ``loss`` at each of the points, from its values next to them."""
    h = 1e-5
    return (loss(at + h) - loss(at - h)) / (2 * h)


def value_and_gradient(losses, at, x, dashed=(), range_value=None, range_gradient=None, marks=None, caption=""):
    """Two figures over ``at``: the values of ``{name: loss(array) -> array}``, and their derivatives."""
    return (
        line({name: loss(at) for name, loss in losses.items()}, at=at, x=x, y="loss", dashed=dashed, range_y=range_value, marks=marks,
             caption=caption or "The value: what is reported."),
        line({name: slope(loss, at) for name, loss in losses.items()}, at=at, x=x, y="gradient", dashed=dashed, range_y=range_gradient, marks=marks,
             levels={"0": 0.0}, caption="The gradient: what training feels. Where it is near 0 nothing is learned, whatever the value."),
    )
