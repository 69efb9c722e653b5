"""Times snippets.ops against NumPy. benchmarks/browser.py runs this file inside Pyodide; the last value is the result.

The first baseline of an operation is what one writes in NumPy; where another way is known it is timed too, so that the
table also holds the ratio to the fastest of them.
"""

import json
import statistics
import time

import numpy as np

from snippets import ops


def transposed_copy(a, b):
    """Both matrices read along their rows: without BLAS the strides decide."""
    return a @ np.ascontiguousarray(b.T).T


def im2col(x, w):
    """Windows copied into one matrix, then a product."""
    (N, C, H, W), (O, _, kh, kw) = x.shape, w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (2, 3))
    columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(N * H * W, C * kh * kw)
    return (columns @ w.reshape(O, -1).T).reshape(N, H, W, O).transpose(0, 3, 1, 2)


def shifted_products(x, w):
    """One product for each tap of the kernel, on the shifted image."""
    (N, C, H, W), (O, _, kh, kw) = x.shape, w.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((N, O, H * W), x.dtype)
    for i in range(kh):
        for j in range(kw):
            out += w[:, :, i, j] @ padded[:, :, i : i + H, j : j + W].reshape(N, C, H * W)
    return out.reshape(N, O, H, W)


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def attention(q, k, v):
    return softmax(q @ k.swapaxes(-1, -2) / np.float32(np.sqrt(q.shape[-1]))) @ v


def loop(a, x):
    h, out = np.zeros(x.shape[1], x.dtype), np.empty_like(x)
    for t in range(len(x)):
        out[t] = h = a[t] * h + x[t]
    return out


def expanded(x, rows):
    """|x|^2 - 2 x.r + |r|^2: one product, at the price of accuracy that ours does not pay."""
    squared = (x * x).sum(1)[:, None] - 2 * (x @ rows.T) + (rows * rows).sum(1)
    return squared.argmin(1), squared.min(1)


def row_by_row(x, rows):
    """Differences, one candidate at a time."""
    squared = np.stack([((x - row) ** 2).sum(1) for row in rows], 1)
    return squared.argmin(1), squared.min(1)


def add_at(values, segments, n):
    out = np.zeros((n, values.shape[1]), values.dtype)
    np.add.at(out, segments, values)
    return out


def sorted_sums(values, segments, n):
    """Rows sorted by segment, then reduced in runs."""
    out = np.zeros((n, values.shape[1]), values.dtype)
    order = np.argsort(segments, kind="stable")
    found, start = np.unique(segments[order], return_index=True)
    out[found] = np.add.reduceat(values[order], start)
    return out


def cases():
    """op, shape, ratio to reach, ours, baselines, arguments"""
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.standard_normal(shape, np.float32)

    square = normal(512, 512), normal(512, 512)
    yield "matmul", "512x512 @ 512x512", 10, ops.matmul, [np.matmul, transposed_copy], square
    yield "softmax", "2048x256", None, ops.softmax, [softmax], (normal(2048, 256),)
    heads = normal(8, 256, 64), normal(8, 256, 64), normal(8, 256, 64)
    yield "attention", "8 heads, 256x64", 5, ops.attention, [attention], heads
    images = normal(1, 64, 32, 32), normal(64, 64, 3, 3)
    yield "conv2d", "3x3, 64 to 64 channels, 32x32", 10, same_size, [im2col, shifted_products], images
    decay = draw.uniform(0, 1, (1024, 64)).astype(np.float32), normal(1024, 64)
    yield "scan", "T=1024, D=64", 20, ops.scan, [loop], decay
    for dim in (16, 64):
        points = normal(4096, dim), normal(256, dim)
        # The ratio is to the way that is as exact as ours near a row, where the expanded form is off by 1e-2; on these
        # far-off random points the expanded form is exact enough too, and faster: see the ratio to the fastest.
        yield "nearest_row", f"4096x{dim}, 256 rows", 10, ops.nearest_row, [row_by_row, expanded], points
    edges = normal(16384, 64), draw.integers(0, 1024, 16384), 1024
    yield "segment_sum", "16384x64, 1024 segments", None, ops.segment_sum, [add_at, sorted_sums], edges


def same_size(x, w):
    return ops.conv2d(x, w, padding=1)


def milliseconds(functions, arguments, repeats, window):
    """Median of each. They are timed in turns and for equally long, so that a busy machine meets all alike."""
    calls, times = [], [[] for _ in functions]
    for function in functions:
        function(*arguments)
        start = time.perf_counter()
        function(*arguments)
        once = time.perf_counter() - start
        calls.append(max(1, round(window / max(once, 1e-5))))  # a browser's clock has steps of 0.1 ms
    for repeat in range(repeats):
        for i in range(len(functions))[:: 1 if repeat % 2 else -1]:
            start = time.perf_counter()
            for _ in range(calls[i]):
                functions[i](*arguments)
            times[i].append((time.perf_counter() - start) / calls[i] * 1000)
    return [statistics.median(taken) for taken in times]


def measure(repeats=9, window=0.1):
    rows = []
    for op, shape, target, ours, baselines, arguments in cases():
        expected = baselines[0](*arguments)
        for one, other in zip(np.atleast_1d(ours(*arguments)), np.atleast_1d(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
        own, *others = milliseconds([ours, *baselines], arguments, repeats, window)
        ways = {way.__name__: ms for way, ms in zip(baselines, others, strict=True)}
        row = {"op": op, "shape": shape, "ms": own, "numpy_ms": others[0], "ratio": others[0] / own, "target": target}
        rows.append(row | {"ways": ways, "ratio_to_fastest": min(others) / own})
    return {"backend": ops.backend(), "numpy": np.__version__, "rows": rows}


json.dumps(measure())
