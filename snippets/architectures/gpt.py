"""GPT-1 in NumPy: the forward pass, and a character model trained in front of you."""

import numpy as np

from snippets.ops import softmax


def norm(x, gain, bias):
    centred = x - x.mean(-1, keepdims=True)
    return gain * centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) + bias


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x * x * x)))


def block(x, w, heads):
    """Causal attention and a two-layer network, each added to its input and then normalised."""
    B, T, D = x.shape
    q, k, v = (x @ w["qkv"] + w["qkv_bias"]).reshape(B, T, 3, heads, D // heads).transpose(2, 0, 3, 1, 4)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(D // heads)
    attention = softmax(np.where(np.tri(T, dtype=bool), scores, -np.inf))
    read = (attention @ v).transpose(0, 2, 1, 3).reshape(B, T, D)
    middle = norm(x + read @ w["out"] + w["out_bias"], w["gain_1"], w["bias_1"])
    hidden = middle @ w["up"] + w["up_bias"]
    active = gelu(hidden)
    y = norm(middle + active @ w["down"] + w["down_bias"], w["gain_2"], w["bias_2"])
    return y, (x, q, k, v, attention, read, middle, hidden, active)


def gpt(ids, w, heads):
    """Logits (B, T, V) of the letter after each of ids (B, T), and what each block computed on the way."""
    x, steps = w["tokens"][ids] + w["positions"][: ids.shape[1]], []
    for one in w["blocks"]:
        x, saved = block(x, one, heads)
        steps.append(saved)
    return x @ w["tokens"].T, (x, steps)


# %% demo
from functools import lru_cache

from snippets.live import bars, choice, demo, heatmap, line, slider

TEXT = (
    "this is the house that jack built. this is the malt that lay in the house that jack built. this is the rat that "
    "ate the malt that lay in the house that jack built. this is the cat that chased the rat that ate the malt that "
    "lay in the house that jack built. this is the dog that worried the cat that chased the rat"
)
LETTERS = sorted(set(TEXT))
IDS = np.array([LETTERS.index(letter) for letter in TEXT])


def parts(vocabulary, context, width, layers):
    """Names and shapes of all weights."""
    one = {}
    for name, rows, columns in (("qkv", 1, 3), ("out", 1, 1), ("up", 1, 4), ("down", 4, 1)):
        one |= {name: (rows * width, columns * width), name + "_bias": (columns * width,)}
    one |= {name: (width,) for name in ("gain_1", "bias_1", "gain_2", "bias_2")}
    return dict(tokens=(vocabulary, width), positions=(context, width), blocks=[one] * layers)


def views(flat, shapes):
    """The weights as views of one long vector, so that the optimizer is four lines."""
    at = 0

    def take(tree):
        nonlocal at
        if isinstance(tree, dict):
            return {name: take(branch) for name, branch in tree.items()}
        if isinstance(tree, list):
            return [take(branch) for branch in tree]
        at += np.prod(tree)
        return flat[at - np.prod(tree) : at].reshape(tree)

    return take(shapes), at


def loss_and_gradients(ids, w, g, heads):
    """Mean loss of predicting ids[:, 1:]; writes its gradients, derived by hand for `gpt`, into g."""
    inputs, targets = ids[:, :-1], ids[:, 1:]
    logits, (x, steps) = gpt(inputs, w, heads)
    probability = softmax(logits)
    picked = (*np.indices(targets.shape), targets)
    loss = -np.log(probability[picked]).mean()
    probability[picked] -= 1
    d_logits = probability / targets.size
    flat = (-1, x.shape[-1])
    g["tokens"][:] = d_logits.reshape(-1, logits.shape[-1]).T @ x.reshape(flat)
    d = d_logits @ w["tokens"]
    for one, into, saved in zip(w["blocks"][::-1], g["blocks"][::-1], steps[::-1]):
        x, q, k, v, attention, read, middle, hidden, active = saved
        d = norm_backward(d, middle + active @ one["down"] + one["down_bias"], one["gain_2"], into, "2")
        d_hidden = linear_backward(d, active, one["down"], into, "down")
        cubic = 0.044715 * hidden * hidden
        tanh = np.tanh(np.sqrt(2 / np.pi) * hidden * (1 + cubic))
        d_hidden *= 0.5 * (1 + tanh) + 0.5 * hidden * (1 - tanh * tanh) * np.sqrt(2 / np.pi) * (1 + 3 * cubic)
        d = d + linear_backward(d_hidden, middle, one["up"], into, "up")
        d = norm_backward(d, x + read @ one["out"] + one["out_bias"], one["gain_1"], into, "1")
        d_read = linear_backward(d, read, one["out"], into, "out")
        d_read = d_read.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)
        d_attention = d_read @ v.swapaxes(-1, -2)
        d_scores = attention * (d_attention - (d_attention * attention).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
        d_qkv = np.stack([d_scores @ k, d_scores.swapaxes(-1, -2) @ q, attention.swapaxes(-1, -2) @ d_read])
        d_qkv = d_qkv.transpose(1, 3, 0, 2, 4).reshape(*x.shape[:2], -1)
        d = d + linear_backward(d_qkv, x, one["qkv"], into, "qkv")
    np.add.at(g["tokens"], inputs, d)
    g["positions"][:] = 0
    g["positions"][: inputs.shape[1]] = d.sum(0)
    return loss


def linear_backward(d, x, weight, into, name):
    into[name][:] = x.reshape(-1, x.shape[-1]).T @ d.reshape(-1, d.shape[-1])
    into[name + "_bias"][:] = d.sum((0, 1))
    return d @ weight.T


def norm_backward(d, x, gain, into, name):
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
    unit = centred / scale
    into["gain_" + name][:], into["bias_" + name][:] = (d * unit).sum((0, 1)), d.sum((0, 1))
    d = d * gain
    return (d - d.mean(-1, keepdims=True) - unit * (d * unit).mean(-1, keepdims=True)) / scale


@lru_cache(maxsize=8)
def train(heads, context, steps=150, batch=8, width=24):
    """Adam on random windows of the text."""
    rng = np.random.default_rng(0)
    shapes = parts(len(LETTERS), context, width, 1)
    size = views(np.empty(10**6), shapes)[1]
    weights, gradient, mean, square = rng.normal(0, 0.1, size), np.zeros(size), np.zeros(size), np.zeros(size)
    (w, _), (g, _) = views(weights, shapes), views(gradient, shapes)
    for one in w["blocks"]:
        one["gain_1"][:] = one["gain_2"][:] = 1
    losses = []
    for step in range(1, steps + 1):
        start = rng.integers(0, len(IDS) - context, batch)
        losses.append(loss_and_gradients(IDS[start[:, None] + np.arange(context + 1)], w, g, heads))
        mean += 0.1 * (gradient - mean)
        square += 0.01 * (gradient * gradient - square)
        weights -= 0.02 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return w, losses


@demo(
    heads=slider(1, 4, label="attention heads"),
    head=slider(1, 4, label="head shown"),
    context=slider(4, 16, label="context", unit="letters"),
    temperature=slider(0.1, 2.0, step=0.1, label="temperature"),
)
def show(heads=2, head=1, context=12, temperature=0.5):
    """A one-block GPT reads 300 letters, 150 steps long. Give it less context, then raise the temperature."""
    if head > heads:
        raise ValueError(f"head {head} cannot be shown: the number of attention heads is {heads}")
    w, losses = train(heads, context)
    rng, text = np.random.default_rng(0), "this is the "
    prompt = text[-context:]
    logits, (_, steps) = gpt(np.array([[LETTERS.index(c) for c in prompt]]), w, heads)
    probability = softmax(logits[0, -1] / temperature)
    for _ in range(60):
        seen = np.array([[LETTERS.index(c) for c in text[-context:]]])
        text += LETTERS[rng.choice(len(LETTERS), p=softmax(gpt(seen, w, heads)[0][0, -1] / temperature))]
    shown = [f"{i + 1} {'␣' if c == ' ' else c}" for i, c in enumerate(prompt)]
    likely = np.argsort(-probability)[:8]
    return (
        line(
            {"loss": losses}, x="step", y="loss (nats per letter)", range_y=(0, 4.5),
            levels={f"uniform guess, log {len(LETTERS)}": np.log(len(LETTERS))},
            caption="It starts near the loss of a uniform guess. How low it gets depends on how many letters it sees.",
        ),
        heatmap(
            np.where(np.tri(len(prompt), dtype=bool), steps[0][4][0, head - 1], np.nan), rows=shown, columns=shown,
            x="letter read", y="letter reading", value="attention weight", range=(0, 1),
            caption=f"Head {head} of {heads}. No letter reads one to its right: there the softmax got minus infinity.",
        ),
        bars(
            {"␣" if LETTERS[i] == " " else LETTERS[i]: probability[i] for i in likely},
            x="next letter", y="probability", range_y=(0, 1),
            caption=f"After “{prompt}”. Dividing the logits by the temperature sharpens or flattens.",
        ),
        f"Loss {np.mean(losses[-10:]):.2f} in the last ten steps. It writes: {text}",
    )
