"""Signals and gradients of a deep random network in NumPy, and the theory of their size."""

import numpy as np

from snippets.ops import matmul


def gelu(z):  # GPT-2's form: NumPy has no error function, and this one is off by less than 0.0005
    return z * 0.5 * (1 + np.tanh(0.7978845608 * (z + 0.044715 * z**3)))


def gelu_slope(z):
    t = np.tanh(0.7978845608 * (z + 0.044715 * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t**2) * 0.7978845608 * (1 + 0.134145 * z**2)


ACTIVATIONS = {  # each with its derivative
    "linear": (lambda z: z, np.ones_like),
    "ReLU": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "GELU": (gelu, gelu_slope),
}


def forward(x, layers, f):
    """x (N, inputs) through matrices W (outputs, inputs): z = W x, then z = W f(z) again and again. All z."""
    zs = [matmul(x, layers[0].T)]
    for w in layers[1:]:
        zs.append(matmul(f(zs[-1]), w.T))
    return zs


def backward(g, zs, layers, slope):
    """The gradient g of the last z, taken back to every z."""
    gs = [g]
    for w, z in zip(layers[:0:-1], zs[-2::-1]):
        gs.append(matmul(gs[-1], w) * slope(z))
    return gs[::-1]


def second_moments(arrays):
    return np.array([np.mean(a**2) for a in arrays])


def theory(depth, f, slope, gain, moment=1.0):
    """Infinite width: q = E[z²] of each layer, and chi, by which the gradient's mean square grows. gain = fan_in · Var(w)."""
    z = np.linspace(-10, 10, 2000)  # an even number: 0, where ReLU bends, lies between two points
    p = np.exp(-(z**2) / 2)
    p /= p.sum()
    q, chi = [gain * moment], []
    for _ in range(depth):
        s = q[-1] ** 0.5
        chi.append(gain * (p * slope(s * z) ** 2).sum())
        q.append(gain * (p * f(s * z) ** 2).sum())
    return np.array(q[:-1]), np.array(chi)


# %% demo
from snippets.live import choice, demo, line, slider


def squares(widths, std, seed=0):
    """Random matrices for these widths; std(fan_in, fan_out) is the standard deviation of each."""
    rng = np.random.default_rng(seed)
    return [std(n, m) * rng.normal(size=(m, n)) for n, m in zip(widths, widths[1:])]


@demo(
    activation=choice(*ACTIVATIONS, label="activation"),
    multiple=slider(0.2, 3.0, step=0.05, label="weight std, in units of 1/√fan_in"),
    depth=slider(2, 50, label="layers"),
    width=choice(32, 64, 128, label="width"),
)
def show(activation="ReLU", multiple=1.0, depth=30, width=64):
    """Find the weight std at which neither curve leaves. Then change the activation: linear and ReLU need different ones."""
    f, slope = ACTIVATIONS[activation]
    rng = np.random.default_rng(1)
    layers = squares([width] * (depth + 1), lambda n, m: multiple / n**0.5)
    a, b = rng.normal(size=(2, 16, width))
    x = np.concatenate([a, 0.6 * a + 0.8 * b])  # pairs of inputs with correlation 0.6
    zs = forward(x, layers, f)
    gs = backward(rng.normal(size=zs[-1].shape), zs, layers, slope)
    q, chi = theory(depth, f, slope, multiple**2)
    back = np.append(np.cumprod(chi[:-1][::-1])[::-1], 1.0)  # the last gradient is 1
    at = np.arange(1, depth + 1)
    low, high = 1e-12, 1e12
    cut = lambda v: np.clip(v, low, high)  # noqa: E731
    norm = lambda z: np.linalg.norm(z, axis=1)  # noqa: E731
    alike = [float(np.mean((z[:16] * z[16:]).sum(1) / np.maximum(norm(z[:16]) * norm(z[16:]), 1e-300))) for z in zs]
    return (
        line({"signal": cut(second_moments(zs)), "theory": cut(q), "gradient": cut(second_moments(gs)), "its theory": cut(back)}, at=at,
             x="layer", y="mean square", log_y=True, range_y=(low, high), dashed=["theory", "its theory"],
             caption="Signal: before the activation of each layer. Gradient: what comes back to the same place from random "
             "gradients at the end, so read it from right to left. Dashed: infinitely wide."),
        line({"two inputs": alike}, at=at, x="layer", y="cosine", range_y=(-0.1, 1.1), levels={"at the input": 0.6},
             caption="How alike two inputs still are, 0.6 at the start. At 1 the network cannot tell them apart any more; near 0, "
             "tiny differences have been blown up."),
        f"In the last layer the signal's mean square is {q[-1]:.3g} in theory; one more layer multiplies a gradient's by "
        f"{chi[-1]:.3g}. A single ReLU net of this width is typically off by a factor of {np.exp((5 * depth / width) ** 0.5):.2g}, up or down.",
    )
