"""Any two optimizers of the site, on the same surface."""

from importlib import import_module

# Where each is, what its step is called, and the options that a race of 60 steps needs. A file is only loaded when it is chosen.
METHODS = {
    "SGD": ("sgd", "sgd_step", {}),
    "momentum": ("sgd", "sgd_step", {"momentum": 0.9}),
    "Nesterov": ("sgd", "sgd_step", {"momentum": 0.9, "nesterov": True}),
    "Adagrad": ("adagrad", "adagrad_step", {}),
    "RMSprop": ("rmsprop", "rmsprop_step", {}),
    "Adadelta": ("adadelta", "adadelta_step", {"eps": 1e-3}),
    "Adam": ("adam", "adam_step", {}),
    "AdamW": ("adamw", "adamw_step", {}),
    "Adan": ("adan", "adan_step", {"weight_decay": 0.0}),
    "NovoGrad": ("novograd", "novograd_step", {}),
    "Adafactor": ("adafactor", "adafactor_step", {}),
    "Lion": ("lion", "lion_step", {}),
    "LARS": ("lars", "lars_step", {"trust": 0.1, "weight_decay": 0.0}),
    "LAMB": ("lamb", "lamb_step", {"weight_decay": 0.0}),
    "Muon": ("muon", "muon_step", {"weight_decay": 0.0}),
    "Shampoo": ("shampoo", "shampoo_step", {"graft": False, "every": 1}),
    "schedule-free": ("schedule_free", "schedule_free_step", {}),
}


SPECIAL = ("Sophia", "SAM", "Lookahead")  # these need more than a gradient, or another optimizer


def load(file):
    """A file of this family."""
    return import_module(f"snippets.optimizers.{file}")


def method(name, place):
    """The function step(w, g, state, t, lr) of an optimizer, on this surface."""
    if name == "Sophia":
        sophia = load("sophia")
        return lambda w, g, state, t, lr: sophia.sophia_step(w, g, state, t, lr, (0.9, 0.5), 0.3, 0.0, h=sophia.curvature(place, w))
    if name == "SAM":  # around SGD; the noise is that of the batch, the same at both points
        gradient = load("sam").sam_gradient
        return lambda w, g, state, t, lr: w - lr * (gradient(place.gradient, w, 0.05) + g - place.gradient(w))
    if name == "Lookahead":
        lookahead, sgd = load("lookahead").lookahead, load("sgd").sgd_step
        return lambda w, g, state, t, lr: lookahead(lambda *a: sgd(*a, lr=lr, momentum=0.9), w, g, state, t)
    file, function, options = METHODS[name]
    step = getattr(load(file), function)
    return lambda w, g, state, t, lr: step(w, g, state, t, lr=lr, **options)


# %% demo
from functools import lru_cache

from snippets.live import choice, demo, slider
from snippets.optimizers.arena import NAMES, RATES, best_rate, descend, loss, race, surface

ALL = (*METHODS, *SPECIAL)


@lru_cache(maxsize=200)
def best(name, place, steps):
    """The best rate and the path at it."""
    step = method(name, place)
    lr = best_rate(step, place, steps)
    return lr, descend(lambda *a: step(*a, lr=lr), place, steps)


@demo(
    one=choice(*ALL, label="optimizer"),
    two=choice(*ALL, label="against"),
    ground=choice(*NAMES, label="surface"),
    steps=slider(20, 150, step=10, label="steps"),
    condition=slider(1, 200, label="condition number of the bowls", log=True),
    noise=slider(0.0, 2.0, step=0.1, label="gradient noise (on the noisy bowl)"),
)
def show(one="momentum", two="Adam", ground="turned bowl", steps=60, condition=20, noise=0.5):
    """Turn the bowl: what has a rate for each weight suffers, what is built on the gradient alone does not notice. Then try the other surfaces."""
    place = surface(ground, float(condition), float(noise))
    found = {name: best(name, place, steps) for name in (one, two)}
    ends = {name: loss(path, place)[-max(steps // 10, 1):].mean() for name, (_, path) in found.items()}
    rates = " and ".join(f"{name} {lr:.2g}" for name, (lr, _) in found.items())
    result = "; ".join(f"{name} {max(end, 1e-8):.2g}" for name, end in ends.items())
    return (
        *race({name: path for name, (_, path) in found.items()}, place, beside=False,
              caption=f"Each at the best of ten rates from {RATES[0]:.2g} to {RATES[-1]:.2g}: {rates}."),
        f"Loss above the lowest, mean of the last tenth of the steps: {result}. One surface with two weights says how a method moves, "
        "not which is better for a network.",
    )
