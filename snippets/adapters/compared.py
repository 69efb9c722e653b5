"""What each adapter trains and what it costs, in NumPy."""

from snippets.adapters.peft import trained_numbers


def kept(counts, methods):
    """The numbers of the methods that are asked for, full fine-tuning last."""
    return {name: counts[name] for name in counts if any(name.startswith(m) for m in methods)}


# %% demo
from snippets.live import bars, demo, slider, table


@demo(
    width=slider(512, 8192, step=512, label="width of the model"),
    layers=slider(4, 80, step=4, label="layers"),
    rank=slider(1, 64, label="rank of LoRA"),
    prefix=slider(1, 100, label="vectors of prompt and prefix"),
    bottleneck=slider(8, 256, step=8, label="bottleneck"),
)
def show(width=4096, layers=32, rank=8, prefix=20, bottleneck=64):
    """Widen the model: full fine-tuning grows with the square, all others with the width. Then raise the rank."""
    counts = trained_numbers(width, layers, rank, prefix, bottleneck)
    shown = {name.replace(" on all layers", ", all").replace(" on q and v", ", q and v"): n for name, n in counts.items()}
    full = counts["full"]
    extra = {"full": "none", "bottleneck": f"{layers} adapters run", "LoRA": "none once merged", "prefix": f"{prefix} places in every cache",
             "(IA)": "none once merged", "prompt": f"{prefix} tokens of context"}
    rows = [[name, f"{100 * n / full:.4f} %", f"{2 * n / 1e6:,.2f} MB", next(v for k, v in extra.items() if name.startswith(k))]
            for name, n in counts.items()]
    return (
        bars(shown, y="trained numbers", log_y=True, range_y=(1e3, 1e12),
             caption="On a logarithmic axis: each step of the grid is a factor. From the whole model to one prompt there are six or more of them."),
        table(rows, columns=["method", "of the model", "file of a task (16 bit)", "cost when it runs"],
              caption="What is stored for each task, and what it costs to run."),
        f"LoRA of rank {rank} on all layers trains {100 * counts['LoRA on all layers'] / full:.2f} % of {full / 1e9:,.1f} billion numbers.",
    )
