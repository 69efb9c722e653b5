"""Small trainings that go wrong in the ways that loss curves show, each beside the one that is mended."""

import numpy as np

from snippets.optimizers.adam import adam_step
from snippets.optimizers.sgd import sgd_step


def forward(w, x):
    """A hidden layer of tanh; returns its values and the logits."""
    h = np.tanh(x @ w[0] + w[1])
    return h, h @ w[2] + w[3]


def loss(w, x, y):
    """Mean logistic loss in nats."""
    return float(np.logaddexp(0, (1 - 2 * y) * forward(w, x)[1]).mean())


def gradients(w, x, y):
    """Backpropagation by hand."""
    h, logits = forward(w, x)
    error = ((1 + np.tanh(logits / 2)) / 2 - y) / len(x)
    back = error @ w[2].T * (1 - h * h)
    return [x.T @ back, back.sum(0), h.T @ error, error.sum(0)]


def train(w, batches, held_out, step, rates, clip=np.inf, decay=0.0):
    """Loss on each batch before its step, loss held out, and the gradient's norm."""
    states, seen = [{} for _ in w], []
    for t, ((x, y), lr) in enumerate(zip(batches, rates), 1):
        g = gradients(w, x, y)
        norm = np.sqrt(sum((part * part).sum() for part in g))
        seen.append((loss(w, x, y), loss(w, *held_out), norm))
        scale = min(1.0, clip / max(norm, 1e-12))
        w = [step(p - lr * decay * p * (p.ndim > 1), scale * part, state, t, lr) for p, part, state in zip(w, g, states)]
    return np.array(seen).T


# %% demo
from snippets.live import choice, demo, line, slider


def moons(n, rng, wrong=0.0):
    """Two interleaved half circles, some labels flipped."""
    y = np.arange(n) % 2
    angle = np.pi * rng.random(n)
    x = np.stack([np.cos(angle) * (1 - 2 * y) + y - 0.5, np.sin(angle) * (1 - 2 * y) + y * 0.5 - 0.25], 1)
    flipped = rng.random(n) < wrong
    return 2 * x + rng.normal(0, 0.2, (n, 2)), np.where(flipped, 1 - y, y)[:, None].astype(float)


def start(width, scale=1.0):
    rng = np.random.default_rng(1)
    return [rng.normal(0, scale / np.sqrt(2), (2, width)), np.zeros(width), rng.normal(0, scale / np.sqrt(width), (width, 1)), np.zeros(1)]


def batches(x, y, size, steps, order="shuffled"):
    rng, n = np.random.default_rng(2), len(x)
    if order == "sorted":
        place = np.argsort(y[:, 0], kind="stable")
        return [(x[i], y[i]) for i in (place[(np.arange(size) + size * t) % n] for t in range(steps))]
    return [(x[i], y[i]) for i in (rng.integers(0, n, size) for _ in range(steps))]


def plateau(much):
    """Weights so small that all units do the same, and pass almost nothing back."""
    rng, steps = np.random.default_rng(0), 200
    (x, y), held = moons(400, rng), moons(200, rng)
    runs = {name: train(start(16, scale), batches(x, y, 64, steps), held, sgd_step, [0.25] * steps)
            for name, scale in (("as it is", 10.0 ** -(2.5 * much)), ("mended", 1.0))}
    return runs, 1, 2, ("All weights start " + f"{10 ** (2.5 * much):,.0f} times too small: the curve waits near log 2 = 0.69, where the network guesses. "
                        "The gradient's norm is small from the start and grows while the loss still stands still: it is about to leave. Units that began alike stay alike, so it ends higher too. Mended: weights of the usual size.")


def spike(much):
    """A few bad batches under Adam, whose second moment knows nothing of them."""
    rng, steps = np.random.default_rng(0), 200
    (x, y), held = moons(400, rng), moons(200, rng)
    many = batches(x, y, 64, steps)
    many[100] = (many[100][0], 1 - many[100][1])
    many[100] = (many[100][0], 30 * much * (many[100][1] - 0.5) + 0.5)
    runs = {name: train(start(16), many, held, adam_step, [0.05] * steps, clip) for name, clip in (("as it is", np.inf), ("mended", 0.3))}
    return runs, 1, 2, ("One batch at step 100 has labels that are wrong and far out of range. The gradient's norm jumps in that step, before the held-out loss has moved: cause first, "
                        "then damage. Adam goes on in that direction for some ten steps. Mended: gradients clipped to norm 0.3.")


def noise_floor(much):
    """Small batches at a constant rate: the loss stops falling because it jumps about."""
    rng, steps = np.random.default_rng(0), 300
    (x, y), held = moons(400, rng, 0.1), moons(200, rng, 0.1)
    rate = 0.6 * much
    runs = {name: train(start(16), batches(x, y, 4, steps), held, sgd_step, rates)
            for name, rates in (("as it is", np.full(steps, rate)), ("mended", rate * (1 + np.cos(np.pi * np.arange(steps) / steps)) / 2))}
    return runs, 1, 2, "Batches of 4 at a constant rate. The curve is level on average and rough at every scale. Mended: the same rate, falling to 0 along half a cosine."


def gap(much):
    """Few points, some with wrong labels, and a network that can learn them by heart."""
    rng, steps = np.random.default_rng(0), 300
    (x, y), held = moons(30, rng, 0.2), moons(300, rng)
    runs = {name: train(start(32), [(x, y)] * steps, held, adam_step, [0.03 * much] * steps, decay=decay) for name, decay in (("as it is", 0.0), ("mended", 0.5))}
    return runs, 1, 0, ("Thirty points, a fifth with wrong labels. The training loss goes on falling (second figure); the held-out loss turns and rises, as the network grows sure of "
                        "what is wrong. Mended: weight decay 0.5. Stopping at the turn would do as well.")


def sawtooth(much):
    """Data in the order of its labels."""
    rng, steps = np.random.default_rng(0), 240
    (x, y), held = moons(384, rng, 0.15), moons(200, rng)
    runs = {name: train(start(16), batches(x, y, 16, steps, order), held, sgd_step, [0.5 * much] * steps) for name, order in (("as it is", "sorted"), ("mended", "shuffled"))}
    return runs, 0, 1, ("The data come sorted by label: 12 batches of one class, then 12 of the other. Each tooth begins where the class changes: the network had settled for one answer. "
                        "Between the teeth the loss is even lower than it should be; held out (second figure) it is worse. Mended: shuffled.")


def explosion(much):
    """Least squares by gradient descent, just above the rate that is stable, in single precision."""
    steps, curvatures = 200, np.array([1.0, 0.1, 0.01], np.float32)
    runs = {}
    for name, rate in (("as it is", 2.0 * (1 + 0.4 * much**2)), ("mended", 1.5)):
        w, seen = np.array([1e-4, 3.0, 3.0], np.float32), []
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(steps):
                value = np.float32(0.5) * (curvatures * w * w).sum()
                seen.append((value, value, np.sqrt((curvatures * w) @ (curvatures * w))))
                w = w - np.float32(rate) * curvatures * w
        runs[name] = np.array(seen, float).T
    return runs, 0, 2, ("Gradient descent on curvatures 1, 0.1 and 0.01 at a rate above 2, the limit of the steepest. It falls first, along the flat directions, while the steepest one grows from almost "
                        "nothing by the same factor in each step: a straight line in this plot. Then it passes what 32 bits hold, and the loss is inf or NaN. Mended: rate 1.5.")


def double_descent(much):
    """Least squares on random features: as many features as points is the worst number."""
    n, noise = 20, 0.3 * much
    counts = np.arange(2, 81, 2)
    runs = {}
    for name, ridge in (("as it is", 1e-9), ("mended", 0.3)):
        test, fit = [], []
        for d in counts:
            errors = []
            for seed in range(4):
                rng = np.random.default_rng(seed)
                x, x_test, directions = rng.normal(size=(n, 8)), rng.normal(size=(100, 8)), rng.normal(size=(8, 80)) / 8**0.5
                truth = rng.normal(size=8) / 8**0.5
                a, b = np.maximum(x @ directions[:, :d], 0), np.maximum(x_test @ directions[:, :d], 0)
                c = np.linalg.solve(a.T @ a + ridge * np.eye(d), a.T @ (x @ truth + noise * rng.normal(size=n)))
                errors.append((((b @ c - x_test @ truth) ** 2).mean(), ((a @ c - x @ truth) ** 2).mean(), np.linalg.norm(c)))
            test.append(np.median([e[0] for e in errors]))
            fit.append(np.median([e[2] for e in errors]))
        runs[name] = np.array([test, test, fit])
    return runs, 0, 2, ("Not over time but over size: the error on new points of a least-squares fit on random features, for 20 points. It falls, rises to a peak where the features are as many as the points, and falls again. "
                        "The coefficients' norm has the same peak: just enough freedom to hit every point, at any price. Mended: a ridge of 0.3.")


SHAPES = {"plateau": plateau, "spike": spike, "rough floor": noise_floor, "gap": gap, "sawtooth": sawtooth, "explosion": explosion, "double descent": double_descent}
AXES = ["loss (nats)", "held-out loss (nats)", "gradient norm"]


@demo(shape=choice(*SHAPES, label="shape"), much=slider(0.25, 2.0, step=0.05, label="how much of the cause", unit="times"))
def show(shape="plateau", much=1.0):
    """Choose a shape, and look at the second figure: it tells apart causes that look alike in the first."""
    runs, first, second, said = SHAPES[shape](much)
    size = shape == "double descent"
    at = np.arange(2, 81, 2) if size else np.arange(len(runs["mended"][0]))
    names = ["error on new points", "", "norm of the coefficients"] if size else AXES if shape != "explosion" else ["loss", "", "gradient norm"]
    log = shape in ("explosion", "double descent")

    def figure(which, caption):
        return line({name: np.clip(run[which], 1e-6, None) if log or which == 2 else run[which] for name, run in runs.items()}, at=at,
                    x="features" if size else "step", y=names[which], dashed=["mended"], log_y=log or which == 2, marks={"points": 20} if size else None, caption=caption)

    worst, best = (run[1][-1:] if size else run[1][-20:] for run in (runs["as it is"], runs["mended"]))
    end = f"{worst.mean():.3g}" if np.isfinite(worst).all() else "no number any more"
    return figure(first, said), figure(second, f"What tells the cause: {names[second]}."), (
        f"{'With most features' if size else f'Mean {names[1] or names[0]} of the last 20 steps'}: {end} as it is, {best.mean():.3g} mended.")
