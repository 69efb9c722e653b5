"""Three small problems, four optimizers, many learning rates at once, in NumPy."""

from functools import partial

import numpy as np

from snippets.optimizers.adagrad import adagrad_step
from snippets.optimizers.adam import adam_step
from snippets.optimizers.sgd import sgd_step

OPTIMIZERS = {"SGD": sgd_step, "momentum": partial(sgd_step, momentum=0.9), "Adagrad": adagrad_step, "Adam": adam_step}
RATES = 10.0 ** np.arange(-4, 0.5, 0.5)  # the tuning budget, the same for all


def train(problem, step, rates, steps=60):
    """Losses after training once with each of the rates, as shares of the loss of the best constant answer; at most 2."""
    rates = np.atleast_1d(rates)[:, None]
    w, state = np.tile(problem.start, (len(rates), 1)), {}  # one row for each rate
    with np.errstate(all="ignore"):  # rates that are too high end at infinity
        for t in range(1, steps + 1):
            w = step(w, problem.gradient(w, t), state, t, lr=rates)
        share = problem.loss(w) / problem.constant
    return np.where(share < 2, share, 2.0)


def tuned(problem, step):
    """The best loss over the budget, and its rate."""
    losses = train(problem, step, RATES)
    return losses.min(), RATES[losses.argmin()]


# %% demo
from functools import lru_cache

from snippets.live import choice, demo, heatmap, line, slider
from snippets.ops import matmul


class Regression:
    """Eight inputs of unequal scale, one linear answer; noise is added to the targets."""

    def __init__(self, noise, batch=16, steps=60):
        rng = np.random.default_rng(0)
        scale, truth = np.geomspace(0.2, 2, 8), rng.normal(0, 1, 8)
        self.x = rng.normal(0, 1, (steps, batch, 8)) * scale
        self.y = self.x @ (truth / scale) + noise * np.sqrt(8) * rng.normal(0, 1, (steps, batch))
        self.test = rng.normal(0, 1, (256, 8)) * scale
        self.answers = self.test @ (truth / scale)
        self.start, self.constant = np.zeros(8), self.answers.var()

    def gradient(self, w, t):
        x = self.x[t - 1]
        return 2 * (w @ x.T - self.y[t - 1]) @ x / len(x)

    def loss(self, w):
        return ((w @ self.test.T - self.answers) ** 2).mean(1)


class Words:
    """Texts of four words out of sixty, most of them rare: good or bad on balance? Noise replaces labels by chance."""

    def __init__(self, noise, batch=32, steps=60, many=60):
        rng = np.random.default_rng(1)
        frequency, worth = 1 / np.arange(1, many + 1), rng.normal(0, 1, many)
        words = rng.choice(many, (steps * batch + 512, 4), p=frequency / frequency.sum())
        counts, good = np.zeros((len(words), many)), worth[words].sum(1) > 0
        np.add.at(counts, (np.arange(len(words))[:, None], words), 1)
        label = np.where(rng.random(len(words)) < noise, rng.random(len(words)) < 0.5, good)
        self.x, self.y = counts[:-512].reshape(steps, batch, many), label[:-512].reshape(steps, batch)
        self.test, self.answers = counts[-512:], good[-512:]
        self.start, self.constant = np.zeros(many), entropy(self.answers.mean())

    def gradient(self, w, t):
        x = self.x[t - 1]
        return matmul(probability(w @ x.T) - self.y[t - 1], x) / len(x)

    def loss(self, w):
        return np.logaddexp(0, np.where(self.answers, -1, 1) * (w @ self.test.T)).mean(1)


class Memory:
    """Six recurrent tanh units hear a sign, then five steps of murmur, and say the sign. Noise replaces labels by chance."""

    def __init__(self, noise, batch=16, steps=60, time=6, units=6):
        rng = np.random.default_rng(2)
        sign = rng.integers(0, 2, steps * batch + 128)
        heard = 0.3 * rng.normal(0, 1, (len(sign), time))
        heard[:, 0] = 2 * sign - 1
        label = np.where(rng.random(len(sign)) < noise, rng.random(len(sign)) < 0.5, sign == 1)
        self.x, self.y = heard[:-128].reshape(steps, batch, time), label[:-128].reshape(steps, batch)
        self.test, self.answers, self.units = heard[-128:], sign[-128:] == 1, units
        self.start = rng.normal(0, 1, units * (units + 2)) / np.sqrt(units)
        self.constant = entropy(self.answers.mean())

    def weights(self, w):
        n = self.units
        return w[:, :n, None], w[:, n:-n].reshape(-1, n, n), w[:, -n:, None]  # from the input, from step to step, to the answer

    def run(self, w, x):
        into, over, _ = self.weights(w)
        states = [np.zeros((len(w), self.units, len(x)))]
        for now in x.T:
            states.append(np.tanh(into * now + over @ states[-1]))
        return states

    def gradient(self, w, t):
        into, over, out = self.weights(w)
        x, states = self.x[t - 1], self.run(w, self.x[t - 1])
        error = (probability((out * states[-1]).sum(1)) - self.y[t - 1])[:, None] / len(x)
        g_out, back = (error * states[-1]).sum(2), error * out
        g_into, g_over = np.zeros((len(w), self.units)), np.zeros_like(over)
        for now, state, before in zip(x.T[::-1], states[:0:-1], states[-2::-1]):  # back through time
            back = back * (1 - state * state)
            g_into += (back * now).sum(2)
            g_over += back @ before.swapaxes(1, 2)
            back = over.swapaxes(1, 2) @ back
        return np.concatenate([g_into, g_over.reshape(len(w), -1), g_out], 1)

    def loss(self, w):
        logits = (self.weights(w)[2] * self.run(w, self.test)[-1]).sum(1)
        return np.logaddexp(0, np.where(self.answers, -1, 1) * logits).mean(1)


def probability(logits):
    return (1 + np.tanh(logits / 2)) / 2


def entropy(share):
    return -share * np.log(share) - (1 - share) * np.log(1 - share)


PROBLEMS = {"dense": Regression, "rare words": Words, "memory": Memory}


@lru_cache(maxsize=32)
def made(name, noise):
    """The problem, and the losses (optimizers, rates) over the tuning budget."""
    problem = PROBLEMS[name](noise)
    return problem, np.array([train(problem, step, RATES) for step in OPTIMIZERS.values()])


@demo(
    lr=slider(0.0001, 1.0, label="learning rate for all", log=True),
    noise=slider(0.0, 1.0, step=0.1, label="noise in the targets"),
    problem=choice(*PROBLEMS, label="problem of the curves"),
)
def show(lr=0.03, noise=0.2, problem="rare words"):
    """Move the rate: the darkest cell of a column wanders, so a comparison at one rate can be made to say anything. Then compare each at its own best."""
    same = np.array([[train(made(name, noise)[0], step, lr)[0] for step in OPTIMIZERS.values()] for name in PROBLEMS]).T
    grid = np.array([made(name, noise)[1] for name in PROBLEMS])
    names = list(OPTIMIZERS)
    winners = [sorted({names[i] for i in row.argmin(0) if row.min() < 2}, key=names.index) for row in grid]
    rates = RATES[grid[list(PROBLEMS).index(problem)].argmin(1)]
    return (
        heatmap(same, rows=names, columns=list(PROBLEMS), x="problem", y="optimizer", value="share of constant's loss", range=(0, 1.2), signed=False,
                caption=f"The same rate for all, {lr:.3g}. 0 is perfect, 1 is the best constant answer; more than 1.2 is drawn as 1.2."),
        heatmap(grid.min(2).T, rows=names, columns=list(PROBLEMS), x="problem", y="optimizer", value="share of constant's loss", range=(0, 1.2), signed=False,
                caption=f"The same budget for all: each at the best of {len(RATES)} rates from 0.0001 to 1."),
        line(dict(zip(names, made(problem, noise)[1])), at=RATES, x="learning rate", y="share of the constant answer's loss", log_x=True, range_y=(0, 2.05),
             marks={"chosen rate": lr}, caption=f"The whole budget, for {problem}: 60 steps with each rate. 2 stands for 2 and more."),
        f"Who is best depends on the rate: {'; '.join(f'{name}: ' + ', '.join(w) for name, w in zip(PROBLEMS, winners))} (each wins at one rate or more). "
        f"On {problem} the best rates are {', '.join(f'{r:.2g} ({name})' for r, name in zip(rates, names))}.",
    )
