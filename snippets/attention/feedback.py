"""Feedback attention memory in NumPy: a window of blocks, and a few vectors that sum up what has left it."""

import numpy as np

from snippets.attention.causal import causal_mask
from snippets.attention.scaled_dot_product import scaled_dot_product_attention


def layout(fam, window, block):
    """Who reads whom: rows are a block's tokens, then the FAM; columns are the FAM before, the window, the block."""
    tokens = causal_mask(block, fam + window + block)
    memory = np.repeat([True, False, True], [fam, window, block])  # it has seen the window already
    return np.concatenate((tokens, np.tile(memory, (fam, 1))))


def feedback_attention(x, fam, wq, wk, wv, wo, block, memory_blocks=1):
    """One head over tokens x (T, D). Returns outputs (T, D), every state of the FAM, and the last block's weights."""
    outs, fams = [], [fam]
    for start in range(0, len(x), block):
        window, new = x[max(0, start - memory_blocks * block) : start], x[start : start + block]
        read, ask = np.concatenate((fam, window, new)), np.concatenate((new, fam))
        mixed, weights = scaled_dot_product_attention(
            ask @ wq, read @ wk, read @ wv, layout(len(fam), len(window), len(new)))
        outs.append(mixed[: len(new)] @ wo)
        if len(new) == block:
            fam = mixed[len(new) :] @ wo  # the feedback: what it reads is what it is from now on
            fams.append(fam)
    return np.concatenate(outs), fams, weights


# %% demo
from snippets.live import demo, heatmap, line, slider

BLOCKS = 20


def by_hand(strength, block):
    """Weights for tokens (signal, 0, 1) and a FAM (what it holds, 1, 1): all keys are alike, but those of the FAM."""
    share = min(max(strength, 1e-9), 1 - 1e-9)
    score = np.log(share * block / (1 - share))  # one vector against a block of zeros then gets exactly this share
    wq, wk, wv = np.zeros((3, 3, 3))
    wq[2, 0], wk[1, 0] = np.sqrt(3), score
    wv[0, 0] = wv[2, 1] = wv[2, 2] = 1
    return wq, wk, wv, np.eye(3)


def signal(fam_len, strength, block, memory_blocks):
    """The first block says 1, all others 0: what the last token of each block reads of it, the FAM, and the weights."""
    x = np.stack((np.arange(BLOCKS * block) < block, np.zeros(BLOCKS * block), np.ones(BLOCKS * block)), 1).astype(float)
    fam = np.tile([0.0, 1.0, 1.0], (fam_len, 1))
    y, fams, weights = feedback_attention(x, fam, *by_hand(strength, block), block, memory_blocks)
    return y[block - 1 :: block, 0], np.array([f[:1, 0].sum() for f in fams[1:]]), weights


def drawn(values):
    return np.where(values > 1e-5, values, np.nan)  # zero has no place on a logarithmic axis


@demo(
    fam_len=slider(0, 4, label="FAM vectors"),
    strength=slider(0.0, 1.0, step=0.05, label="memory strength: share of one vector in its own update"),
    block=slider(2, 8, label="tokens in a block"),
    memory_blocks=slider(0, 2, label="blocks before that are read exactly"),
)
def show(fam_len=1, strength=0.8, block=4, memory_blocks=1):
    """Only the first block says 1. How long do later tokens know? Try strengths of 0.5 and 0.95, then 1, then no FAM."""
    with_fam, held, weights = signal(fam_len, strength, block, memory_blocks)
    without, _, _ = signal(0, strength, block, memory_blocks)
    curves = {"read without FAM": drawn(without)}
    if fam_len:
        curves |= {"read with FAM": drawn(with_fam), "held in the FAM": drawn(held)}
    keep = fam_len * strength / (fam_len * strength + 1 - strength) if fam_len else 0.0
    window = memory_blocks * block
    names = [f"M{i + 1}" for i in range(fam_len)]
    own = [f"t{i + 1}" for i in range(block)]
    seen = layout(fam_len, window, block)
    known = np.flatnonzero(with_fam > 1e-3)
    return (
        line(
            curves, x="block, from 0", y="part that the first block has", log_y=True, range_y=(1e-5, 1),
            dashed=["held in the FAM"] if fam_len else [],
            caption="The window's curve ends where the first block leaves it. The FAM's falls by one factor a block: a "
                    "stronger memory falls more slowly, but starts lower, as it took less in.",
        ),
        heatmap(
            np.where(seen, weights, np.nan), x="read: FAM before (M), window (w), own block (t)", y="reads: tokens (t), then FAM (M)",
            value="weight", range=(0, 1), rows=own + names, columns=names + [f"w{i + 1}" for i in range(window)] + own,
            caption="The last block. Empty cells are hidden. Tokens read the FAM as if it were tokens; the FAM reads itself and the "
                    "block, but not the window.",
        ),
        f"Without a FAM nothing of the first block is read after block {memory_blocks}." if not fam_len else
        f"The FAM keeps {100 * keep:.0f} % of itself at each block and takes {100 - 100 * keep:.0f} % of the block: "
        + (f"tokens read more than 0.001 of the first block up to block {known[-1]}." if len(known) else
           "all look at a memory that nothing ever enters."),
    )
