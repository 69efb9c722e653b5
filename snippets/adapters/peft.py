"""What fine-tuning costs, in NumPy: numbers that are trained, and bytes."""

import numpy as np


def memory(parameters, trained, weight_bytes=2.0):
    """Bytes of weights, gradients and optimizer: 16-bit gradients, two 32-bit moments and a 32-bit copy for trained numbers only."""
    return np.array([weight_bytes * parameters, 2.0 * trained, (8.0 + 4.0) * trained])


def trained_numbers(d, layers, rank=8, prefix=20, bottleneck=64):
    """Of each method, for a Transformer of width d with a feed-forward layer of 4 d. Floats: they pass two billion."""
    return {
        "full": 12.0 * d * d * layers,
        f"bottleneck {bottleneck}": float(layers * (2 * d * bottleneck + d + bottleneck)),
        "LoRA on all layers": float(layers * rank * (4 * 2 * d + 2 * 5 * d)),
        "LoRA on q and v": float(layers * 2 * rank * 2 * d),
        f"prefix of {prefix}": float(2 * layers * prefix * d),
        "(IA)³": float(layers * (d + d + 4 * d)),
        f"prompt of {prefix}": float(prefix * d),
    }


# %% demo
from snippets.live import bars, choice, demo, slider, table


@demo(
    size=slider(0.1, 100.0, log=True, label="parameters", unit="billion"),
    share=slider(0.01, 100.0, log=True, label="trained", unit="%"),
    weight_bytes=choice("16 bit", "8 bit", "4 bit", label="frozen weights are kept in"),
    gpu=choice(16, 24, 48, 80, label="GB of the GPU"),
)
def show(size=7.0, share=0.5, weight_bytes="16 bit", gpu=24):
    """Train all of it: 16 bytes a parameter. Lower the share until only the weights count; then keep those in 4 bits."""
    n = 1e9 * size
    bytes_each = {"16 bit": 2.0, "8 bit": 1.0, "4 bit": 0.5}[weight_bytes]
    full = memory(n, n) / 1e9
    part = memory(n, n * share / 100, bytes_each) / 1e9
    names = ("weights", "gradients", "optimizer")
    counts = trained_numbers(4096, 32)
    return (
        bars({name: {"all trained": a, f"{share:.3g} % trained": b} for name, a, b in zip(names, full, part)}, y="memory (GB)", stacked=True,
             levels={f"GPU of {gpu} GB": gpu},
             caption="Without activations, which come on top and do not get fewer. Gradients and optimizer are paid for what is trained."),
        table([[name, f"{count:,.0f}", f"{100 * count / counts['full']:.3f} %"] for name, count in counts.items()],
              columns=["method", "trained numbers", "of full"],
              caption="For width 4,096 and 32 layers: the size of a model of 7 billion parameters. Rank 8, bottleneck once a layer."),
        f"{part.sum():,.1f} GB instead of {full.sum():,.0f}: {'fits' if part.sum() < gpu else 'does not fit'} on {gpu} GB before activations.",
    )
