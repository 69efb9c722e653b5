"""Load balancing of experts in NumPy."""

import numpy as np

from snippets.ops import softmax


def dispatched(logits, top_k=1):
    """Logits (T, E) -> the share of all assignments that each expert gets."""
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    return np.bincount(chosen.ravel(), minlength=logits.shape[1]) / chosen.size


def load_balancing_loss(logits, top_k=1, coef=1e-2):
    """Coefficient times experts times the sum of load and mean probability."""
    return coef * logits.shape[1] * (dispatched(logits, top_k) * softmax(logits).mean(0)).sum()


def balance_push(p, load, coef=1e-2):
    """Gradient by the logits, for probabilities p (T, E). The load is a constant: it counts, and counting has no slope."""
    tokens, experts = p.shape
    return coef * experts / tokens * p * (load - (p @ load)[:, None])


def move_bias(bias, load, rate=1e-3):
    """Without a loss: a bias for the choice of experts, moved after each step."""
    return bias + rate * np.sign(load.mean() - load)


# %% demo
from functools import lru_cache

from snippets.live import bars, demo, line, scatter, slider

STEPS, TOKENS = 300, 200


def eight_clouds():
    """Tokens in eight clouds on a circle."""
    angle = 2 * np.pi * (np.arange(TOKENS) % 8) / 8
    return 0.6 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.09 * np.random.default_rng(0).normal(size=(TOKENS, 2))


@lru_cache(maxsize=32)
def train(experts, coef=0.0, rate=0.0):
    """Each expert answers with one point of its own, times its probability; the answer should be the token. Gradients by hand."""
    rng, x = np.random.default_rng(1), eight_clouds()
    answer, router = 0.2 * rng.normal(size=(experts, 2)), 0.1 * rng.normal(size=(experts, 3))
    seen, bias = np.column_stack([x, np.ones(TOKENS)]), np.zeros(experts)
    counts, chosen, errors = [], [], []
    for _ in range(STEPS + 1):
        p = softmax(seen @ router.T)
        best = (p + bias).argmax(1)
        hot = best[:, None] == np.arange(experts)
        gate = p[np.arange(TOKENS), best][:, None]
        error = gate * answer[best] - x
        counts.append(hot.sum(0))
        chosen.append(best)
        errors.append((error**2).sum(1).mean())

        d_gate = 2 * (error * answer[best]).sum(1, keepdims=True) / TOKENS
        d_logits = gate * d_gate * (hot - p) + balance_push(p, counts[-1] / TOKENS, coef)
        answer = answer - 4 * hot.T @ (error * gate) / TOKENS
        router = router - d_logits.T @ seen
        bias = move_bias(bias, counts[-1], rate)
    return np.array(counts), np.array(chosen), np.array(errors)


@demo(
    coef=slider(0.0, 0.1, step=0.005, label="coefficient of the loss"),
    experts=slider(4, 8, label="experts"),
    steps=slider(0, STEPS, step=10, label="training step that is shown"),
)
def show(coef=0.06, experts=6, steps=300):
    """Go back to step 0 and forward again: who is chosen is trained, and is chosen more. Find the smallest coefficient at which nobody is left idle."""
    free, held, biased = train(experts), train(experts, coef=coef), train(experts, rate=3e-3)
    busiest = {name: 100 * run[0].max(1) / TOKENS for name, run in {"neither": free, "loss": held, "bias": biased}.items()}
    x, best = eight_clouds(), held[1][steps]
    return (
        bars({name: {str(e + 1): n for e, n in enumerate(run[0][steps])} for name, run in {"neither": free, "loss": held}.items()},
             x="expert", y="tokens", levels={"even": TOKENS / experts}, range_y=(0, 120),
             caption=f"Tokens per expert at step {steps}. Nothing trains an expert without tokens, so with neither remedy it stays without."),
        line(busiest, x="step", y="tokens at the busiest expert (%)", dashed=["neither"], levels={"even": 100 / experts}, marks={"shown": steps},
             range_y=(0, 105), caption="The balance over training. The bias moves by 0.003 a step and needs no gradient."),
        scatter({f"expert {e + 1}": x[best == e] for e in range(experts) if (best == e).any()}, x="x₁", y="x₂", equal=True, range_x=(-0.9, 0.9),
                range_y=(-0.9, 0.9), caption="With the loss: each token in the color of its expert. One point has to answer for all of a color."),
        f"Idle experts at step {steps}: {(free[0][steps] == 0).sum()} with neither, {(held[0][steps] == 0).sum()} with the loss, {(biased[0][steps] == 0).sum()} with the bias. "
        f"Squared error of the task: {free[2][steps]:.3f}, {held[2][steps]:.3f} and {biased[2][steps]:.3f}.",
    )
