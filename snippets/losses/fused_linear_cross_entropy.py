"""Linear layer and cross-entropy in one, without all logits, in NumPy."""

import numpy as np

from snippets.activations.log_softmax import logsumexp


def chunked(hidden, weight, target, chunk):
    """Mean loss and both gradients; the logits of `chunk` tokens at a time."""
    n, loss = len(hidden), 0.0
    grad_hidden, grad_weight = np.empty_like(hidden), np.zeros_like(weight)
    for start in range(0, n, chunk):
        h, t = hidden[start : start + chunk], target[start : start + chunk]
        logits = h @ weight.T
        rows = np.arange(len(h))
        log_z = logsumexp(logits)
        loss += (log_z[:, 0] - logits[rows, t]).sum()
        gradient = np.exp(logits - log_z)  # probabilities ...
        gradient[rows, t] -= 1             # ... minus the truth
        grad_hidden[start : start + chunk] = gradient @ weight / n
        grad_weight += gradient.T @ h / n  # all chunks add to it; none of their logits is kept
    return loss / n, grad_hidden, grad_weight


def running_logsumexp(hidden, weight, block):
    """The other way to cut: a block of the vocabulary at a time. What is kept of a row is one number, which grows."""
    total = np.full(len(hidden), -np.inf)
    after = []
    for start in range(0, len(weight), block):
        part = logsumexp(hidden @ weight[start : start + block].T)[:, 0]
        total = np.logaddexp(total, part)
        after.append(total)
    return np.array(after)


def numbers_held(tokens, vocabulary, chunk, block):
    """Logits and their gradients that exist at the same time."""
    return {"all logits": 2.0 * tokens * vocabulary, "chunk of tokens": float(min(chunk, tokens)) * vocabulary,
            "block of both": float(min(block, tokens) * min(block, vocabulary))}


# %% demo
from snippets.live import bars, demo, line, slider

N, D = 64, 16


@demo(
    chunk=slider(1, 64, label="tokens of a chunk"),
    vocabulary=slider(50, 1000, step=10, label="vocabulary"),
    block=slider(10, 100, step=5, label="block of the vocabulary"),
)
def show(chunk=8, vocabulary=500, block=50):
    """64 tokens. Shrink the chunk: less is held, and the result is the same to the last digits. Then raise the vocabulary."""
    rng = np.random.default_rng(0)
    hidden, weight = rng.standard_normal((N, D)), rng.standard_normal((vocabulary, D)) / 3
    target = rng.integers(0, vocabulary, N)
    whole, cut = chunked(hidden, weight, target, N), chunked(hidden, weight, target, chunk)
    off = max(np.abs(a - b).max() for a, b in zip(whole, cut))
    held = numbers_held(N, vocabulary, chunk, block)
    running = running_logsumexp(hidden[:4], weight, block)
    seen = np.minimum(np.arange(1, len(running) + 1) * block, vocabulary)
    exact = logsumexp(hidden[:4] @ weight.T)[:, 0]
    return (
        bars(held, y="numbers held at a time", log_y=True, range_y=(10, 200_000),
             caption=f"Two steps hold all {N} × {vocabulary} logits and their gradient; by tokens, {chunk} × {vocabulary}, the gradient in place of the logits; "
                     f"a kernel that cuts both ways only {min(block, N)} × {block}."),
        line({**{f"token {i + 1}": (seen, running[:, i]) for i in range(4)}, "exact": (np.full(4, float(vocabulary)), exact)}, x="tokens of the vocabulary seen",
             y="log Σ exp so far", markers=["exact"], range_y=(1, 11),
             caption="Four rows that are read block by block. One number per row is kept; at the end it is the exact log-sum-exp."),
        f"Loss {cut[0]:.6f}, as from all logits at once ({'to' if off < 1e-12 else 'not to'} 12 digits); {held['all logits'] / held['chunk of tokens']:.0f} times fewer numbers held.",
    )
