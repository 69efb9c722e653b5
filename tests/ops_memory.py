"""Calls every compiled operation on random shapes; test_ops.py runs this in a process that a bad access ends.

    python ops_memory.py LIBRARY [fence]

"fence" moves every array that C gets against a page that may not be touched, once at its end and once at its beginning,
so that the first byte outside is fatal without AddressSanitizer.
"""

from __future__ import annotations

import ctypes
import mmap
import sys

import numpy as np

from snippets import ops

# What vectors and tiles are made of, and what is just beside: 0, 1, less than a vector, one, a panel, one more.
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33]


class Fence:
    """A copy of an array with a forbidden page on both sides, as near to one of them as its alignment allows."""

    def __init__(self, array: np.ndarray, at_end: bool):
        page = mmap.PAGESIZE
        inside = -(-array.nbytes // page) * page
        self.memory = mmap.mmap(-1, inside + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        offset = page + (inside - array.nbytes if at_end else 0)
        self.array = np.frombuffer(self.memory, array.dtype, array.size, offset).reshape(array.shape)
        self.array[...] = array
        for forbidden in start, start + page + inside:
            if LIBC.mprotect(ctypes.c_void_p(forbidden), page, 0):
                raise OSError("mprotect failed")


def fenced_call(op, *arguments):
    for at_end in (True, False):
        fences = [Fence(item, at_end) if isinstance(item, np.ndarray) else item for item in arguments]
        plain_call(op, *(item.array if isinstance(item, Fence) else item for item in fences))
    for item, fence in zip(arguments, fences, strict=True):
        if isinstance(item, np.ndarray) and item.flags.writeable:
            item[...] = fence.array


def arguments(op: str, draw: np.random.Generator, dtype) -> tuple[tuple, dict]:
    """Shapes that fit each other, everything else by chance."""

    def size(least=0):
        return int(draw.choice([n for n in SIZES if n >= least]))

    def normal(*shape):
        return draw.standard_normal(shape).astype(dtype)

    lead = tuple(draw.integers(1, 4, draw.integers(0, 3)))
    if op == "matmul":
        K = size()
        return (normal(*lead, size(), K), normal(*(lead if draw.random() < 0.5 else ()), K, size())), {}
    if op == "softmax":
        return (normal(size(), size()),), {"axis": int(draw.integers(-2, 2))}
    if op == "attention":
        d, S = size(), size()
        T = int(draw.choice([S, size()])) + int(draw.choice([0, 65]))
        shared = tuple(n if draw.random() < 0.5 else 1 for n in lead)
        return (normal(*lead, T, d), normal(*shared, S, d), normal(*shared, S, size())), {"causal": T <= S}
    if op == "conv2d":
        groups, pair = int(draw.integers(1, 4)), lambda low, high: tuple(int(n) for n in draw.integers(low, high, 2))
        kernel, dilation, padding = pair(1, 4), pair(1, 3), pair(0, 3)
        image = [max(size(), dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i], 0) for i in (0, 1)]
        channels, outputs = int(draw.integers(0, 4)), int(draw.integers(0, 20))
        x, w = normal(draw.integers(0, 3), groups * channels, *image), normal(groups * outputs, channels, *kernel)
        return (x, w), {"stride": pair(1, 4), "padding": padding, "dilation": dilation, "groups": groups}
    if op == "scan":
        T, D = size(), size()
        return (normal(T, D), normal(T, D)), {"h0": normal(D)}
    if op == "nearest_row":
        D = size()
        return (normal(size(), D), normal(size(1), D)), {}
    if op == "segment_sum":
        n, rows = size(), size()
        rows = rows if n else 0
        return (normal(rows, size()), draw.integers(0, max(n, 1), rows), n), {}
    raise ValueError(op)


if __name__ == "__main__":
    LIBC, plain_call = ctypes.CDLL(None), ops._call
    if "fence" in sys.argv:
        ops._call = fenced_call
    compiled = ops._load(sys.argv[1])
    if compiled is None:
        sys.exit(f"{sys.argv[1]} does not load")
    draw, calls = np.random.default_rng(0), 0
    for op in ops._SIGNATURES:
        for dtype in (np.float32, np.float64):
            for _ in range(80):
                positional, named = arguments(op, draw, dtype)
                ops._library = compiled
                found = getattr(ops, op)(*positional, **named)
                ops._library = None
                expected = getattr(ops, op)(*positional, **named)
                for one, other in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4, err_msg=op)
                calls += 1
    print(calls, "calls")
