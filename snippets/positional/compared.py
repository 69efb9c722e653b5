"""What distance alone does to attention, method by method, in NumPy."""

import numpy as np

from snippets.ops import softmax
from snippets.positional.alibi import slopes
from snippets.positional.rope import rates
from snippets.positional.t5_bias import bucket


def scores(distance, strength, base):
    """What a key gains or loses at a distance, if all tokens have the same content."""
    steps = bucket(-distance, both_ways=False)
    return {
        "none (causal mask)": 0.0 * distance,
        "rotary, sinusoidal": strength * np.cos(distance[:, None] * rates(64, base)).mean(-1),
        "ALiBi, steep head": -slopes(8)[1] * distance,
        "ALiBi, flat head": -slopes(8)[5] * distance,
        "T5, fading table": -0.2 * strength * steps / 4,
    }


# %% demo
from snippets.live import demo, line, slider


@demo(
    reach=slider(16, 512, log=True, label="tokens before", unit="tokens"),
    strength=slider(0.0, 10.0, step=0.5, label="strength of what is trained"),
    base=slider(100.0, 1e6, log=True, label="base of the rotary rates"),
)
def show(reach=128, strength=5.0, base=10000.0):
    """Nothing but distance: all tokens are alike. See what each method would read, and lengthen the text."""
    distance = np.arange(int(reach))
    gained = scores(distance, strength, base)
    weights = {name: softmax(np.asarray(s, float)) for name, s in gained.items()}
    near = max(1, len(distance) // 8)
    share = {name: w[:near].sum() for name, w in weights.items()}
    low, high = min(share, key=share.get), max(share, key=share.get)
    return (
        line({name: (distance, s) for name, s in gained.items()}, x="distance to the key (tokens)", y="added to the score", range_y=(-8, 10),
             steps=["T5, fading table"], dashed=["none (causal mask)"],
             caption="ALiBi falls without end, T5's steps end in one last bucket, rotary attention ripples and comes to rest near 0."),
        line({name: (distance, w * len(w)) for name, w in weights.items()}, x="distance to the key (tokens)", y="weight, 1 = equal share", log_y=True,
             range_y=(1e-2, 1e2), dashed=["none (causal mask)"],
             caption="After the softmax. Content is added to this: it has to make up for what distance takes."),
        f"The nearest eighth of {len(distance)} tokens gets {share[high]:.0%} of the weight with {high}, {share[low]:.0%} with {low}.",
    )
