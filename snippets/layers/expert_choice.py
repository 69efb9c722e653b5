"""Expert-choice routing in NumPy."""

import numpy as np

from snippets.layers.mixture_of_experts import route
from snippets.ops import softmax


def choose_tokens(s, k):
    """s (N, E): share of each token that wants each expert -> (N, E), true where an expert takes a token."""
    best = np.argsort(-s, axis=0, kind="stable")[:k]  # down the columns: each expert ranks the tokens
    taken = np.zeros(s.shape, bool)
    np.put_along_axis(taken, best, True, 0)
    return taken


def expert_choice(x, router, experts, k):
    """x (N, D), router (E, D), E functions of rows -> (N, D) and who took whom (N, E)."""
    s = softmax(x @ router.T)
    taken, y = choose_tokens(s, k), np.zeros_like(x)
    for e, expert in enumerate(experts):
        rows = np.nonzero(taken[:, e])[0]
        y[rows] += s[rows, e, None] * expert(x[rows])
    return y, taken


# %% demo
from snippets.live import bars, choice, demo, heatmap, slider


@demo(
    n_experts=slider(2, 8, label="experts"),
    capacity=slider(0.5, 4.0, step=0.5, label="experts per token, on average"),
    temperature=slider(0.1, 3.0, step=0.1, label="temperature of the scores"),
    who=choice("experts choose tokens", "tokens choose experts", label="who chooses"),
)
def show(n_experts=4, capacity=1.0, temperature=0.7, who="experts choose tokens"):
    """Switch who chooses. When tokens do, each is served and experts are unevenly busy; when experts do, all are equally
    busy and some tokens get nobody. Raise the average until every token is served."""
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(16, 8))[:, :n_experts] + np.linspace(1.0, -1.0, 8)[:n_experts]
    s = softmax(logits / temperature)
    k = round(16 * capacity / n_experts)
    if k > 16:
        raise ValueError(f"{n_experts} experts cannot serve each of 16 tokens {capacity:g} times: each would take {k} tokens.")
    if who == "experts choose tokens":
        taken = choose_tokens(s, k)
    else:
        each = max(1, round(capacity))
        taken = np.zeros(s.shape, bool)
        np.put_along_axis(taken, route(s, each)[0], True, 1)
    load, served = taken.sum(0), taken.sum(1)
    return (
        heatmap(np.where(taken, s, np.nan), x="expert", y="token", value="share of the softmax", range=(0, 1),
                rows=[str(i + 1) for i in range(16)], columns=[str(e + 1) for e in range(n_experts)],
                caption="Who serves whom. An empty row is a token that passes the layer unchanged by any expert."),
        bars({str(e + 1): n for e, n in enumerate(load)}, x="expert", y="tokens", range_y=(0, 16),
             levels={"even": float(load.mean())}, caption="Work per expert. The first experts are liked best by most tokens."),
        bars({str(c): int((served == c).sum()) for c in range(n_experts + 1)}, x="experts that serve a token", y="tokens",
             range_y=(0, 16), caption="How many tokens have how many experts."),
        f"{taken.sum()} pairs. The busiest expert has {load.max()} tokens, the idlest {load.min()}; "
        f"{(served == 0).sum()} of 16 tokens have no expert, one has {served.max()}.",
    )
