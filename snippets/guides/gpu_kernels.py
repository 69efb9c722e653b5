"""What a fused kernel saves, by counting: launches, and bytes that cross the memory."""

import numpy as np

# For each operation its steps in PyTorch, as tables that a step reads and writes (of 16 bits; one of 32 bits counts twice), the tables of the
# one kernel, and in how many time steps PyTorch walks through them.
OPERATIONS = {
    "residual + RMSNorm": ([3, 3, 4, 2, 4, 4, 3], 4, 1),  # add, widen, square, mean, times 1/rms, times weight, narrow
    "SwiGLU gate": ([2, 3], 3, 1),  # silu, times up
    "softmax with temperature and mask": ([2, 2.5, 2], 2.5, 1),  # divide, fill, softmax
    "cross-entropy": ([3, 4], 1, 1),  # widen, log-softmax; the kernel only reads
    "neurons over 100 time steps": ([3, 2, 3, 2, 3, 2], 4, 100),  # leak, drive, compare, spike, reset, store
    "recurrence over 1,000 time steps": ([3, 3], 3, 1000),  # times a, plus b
}


def microseconds(numbers, tables, steps, launch, bandwidth):
    """A step takes as long as its launch or its bytes, whichever is longer: the GPU computes while the next one is launched."""
    return sum(steps * np.maximum(launch, 2 * t * numbers / steps / bandwidth) for t in tables)


def compare(name, numbers, eager_launch, kernel_launch, bandwidth):
    """Microseconds of an operation on so many numbers, in PyTorch and as one kernel. Bandwidth in bytes a microsecond."""
    tables, fused, steps = OPERATIONS[name]
    return (microseconds(numbers, tables, steps, eager_launch, bandwidth),
            microseconds(numbers, [fused], 1, kernel_launch, bandwidth))


# %% demo
from snippets.live import choice, demo, line, slider

NUMBERS = 2.0 ** np.arange(10, 31)


@demo(
    name=choice(*OPERATIONS, label="operation"),
    bandwidth=slider(0.5, 8.0, step=0.1, label="memory bandwidth", unit="TB/s"),
    eager=slider(2, 20, label="launch of one PyTorch operation", unit="µs"),
    kernel=slider(2, 60, label="launch of the kernel from Python", unit="µs"),
)
def show(name="softmax with temperature and mask", bandwidth=4.0, eager=5, kernel=25):
    """Which operations gain at every size, and which only when large? Then make the launch of the kernel as cheap as PyTorch's."""
    plain, fused = compare(name, NUMBERS, eager, kernel, bandwidth * 1e6)
    ratio = plain / fused
    pays = NUMBERS[ratio > 1]
    tables, alone, steps = OPERATIONS[name]
    return (
        line({"PyTorch, step by step": plain, "one kernel": fused}, at=NUMBERS, x="numbers in a table", y="µs", log_x=True, log_y=True,
             caption="Flat where launching takes the time, rising where the memory does. A model with the values of the sliders, not a measurement."),
        line({"PyTorch / kernel": ratio}, at=NUMBERS, x="numbers in a table", y="times as fast", log_x=True, log_y=True, levels={"no gain": 1.0},
             caption="On the right the ratio of bytes, on the left that of launches."),
        f"{len(tables) * steps:,} launches become 1, and {sum(tables):g} tables that cross the memory become {alone:g}. "
        + (f"The kernel gains from {pays[0]:,.0f} numbers on." if len(pays) and ratio[0] <= 1 else
           "The kernel gains at every size shown." if len(pays) else "The kernel gains at none of these sizes."),
    )
