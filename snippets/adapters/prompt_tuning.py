"""Prompt tuning in NumPy: only a few vectors before the text are trained."""

import numpy as np

from snippets.ops import softmax


def attend(tokens, wk, wv, query):
    """One query reads all tokens: weights (tokens,) and values (tokens, d)."""
    return softmax(tokens @ wk @ query / np.sqrt(len(query))), tokens @ wv


def classify(prompt, text, wk, wv, read, query):
    """The frozen model's logit for prompt and text; it cannot tell which is which."""
    weights, values = attend(np.concatenate([prompt, text]), wk, wv, query)
    return weights @ values @ read


def gradient(prompt, text, wk, wv, read, query, y):
    """Of the cross-entropy, for the prompt alone: through what it says (values) and through how much it is read (weights)."""
    weights, values = attend(np.concatenate([prompt, text]), wk, wv, query)
    said = values @ read
    logit = weights @ said
    wrong = 1 / (1 + np.exp(-logit)) - y
    n = len(prompt)
    through_values = weights[:n, None] * (wv @ read)
    through_weights = (weights[:n] * (said[:n] - logit))[:, None] * (wk @ query) / np.sqrt(len(query))
    return wrong * (through_values + through_weights), np.logaddexp(0, logit) - y * logit


# %% demo
from snippets.live import bars, choice, demo, line, scatter, slider

RNG = np.random.default_rng(2)
WORDS = RNG.normal(size=(16, 2))
WK, WV, READ, QUERY = RNG.normal(size=(2, 2)), RNG.normal(size=(2, 2)), 3.0 * RNG.normal(size=2), RNG.normal(size=2)
TEXTS = WORDS[RNG.integers(0, 16, size=(14, 4))]
FROZEN = np.array([classify(np.zeros((0, 2)), text, WK, WV, READ, QUERY) for text in TEXTS])


@demo(
    task=choice("a higher bar", "the opposite", label="the new task"),
    n=slider(1, 8, label="prompt vectors"),
    rate=slider(0.05, 2.0, step=0.05, label="learning rate"),
    start=choice("random", "words", label="they start as"),
)
def show(task="a higher bar", n=3, rate=0.5, start="random"):
    """The new task wants "yes" from fewer texts. Then ask for the opposite of what the model says: that is too much for a prompt."""
    bar = np.quantile(FROZEN, 0.7)
    y = (FROZEN > bar).astype(float) if task == "a higher bar" else (FROZEN < 0).astype(float)
    rng = np.random.default_rng(0)
    first = WORDS[rng.integers(0, 16, size=n)] if start == "words" else 0.3 * rng.normal(size=(n, 2))
    prompt, losses, path = first.copy(), [], [first.copy()]
    for _ in range(50):
        grads = [gradient(prompt, text, WK, WV, READ, QUERY, label) for text, label in zip(TEXTS, y)]
        losses.append(np.mean([loss for _, loss in grads]))
        prompt = np.clip(prompt - rate * np.mean([g for g, _ in grads], 0), -6, 6)
        path.append(prompt.copy())
    after = np.array([classify(prompt, text, WK, WV, READ, QUERY) for text in TEXTS])
    right = np.mean((after > 0) == (y > 0.5)), np.mean((FROZEN > 0) == (y > 0.5))
    weight = np.mean([attend(np.concatenate([prompt, text]), WK, WV, QUERY)[0][:n].sum() for text in TEXTS])
    path = np.array(path)
    return (
        scatter({"words": WORDS, "start": first, "prompt": path[-1]}, lines={"prompt": [path[:, i] for i in range(n)]}, equal=True,
                x="first coordinate", y="second coordinate", range_x=(-6.2, 6.2), range_y=(-6.2, 6.2),
                caption="The model's words and the trained vectors on their way. They end where no word is: the nearest word says little about them."),
        line({"loss": (np.arange(len(losses)), losses)}, x="step", y="loss", range_y=(0, 2.5), levels={"guessing": np.log(2)},
             caption="The same frozen model in every step; only the vectors before the text move."),
        bars({"frozen": right[1], "with prompt": right[0], "weight on prompt": weight}, y="share", range_y=(0, 1),
             caption="Right answers before and after, and how much of the attention the prompt has drawn to itself."),
        f"{2 * n} trained numbers; right answers went from {right[1]:.0%} to {right[0]:.0%}.",
    )
