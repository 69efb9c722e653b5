"""The heavy operations of the browser demos: NumPy in, NumPy out, compiled where a compiled library is there.

NumPy in the browser has no BLAS and no SIMD, so a demo that multiplies matrices would make the reader wait. The same
C kernels (snippets/native) are compiled to WebAssembly for the browser and for this machine for the tests; where
neither is there, plain NumPy computes the same. Arrays are float32 or float64, all arguments of a call the same:
nothing is converted behind the reader's back. Arguments are never written to.
"""

import ctypes
import math
import numbers
import operator
import sys
from pathlib import Path

import numpy as np

__all__ = ["attention", "backend", "conv2d", "matmul", "nearest_row", "scan", "segment_sum", "softmax", "use"]


def matmul(a, b):
    """Matrix product of the last two axes.

    Args:
        a: left matrices.
        b: right matrices.

    Shapes:
        a (..., M, K), b (..., K, N) -> (..., M, N); leading axes broadcast as in NumPy.

    Raises:
        TypeError: an array is neither float32 nor float64, or the two differ.
        ValueError: the shapes do not fit.

    >>> matmul(np.ones((2, 3)), np.ones((3, 1)))
    array([[3.],
           [3.]])
    """
    a, b = _arrays(a=a, b=b)
    _at_least("a", a, 2, "(..., M, K)")
    _at_least("b", b, 2, "(..., K, N)")
    (M, K), N = a.shape[-2:], b.shape[-1]
    if b.shape[-2] != K:
        raise ValueError(f"b must have as many rows as a has columns ({K}), but b is {b.shape} and a is {a.shape}")
    lead = _common_lead(2, a=a, b=b)

    if _library is None:
        with np.errstate(all="ignore"):
            return np.matmul(a, b)
    out = np.zeros((*lead, M, N), a.dtype)
    if out.size == 0:
        return out
    batch, rows = math.prod(lead), M
    if b.ndim == 2:  # one right matrix for all: the left ones stack up to a single tall one
        a, batch, rows = a.reshape(batch * M, K), 1, batch * M
    a_index, b_index = _readers(lead, 2, a, b) if batch > 1 else np.zeros((2, 1), np.uintp)
    _call("matmul", *_contiguous(a, b), a_index, b_index, batch, rows, K, N, out)
    return out


def softmax(x, axis=-1):
    """Exponentials along an axis, scaled to sum to 1.

    A slice that holds NaN or +inf, or nothing but -inf, becomes NaN throughout: it has no softmax.

    Args:
        x: logits; -inf gives probability 0.
        axis: the axis that sums to 1.

    Shapes:
        x of any shape with at least one axis -> the same shape.

    Raises:
        TypeError: x is neither float32 nor float64, or axis is no integer.
        ValueError: x has no such axis.

    >>> softmax(np.array([0.0, 0.0, -np.inf]))
    array([0.5, 0.5, 0. ])
    """
    (x,) = _arrays(x=x)
    axis = _integer("axis", axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must be from {-x.ndim} to {x.ndim - 1} for x of shape {x.shape}, not {axis}")
    if x.size == 0:
        return x.copy()
    if _library is None:
        return _softmax(x, axis)
    (rows,) = _contiguous(np.moveaxis(x, axis, -1))
    out = np.empty_like(rows)
    _call("softmax", rows, rows.size // rows.shape[-1], rows.shape[-1], out)
    return np.moveaxis(out, -1, axis)


def attention(q, k, v, *, causal=False, scale=None):
    """Scaled dot-product attention: softmax(scale * q @ k.T) @ v.

    Grouped and multi-query heads are written out by the caller, with an axis of length 1 where heads share:
    q (G, H // G, T, d) with k and v (G, 1, S, d). No head is repeated in memory.

    Args:
        q: queries.
        k: keys.
        v: values.
        causal: hide later keys. With more keys than queries (a KV cache) the queries are the last T positions:
            query t sees keys 0 to S - T + t. A hidden key has weight exactly 0.
        scale: factor of the scores; 1 / sqrt(d) by default.

    Shapes:
        q (..., T, d), k (..., S, d), v (..., S, dv) -> (..., T, dv); leading axes broadcast as in NumPy.
        Without any key (S = 0) the result is 0, the empty sum.

    Raises:
        TypeError: an array is neither float32 nor float64, or they differ, or scale is no number.
        ValueError: the shapes do not fit, or causal with fewer keys than queries.
    """
    q, k, v = _arrays(q=q, k=k, v=v)
    _at_least("q", q, 2, "(..., T, d)")
    _at_least("k", k, 2, "(..., S, d)")
    _at_least("v", v, 2, "(..., S, dv)")
    (T, d), (S, dv) = q.shape[-2:], v.shape[-2:]
    if k.shape[-1] != d:
        raise ValueError(f"k must have the width of q ({d}), but k is {k.shape} and q is {q.shape}")
    if k.shape[-2] != S:
        raise ValueError(f"v must have one row for each row of k ({k.shape[-2]}), but v is {v.shape}")
    if causal and S < T:
        raise ValueError(f"causal needs at least as many keys as queries, but k has {S} rows and q has {T}")
    if scale is None:
        scale = 1 / math.sqrt(max(d, 1))
    elif not isinstance(scale, numbers.Real):
        raise TypeError(f"scale must be a number or None, not {type(scale).__name__}")
    lead = _common_lead(2, q=q, k=k, v=v)

    out = np.zeros((*lead, T, dv), q.dtype)
    if out.size == 0 or S == 0:
        return out
    if _library is None:
        return _attention(q, k, v, causal, scale)
    block = min(T, 256)  # enough queries to repay copying the keys, few enough that their scores stay in the cache
    scores = np.empty(block * S, q.dtype)
    _call("attention", *_contiguous(q, k, v), *_readers(lead, 2, q, k, v), math.prod(lead), T, S, d, dv, float(scale),
          bool(causal), block, out, scores)  # fmt: skip
    return out


def conv2d(x, w, *, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Two-dimensional convolution as neural networks mean it: the kernel is not flipped.

    Args:
        x: images.
        w: kernels.
        bias: one number for each output channel, or None.
        stride: rows and columns between output pixels; an int, or a pair (vertical, horizontal).
        padding: zeros on each side; an int or a pair.
        dilation: distance of kernel taps; an int or a pair.
        groups: number of parts into which the channels are cut; each output channel sees one part.

    Shapes:
        x (N, C, H, W), w (O, C / groups, kh, kw), bias (O,) -> (N, O, H', W')
        with H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1.

    Raises:
        TypeError: an array is neither float32 nor float64, or they differ, or a setting is no integer.
        ValueError: the shapes do not fit, a setting is out of range, or the kernel is larger than the padded image.
    """
    x, w, bias = _arrays(x=x, w=w, bias=bias)
    _exactly("x", x, 4, "(N, C, H, W)")
    _exactly("w", w, 4, "(O, C / groups, kh, kw)")
    (N, C, H, W), (O, I, kh, kw) = x.shape, w.shape
    stride, padding, dilation = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    groups = _integer("groups", groups)
    if groups < 1 or C % groups or O % groups:
        raise ValueError(f"groups must divide the channels of x ({C}) and the rows of w ({O}), not {groups}")
    if I * groups != C:
        raise ValueError(f"w must have C / groups = {C // groups} input channels, but w is {w.shape} and x is {x.shape}")
    if kh < 1 or kw < 1:
        raise ValueError(f"w must have at least one row and column, but w is {w.shape}")
    if bias is not None and bias.shape != (O,):
        raise ValueError(f"bias must have one number for each row of w, shape {(O,)}, not {bias.shape}")
    padded = H + 2 * padding[0], W + 2 * padding[1]
    reach = dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1
    if reach[0] > padded[0] or reach[1] > padded[1]:
        raise ValueError(f"w covers {reach[0]} x {reach[1]} pixels with this dilation, more than the padded x, "
                         f"{padded[0]} x {padded[1]}")  # fmt: skip
    if max(padded) > _LARGEST:
        raise ValueError(f"padding makes x {padded[0]} x {padded[1]} pixels; at most {_LARGEST} a side are possible")

    if _library is None:
        out = _conv2d(x, w, stride, padding, dilation, groups)
    else:
        size = [(padded[i] - reach[i]) // stride[i] + 1 for i in (0, 1)]
        out = np.zeros((N, O, *size), x.dtype)
        if out.size:
            image = np.array([I, *padded], np.uintp)
            steps = np.array([kh, kw, *stride, *dilation], np.uintp)
            _call("conv2d", *_contiguous(_pad(x, *padding), w), image, steps, N, groups, O // groups, *size, out)
    if bias is not None:
        out += bias[:, None, None]
    return out


def scan(a, x, h0=None):
    """First-order linear recurrence h_t = a_t * h_{t-1} + x_t along the first axis.

    Args:
        a: decay.
        x: input.
        h0: the state before the first step; 0 by default.

    Shapes:
        x (T, ...), a broadcasts to the shape of x, h0 broadcasts to that of x[0] -> h (T, ...).

    Raises:
        TypeError: an array is neither float32 nor float64, or they differ.
        ValueError: the shapes do not fit.

    >>> scan(np.array(0.5), np.array([1.0, 1.0, 1.0]))
    array([1.  , 1.5 , 1.75])
    """
    a, x, h0 = _arrays(a=a, x=x, h0=h0)
    _at_least("x", x, 1, "(T, ...)")
    a = _broadcast("a", a, x.shape, f"the shape of x, {x.shape}")
    h0 = np.zeros((), x.dtype) if h0 is None else h0
    h0 = _broadcast("h0", h0, x.shape[1:], f"the shape of one step of x, {x.shape[1:]}")
    if _library is None:
        return _scan(a, x, h0)
    out = np.empty(x.shape, x.dtype)
    if out.size:
        _call("scan", *_contiguous(a, x, h0), len(x), x[0].size, out)
    return out


def nearest_row(x, rows):
    """For each vector the index of the nearest row, and its squared Euclidean distance.

    Of equally near rows the first is taken. A NaN distance counts as nearest, as in np.argmin, so that it is seen.

    Args:
        x: vectors.
        rows: the candidates, at least one (a codebook, a map's units, cluster centres).

    Shapes:
        x (..., D), rows (M, D) -> index (...) of integers, distance (...).

    Raises:
        TypeError: an array is neither float32 nor float64, or they differ.
        ValueError: the shapes do not fit, or there are no rows.
    """
    x, rows = _arrays(x=x, rows=rows)
    _at_least("x", x, 1, "(..., D)")
    _exactly("rows", rows, 2, "(M, D)")
    (M, D), lead = rows.shape, x.shape[:-1]
    if x.shape[-1] != D:
        raise ValueError(f"x must have the width of rows ({D}), but x is {x.shape} and rows is {rows.shape}")
    if not 1 <= M <= _LARGEST:
        raise ValueError(f"rows must have from 1 to {_LARGEST} rows, not {M}")

    index, distance = np.zeros(lead, np.intp), np.zeros(lead, x.dtype)
    if index.size == 0:
        pass
    elif _library is None:
        points = x.reshape(index.size, D)
        index, distance = (found.reshape(lead) for found in _nearest_row(points, rows))
    else:
        panel = 64 // x.itemsize  # columns of a panel in native/panel.h: four vectors
        packed = np.empty(-(-M // panel) * panel * D, x.dtype)
        _call("nearest_row", *_contiguous(x, rows), index.size, M, D, index, distance, packed)
    return index[()], distance[()]


def segment_sum(values, segments, n):
    """Sum the rows of each segment; a segment without rows sums to 0.

    Args:
        values: rows to add up.
        segments: for each row the segment it belongs to, 0 to n - 1, in any order.
        n: number of segments.

    Shapes:
        values (E, ...), segments (E,) -> (n, ...).

    Raises:
        TypeError: values are neither float32 nor float64, or segments or n are not integers.
        ValueError: the shapes do not fit, or a segment is out of range.

    >>> segment_sum(np.array([1.0, 2.0, 4.0]), [1, 0, 1], 3)
    array([2., 5., 0.])
    """
    (values,) = _arrays(values=values)
    _at_least("values", values, 1, "(E, ...)")
    segments, n = np.array(segments), _integer("n", n)
    if segments.dtype.kind not in "iu":
        raise TypeError(f"segments must hold integers, not {segments.dtype}")
    if segments.shape != values.shape[:1]:
        raise ValueError(f"segments must have one number for each row of values, shape {values.shape[:1]}, "
                         f"not {segments.shape}")  # fmt: skip
    if n < 0:
        raise ValueError(f"n must be at least 0, not {n}")
    if segments.size and not (segments.min() >= 0 and segments.max() < n):
        raise ValueError(f"segments must be from 0 to n - 1 = {n - 1}, not {segments.min()} to {segments.max()}")

    out = np.zeros((n, *values.shape[1:]), values.dtype)
    if _library is None:
        with np.errstate(all="ignore"):
            np.add.at(out, segments.astype(np.intp), values)
    elif values.size:
        _call("segment_sum", *_contiguous(values), segments.astype(np.uintp), len(values), values[0].size, out)
    return out


def backend():
    """What computes: "wasm" (compiled, in the browser), "native" (compiled for this machine) or "numpy"."""
    if _library is None:
        return "numpy"
    return "wasm" if sys.platform == "emscripten" else "native"


def use(name):
    """Compute with "numpy" or with the "compiled" kernels from now on; tests and benchmarks compare the two."""
    global _library
    if name not in ("numpy", "compiled"):
        raise ValueError(f'name must be "numpy" or "compiled", not {name!r}')
    _library = _load(_find()) if name == "compiled" else None
    if name == "compiled" and _library is None:
        raise RuntimeError("no compiled kernels here: build them with tools/native.py")


# The same in NumPy, for arguments that have been checked and are not empty.


@np.errstate(all="ignore")
def _softmax(x, axis):
    powers = np.exp(x - x.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


@np.errstate(all="ignore")
def _attention(q, k, v, causal, scale):
    scores = q @ k.swapaxes(-1, -2) * float(scale)
    if causal:
        T, S = scores.shape[-2:]
        scores = np.where(np.tri(T, S, S - T, dtype=bool), scores, -np.inf)
    return _softmax(scores, -1) @ v


@np.errstate(all="ignore")
def _conv2d(x, w, stride, padding, dilation, groups):
    (O, I, kh, kw), (sy, sx), (dy, dx) = w.shape, stride, dilation
    padded = _pad(x, *padding)
    reach = dy * (kh - 1) + 1, dx * (kw - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))[:, :, ::sy, ::sx, ::dy, ::dx]
    parts = []
    for group, weights in enumerate(np.split(w, groups)):
        patches = windows[:, group * I : (group + 1) * I]  # (N, I, H', W', kh, kw)
        parts.append(np.tensordot(weights, patches, ((1, 2, 3), (1, 4, 5))))  # (O / groups, N, H', W')
    return np.concatenate(parts).swapaxes(0, 1)


def _pad(x, rows, columns):
    if rows == columns == 0:
        return x
    N, C, H, W = x.shape
    padded = np.zeros((N, C, H + 2 * rows, W + 2 * columns), x.dtype)
    padded[:, :, rows : rows + H, columns : columns + W] = x
    return padded


@np.errstate(all="ignore")
def _scan(a, x, h0):
    out = np.empty(x.shape, x.dtype)
    h = h0
    for t in range(len(x)):
        out[t] = h = a[t] * h + x[t]
    return out


@np.errstate(all="ignore")
def _nearest_row(x, rows):
    # Differences first: |x|^2 - 2 x.r + |r|^2 loses all digits of a small distance. In parts, as they take much room.
    index, distance = np.empty(len(x), np.intp), np.empty(len(x), x.dtype)
    step = max(1, 2**18 // max(1, rows.size))
    for i in range(0, len(x), step):
        difference = x[i : i + step, None] - rows
        squared = np.einsum("nmd,nmd->nm", difference, difference)
        index[i : i + step], distance[i : i + step] = squared.argmin(1), squared.min(1)
    return index, distance


# What comes in: every check happens before memory is touched.

_LARGEST = 2**31 - 1  # sizes and indices fit 32 bits in WebAssembly


def _arrays(**named):
    """The arguments as arrays; None stays None."""
    arrays = {name: None if value is None else np.asarray(value) for name, value in named.items()}
    given = {name: array for name, array in arrays.items() if array is not None}
    first = next(iter(given))
    for name, array in given.items():
        if array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} must hold float32 or float64, not {array.dtype}")
        if array.dtype != given[first].dtype:
            raise TypeError(f"{name} must have the dtype of {first}, {given[first].dtype}, not {array.dtype}")
    return tuple(arrays.values())


def _at_least(name, array, axes, shape):
    if array.ndim < axes:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")


def _exactly(name, array, axes, shape):
    if array.ndim != axes:
        raise ValueError(f"{name} must have shape {shape}, not {array.shape}")


def _integer(name, value):
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}") from None


def _pair(name, value, least):
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be an integer or a pair of integers, not {value!r}")
    pair = tuple(_integer(name, item) for item in pair)
    if not all(least <= item <= _LARGEST for item in pair):
        raise ValueError(f"{name} must be from {least} to {_LARGEST}, not {value!r}")
    return pair


def _broadcast(name, array, shape, what):
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(f"{name} must broadcast to {what}, but it is {array.shape}") from None


def _common_lead(axes, **named):
    """The shape to which all axes but the last ones broadcast."""
    try:
        return np.broadcast_shapes(*(array.shape[:-axes] for array in named.values()))
    except ValueError:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise ValueError(f"all but the last {axes} axes must broadcast together, but the shapes are {shapes}") from None


# What goes to C.

# p: pointer, n: size, r: number of the arrays' type
_SIGNATURES = {
    "matmul": "ppppnnnnp",
    "softmax": "pnnp",
    "attention": "ppppppnnnnnrnnpp",
    "conv2d": "ppppnnnnnp",
    "scan": "pppnnp",
    "nearest_row": "ppnnnppp",
    "segment_sum": "ppnnp",
}


def _contiguous(*arrays):
    """In one piece and aligned, copied where they are not."""
    return tuple(np.require(array, requirements=("C", "A")) for array in arrays)


def _readers(lead, axes, *arrays):
    """For each array the number of the matrix that each element of the broadcast result reads: no copies."""
    for array in arrays:
        own = array.shape[:-axes]
        yield np.broadcast_to(np.arange(math.prod(own), dtype=np.uintp).reshape(own), lead).ravel()


def _call(op, *arguments):
    function = getattr(_library, f"{op}_f{arguments[0].itemsize * 8}")
    function(*(item.ctypes.data if isinstance(item, np.ndarray) else item for item in arguments))


def _find():
    """Where the compiled library is, or None. One older than its sources may expect other arguments: not taken."""
    here = Path(__file__).parent
    built = here / "_ops.so" if sys.platform == "emscripten" else here / "native" / "build" / "ops.so"
    if not built.exists():
        return None
    sources = (here / "native").glob("*.[ch]")
    return None if any(source.stat().st_mtime > built.stat().st_mtime for source in sources) else built


def _load(path):
    try:
        library = ctypes.CDLL(str(path)) if path else None
    except OSError:  # built for another machine
        library = None
    if library is None:
        return None
    for bits, real in (32, ctypes.c_float), (64, ctypes.c_double):
        types = {"p": ctypes.c_void_p, "n": ctypes.c_size_t, "r": real}
        for op, signature in _SIGNATURES.items():
            function = getattr(library, f"{op}_f{bits}")
            function.argtypes, function.restype = [types[kind] for kind in signature], None
    return library


_library = _load(_find())
