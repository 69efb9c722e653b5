"""snippets.ops, compiled and in NumPy, against independent oracles in float64; its C under sanitizers; its wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.sparse
import scipy.spatial.distance
import scipy.special
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from snippets import ops
from tools import native

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-13}

fuzz = settings(max_examples=40, deadline=None, derandomize=True)
sizes = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 33])
leads = st.lists(st.integers(1, 3), max_size=2).map(tuple)
dtypes = st.sampled_from([np.float32, np.float64])


@pytest.fixture(scope="module", autouse=True)
def library():
    """Compiles the kernels; afterwards everything is as it was."""
    before = ops._library
    native.build_native(ROOT)
    yield
    ops._library = before


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def backend(library, request):
    ops.use(request.param)
    return request.param


@st.composite
def draws(draw):
    """A function that makes arrays of a shape, of one dtype and in a memory layout that it chooses."""
    dtype, random = draw(dtypes), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    layout = draw(st.sampled_from(["plain", "fortran", "every second", "backwards", "misaligned", "read-only"]))

    def make(*shape):
        array = random.standard_normal(shape).astype(dtype)
        if layout == "fortran" and shape:
            return np.asfortranarray(array)
        if layout == "every second" and shape:
            wide = np.full((*shape[:-1], 2 * shape[-1]), np.nan, dtype)
            wide[..., ::2] = array
            return wide[..., ::2]
        if layout == "backwards" and shape:
            return np.flip(np.flip(array, -1).copy(), -1)
        if layout == "misaligned" and shape:
            moved = np.empty(array.nbytes + 1, np.uint8)[1:].view(dtype).reshape(shape)
            moved[...] = array
            return moved
        if layout == "read-only" and shape:
            array.flags.writeable = False
        return array

    return make


def wide(*arrays):
    return [torch.from_numpy(np.array(array, np.float64)) for array in arrays]


def close(found, expected, magnitude=1.0):
    """Within the tolerance of the dtype, relative to the magnitude of what was added up."""
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    error = np.abs(found - expected) / np.maximum(np.asarray(magnitude), 1e-30)
    assert (error <= TOLERANCE[found.dtype]).all(), error.max()


# Against oracles


@fuzz
@given(draws(), leads, leads, sizes, sizes, sizes)
def test_matmul_is_torch_matmul(backend, make, a_lead, b_lead, M, K, N):
    a_lead = tuple(n if n == m or 1 in (n, m) else 1 for n, m in zip(a_lead, b_lead, strict=False))
    a, b = make(*a_lead, M, K), make(*b_lead, K, N)
    before = a.copy(), b.copy()
    found = ops.matmul(a, b)
    assert found.dtype == a.dtype
    close(found, wide(a)[0] @ wide(b)[0], wide(abs(a))[0] @ wide(abs(b))[0])
    assert (a == before[0]).all() and (b == before[1]).all()


@fuzz
@given(draws(), leads, sizes, st.floats(-30, 30), st.data())
def test_softmax_is_scipy_softmax(backend, make, lead, n, scale, data):
    x = make(*lead, n) * scale
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    expected = scipy.special.softmax(x.astype(np.float64), axis) if x.size else np.zeros(x.shape)
    close(ops.softmax(x, axis), expected, expected + 1e-37)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_of_two_is_the_logistic_function(backend, dtype):
    """Over the whole range of the exponential: relative, as far down as there are normal numbers."""
    lowest = {np.float32: -87, np.float64: -708}[dtype]
    x = np.linspace(lowest, 0, 20011).astype(dtype)
    found = ops.softmax(np.stack([x, np.zeros_like(x)], 1))
    close(found[:, 0], scipy.special.expit(x.astype(np.float64)), scipy.special.expit(x.astype(np.float64)) / 10)


@fuzz
@given(draws(), leads, sizes, sizes, sizes, sizes, st.booleans(), st.sampled_from([None, 0.3, -2.0]), st.integers(0, 70))
def test_attention_is_torch_attention(backend, make, lead, T, S, d, dv, causal, scale, more):
    T, S = (T, S + more) if not causal else (min(T, S) + more, max(T, S) + more)
    q, k, v = make(*lead, T, d), make(*(1 for _ in lead), S, d), make(S, dv)
    # torch has no bottom-right mask under is_causal, and divides by sqrt(d) even where d is 0
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T) if causal else None
    wide_q, wide_k, wide_v = wide(q, np.broadcast_to(k, (*lead, S, d)), np.broadcast_to(v, (*lead, S, dv)))
    factor = scale if scale is not None else max(d, 1) ** -0.5
    expected = F.scaled_dot_product_attention(wide_q, wide_k, wide_v, attn_mask=mask, scale=factor)
    expected = expected if S else torch.zeros(*lead, T, dv)
    scores = 1 + abs(factor) * d * np.abs(q).max(initial=1) * np.abs(k).max(initial=1)
    close(ops.attention(q, k, v, causal=causal, scale=scale), expected, scores * np.abs(v).max(initial=1))


def test_attention_shares_heads_only_along_axes_of_length_one(backend):
    draw = np.random.default_rng(0)
    q, k, v = draw.normal(size=(2, 3, 5, 4)), draw.normal(size=(2, 1, 6, 4)), draw.normal(size=(2, 1, 6, 3))
    repeated = ops.attention(q.reshape(6, 5, 4), np.repeat(k[:, 0], 3, 0), np.repeat(v[:, 0], 3, 0))
    np.testing.assert_allclose(ops.attention(q, k, v).reshape(6, 5, 3), repeated, rtol=1e-14)
    with pytest.raises(ValueError, match=r"q \(6, 5, 4\), k \(2, 6, 4\)"):
        ops.attention(q.reshape(6, 5, 4), k[:, 0], v[:, 0])


def test_causal_attention_of_a_cache_continues_the_whole_sequence(backend):
    q, k, v = np.random.default_rng(0).normal(size=(3, 2, 90, 8))
    whole = ops.attention(q, k, v, causal=True)
    np.testing.assert_allclose(ops.attention(q[:, 83:], k, v, causal=True), whole[:, 83:], rtol=1e-12)
    changed = k.copy()
    changed[:, 50:] = 9
    np.testing.assert_array_equal(ops.attention(q, changed, v, causal=True)[:, :50], whole[:, :50])


pairs = lambda low, high: st.one_of(st.integers(low, high), st.tuples(*[st.integers(low, high)] * 2))  # noqa: E731


@fuzz
@given(draws(), st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 19), st.integers(1, 3)), sizes, sizes,
       pairs(1, 3), pairs(1, 4), pairs(0, 3), pairs(1, 3), st.booleans())  # fmt: skip
def test_conv2d_is_torch_conv2d(backend, make, counts, H, W, kernel, stride, padding, dilation, with_bias):
    (N, channels, outputs, groups), (kh, kw) = counts, np.broadcast_to(kernel, 2)
    (py, px), (dy, dx) = np.broadcast_to(padding, 2), np.broadcast_to(dilation, 2)
    H, W = max(H, dy * (kh - 1) + 1 - 2 * py, 0), max(W, dx * (kw - 1) + 1 - 2 * px, 0)
    x, w = make(N, groups * channels, H, W), make(groups * outputs, channels, kh, kw)
    bias = make(groups * outputs) if with_bias else None
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    found = ops.conv2d(x, w, bias=bias, **settings)
    if 0 in (N, channels, outputs, H, W):  # torch refuses most of these
        height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in
                         zip((H, W), (py, px), (dy, dx), (kh, kw), np.broadcast_to(stride, 2), strict=True))  # fmt: skip
        assert found.shape == (N, groups * outputs, height, width)
        assert (found == (0 if bias is None else bias[:, None, None])).all()
        return
    expected = F.conv2d(*wide(x, w), None if bias is None else wide(bias)[0], **settings)
    magnitude = F.conv2d(*wide(abs(x), abs(w)), **settings) + (0 if bias is None else abs(bias).max())
    close(found, expected, magnitude)


@fuzz
@given(draws(), sizes, leads, st.booleans(), st.data())
def test_scan_is_the_sum_of_decayed_inputs(backend, make, T, rest, with_start, data):
    """h_t = sum over s of a_(s+1) ... a_t x_s, with h0 as the input before the first."""
    x, a_shape = make(T, *rest), data.draw(st.sampled_from([(T, *rest), rest, (T, *(1 for _ in rest)), ()]))
    a, h0 = make(*a_shape), make(*rest) if with_start else None
    found = ops.scan(a, x, h0)
    decay = np.broadcast_to(a, x.shape).astype(np.float64)
    inputs = [np.zeros(rest) if h0 is None else h0, *x.astype(np.float64)]
    for t in range(T):
        terms = [inputs[s] * decay[s : t + 1].prod(0) for s in range(t + 2)]
        close(found[t], sum(terms), sum(map(abs, terms)))


def test_scan_with_one_decay_is_a_recursive_filter(backend):
    x = np.random.default_rng(0).normal(size=1000)
    np.testing.assert_allclose(ops.scan(np.array(0.9), x), scipy.signal.lfilter([1], [1, -0.9], x), rtol=1e-10)


@fuzz
@given(draws(), leads, sizes, sizes.filter(bool))
def test_nearest_row_is_the_least_of_scipy_cdist(backend, make, lead, D, M):
    x, rows = make(*lead, D), make(M, D)
    index, distance = ops.nearest_row(x, rows)
    assert index.shape == distance.shape == lead
    if D == 0:
        assert (index == 0).all() and (distance == 0).all()
        return
    squared = scipy.spatial.distance.cdist(x.reshape(-1, D).astype(float), rows.astype(float), "sqeuclidean")
    close(np.ravel(distance), squared.min(1), squared.min(1))
    chosen = squared[np.arange(len(squared)), np.ravel(index)]
    assert (chosen <= squared.min(1) * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("copies", [2, 7, 40])
def test_nearest_row_takes_the_first_of_equal_rows(backend, dtype, copies):
    rows = np.random.default_rng(0).normal(size=(5, 6)).astype(dtype)
    index, distance = ops.nearest_row(rows, np.tile(rows, (copies, 1)))
    assert index.tolist() == [0, 1, 2, 3, 4] and (distance == 0).all()
    assert ops.nearest_row(np.full(6, np.inf, dtype), rows) == (0, np.inf)


@pytest.mark.parametrize("position", [0, 1, 6, 20, 32])
def test_nearest_row_keeps_small_distances_far_from_the_origin(backend, position):
    """|x|^2 - 2 x.r + |r|^2 in float32 would give 0 or worse here."""
    rows = np.random.default_rng(0).integers(0, 5, (33, 8)) * 16 + np.float32(4000)
    rows[position] = 4003
    index, distance = ops.nearest_row(np.full(8, 4003.25, np.float32), rows.astype(np.float32))
    assert (index, distance) == (position, 0.5)


@fuzz
@given(draws(), sizes, leads, st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_segment_sum_is_a_sparse_product(backend, make, E, rest, n, seed):
    values, segments = make(E, *rest), np.random.default_rng(seed).integers(0, n, E)
    mark = scipy.sparse.coo_array((np.ones(E), (segments, np.arange(E))), (n, E))
    flat = values.reshape(E, -1) if E else np.zeros((0, int(np.prod(rest))))
    close(ops.segment_sum(values, segments, n).reshape(n, -1), mark @ flat.astype(np.float64), mark @ abs(flat))


# The two ways give one result


@fuzz
@given(st.sampled_from(sorted(ops._SIGNATURES)), st.integers(0, 2**32 - 1), dtypes, st.booleans())
def test_compiled_and_numpy_agree(library, op, seed, dtype, special):
    """Also in where NaN and infinities go: no number where NumPy has NaN."""
    from tests.ops_memory import arguments

    draw = np.random.default_rng(seed)
    positional, named = arguments(op, draw, dtype)
    if special:
        for array in positional:
            if isinstance(array, np.ndarray) and array.dtype == dtype and array.size:
                array[draw.random(array.shape) < 0.03] = draw.choice([np.nan, np.inf, -np.inf])
    results = []
    for name in ("compiled", "numpy"):
        ops.use(name)
        results.append(np.atleast_1d(getattr(ops, op)(*positional, **named)))
    for one, other in zip(*results, strict=True):
        limit = 1e-5 if dtype == np.float32 else 1e-12
        finite = np.abs(other[np.isfinite(other)]).max(initial=0)
        np.testing.assert_allclose(one, other, rtol=limit, atol=limit * finite, equal_nan=True)


@pytest.mark.parametrize("position", [0, 3, 4, 15, 16, 36])
def test_nan_reaches_the_result(backend, position):
    x = np.ones((2, 37), np.float32)
    x[0, position] = np.nan
    assert np.isnan(ops.softmax(x)[0]).all() and not np.isnan(ops.softmax(x)[1]).any()
    assert np.isnan(ops.matmul(x, np.ones((37, 3), np.float32))[0]).all()
    assert np.isnan(ops.attention(x, x, x)).all()
    assert np.isnan(ops.conv2d(x[None, None], np.ones((1, 1, 1, 37), np.float32))[0, 0, 0, 0])
    assert np.isnan(ops.scan(np.float32(0.5), x)[:, position]).all()
    rows = np.ones((50, 37), np.float32)
    rows[40:, position] = np.nan
    index, distance = ops.nearest_row(np.ones(37, np.float32), rows)
    assert index == 40 and np.isnan(distance)
    assert np.isnan(ops.segment_sum(x, [1, 1], 2)[1, position])


def test_softmax_of_infinities(backend):
    inf, nan = np.inf, np.nan
    for width in (1, 4, 7):  # alone, and among what fills vectors
        found = ops.softmax(np.array([[0.0, -inf], [-inf, -inf], [inf, 0]]).repeat(width, 1))
        np.testing.assert_array_equal(found[:, [0, -1]], [[1 / width, 0], [nan, nan], [nan, nan]])
    np.testing.assert_array_equal(ops.softmax(np.array([1e4, -1e4, 0, 1e4], np.float32)), [0.5, 0, 0, 0.5])


def test_empty(backend):
    zeros = np.zeros
    assert ops.matmul(zeros((2, 0, 3)), zeros((3, 4))).shape == (2, 0, 4)
    assert (ops.matmul(np.ones((2, 0)), np.ones((0, 4))) == zeros((2, 4))).all()
    assert ops.softmax(zeros((3, 0))).shape == (3, 0)
    assert (ops.attention(zeros((2, 3)), zeros((0, 3)), zeros((0, 5))) == zeros((2, 5))).all()
    assert ops.conv2d(zeros((0, 1, 3, 3)), zeros((2, 1, 3, 3))).shape == (0, 2, 1, 1)
    assert ops.scan(zeros(()), zeros((0, 4))).shape == (0, 4)
    assert ops.nearest_row(zeros((0, 4)), zeros((2, 4)))[0].shape == (0,)
    assert (ops.segment_sum(zeros((0, 4)), zeros(0, int), 3) == zeros((3, 4))).all()


# Bad input: an error that teaches, before anything is computed

a = np.ones
BAD = [
    (lambda: ops.matmul(a((2, 3), np.float16), a((3, 2))), TypeError, "a must hold float32 or float64, not float16"),
    (lambda: ops.matmul(a((2, 3)), [[1], [2], [3]]), TypeError, "b must hold float32 or float64, not int64"),
    (lambda: ops.matmul(a((2, 3)), a((3, 1), ">f8")), TypeError, "b must hold float32 or float64, not >f8"),
    (lambda: ops.matmul(a((2, 3)), a((3, 2), np.float32)), TypeError, "b must have the dtype of a, float64, not float32"),
    (lambda: ops.matmul(a(3), a((3, 2))), ValueError, r"a must have shape \(..., M, K\), not \(3,\)"),
    (lambda: ops.matmul(a((2, 3)), a((2, 3))), ValueError, r"b must have as many rows as a has columns \(3\)"),
    (lambda: ops.matmul(a((2, 2, 3)), a((3, 3, 2))), ValueError, r"broadcast together.*a \(2, 2, 3\), b \(3, 3, 2\)"),
    (lambda: ops.softmax(a((2, 3)), 2), ValueError, r"axis must be from -2 to 1 for x of shape \(2, 3\), not 2"),
    (lambda: ops.softmax(a(())), ValueError, "axis must be"),
    (lambda: ops.softmax(a(3), 0.0), TypeError, "axis must be an integer, not float"),
    (lambda: ops.softmax(a(3, complex)), TypeError, "x must hold float32 or float64, not complex128"),
    (lambda: ops.attention(a((2, 3)), a((4, 2)), a((4, 2))), ValueError, r"k must have the width of q \(3\)"),
    (lambda: ops.attention(a((2, 3)), a((4, 3)), a((5, 2))), ValueError, r"v must have one row for each row of k \(4\)"),
    (lambda: ops.attention(a(3), a((4, 3)), a((4, 2))), ValueError, "q must have shape"),
    (lambda: ops.attention(a((5, 3)), a((4, 3)), a((4, 2)), causal=True), ValueError, "k has 4 rows and q has 5"),
    (lambda: ops.attention(a((2, 3)), a((4, 3)), a((4, 2)), scale="1"), TypeError, "scale must be a number or None"),
    (lambda: ops.conv2d(a((3, 4, 4)), a((1, 3, 1, 1))), ValueError, r"x must have shape \(N, C, H, W\)"),
    (lambda: ops.conv2d(a((1, 3, 4, 4)), a((1, 2, 1, 1))), ValueError, "w must have C / groups = 3 input channels"),
    (lambda: ops.conv2d(a((1, 3, 4, 4)), a((2, 3, 1, 1)), groups=2), ValueError, "groups must divide"),
    (lambda: ops.conv2d(a((1, 3, 4, 4)), a((2, 3, 1, 1)), groups=0), ValueError, "groups must divide"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 3, 3)), dilation=2), ValueError, "w covers 5 x 5 .* padded x, 4 x 4"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 0, 1))), ValueError, "at least one row and column"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 1, 1)), stride=0), ValueError, "stride must be from 1 to"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 1, 1)), stride=2**31), ValueError, "stride must be from 1 to"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 1, 1)), padding=(1, -1)), ValueError, "padding must be from 0 to"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 1, 1)), padding=2**30), ValueError, "padding makes x .* pixels"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 1, 1)), padding=(1, 1, 1)), ValueError, "padding must be an integer or"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((1, 1, 1, 1)), dilation=1.5), TypeError, "dilation must be an integer"),
    (lambda: ops.conv2d(a((1, 1, 4, 4)), a((2, 1, 1, 1)), bias=a(1)), ValueError, r"bias must have .* shape \(2,\)"),
    (lambda: ops.scan(a(()), a(())), ValueError, r"x must have shape \(T, ...\)"),
    (lambda: ops.scan(a(3), a((3, 2))), ValueError, r"a must broadcast to the shape of x, \(3, 2\), but it is \(3,\)"),
    (lambda: ops.scan(a(2), a((3, 2)), a(3)), ValueError, "h0 must broadcast to the shape of one step"),
    (lambda: ops.nearest_row(a((2, 3)), a((0, 3))), ValueError, "rows must have from 1 to"),
    (lambda: ops.nearest_row(a((2, 3)), a((4, 2))), ValueError, r"x must have the width of rows \(2\)"),
    (lambda: ops.nearest_row(a((2, 3)), np.broadcast_to(1.0, (2**31, 3))), ValueError, "not 2147483648"),
    (lambda: ops.segment_sum(a((2, 3)), [0, 5], 5), ValueError, "segments must be from 0 to n - 1 = 4, not 0 to 5"),
    (lambda: ops.segment_sum(a((2, 3)), [0, -1], 5), ValueError, "not -1 to 0"),
    (lambda: ops.segment_sum(a((2, 3)), [0], 5), ValueError, r"segments must have .* shape \(2,\), not \(1,\)"),
    (lambda: ops.segment_sum(a((2, 3)), [0.0, 1.0], 5), TypeError, "segments must hold integers, not float64"),
    (lambda: ops.segment_sum(a((2, 3)), [0, 1], 2.0), TypeError, "n must be an integer, not float"),
    (lambda: ops.segment_sum(a((0, 3)), np.zeros(0, int), -1), ValueError, "n must be at least 0, not -1"),
    (lambda: ops.use("fast"), ValueError, "name must be"),
]


@pytest.mark.parametrize("bad", range(len(BAD)))
def test_bad_input_is_refused_before_memory_is_touched(monkeypatch, bad):
    call, error, message = BAD[bad]
    monkeypatch.setattr(ops, "_library", object())  # has no function to call
    with pytest.raises(error, match=message):
        call()


# Choosing


def test_backend_says_what_computes(library):
    ops.use("numpy")
    assert ops.backend() == "numpy"
    ops.use("compiled")
    assert ops.backend() == "native"


def test_a_library_older_than_its_sources_is_not_used(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "snippets" / "native", tmp_path / "native")
    monkeypatch.setattr(ops, "__file__", str(tmp_path / "ops.py"))
    assert ops._find() == tmp_path / "native" / "build" / "ops.so"
    os.utime(tmp_path / "native" / "ops.c", (4e9, 4e9))
    assert ops._find() is None


# Memory


def run_fuzz(library: Path, *options: str, preload: Path | None = None) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if preload:  # Python itself was not built for the sanitizer and frees nothing at exit
        environment |= {"LD_PRELOAD": str(preload), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, str(ROOT / "tests" / "ops_memory.py"), str(library), *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


needs_fence = pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")


@needs_fence
def test_no_access_outside_arrays_and_nothing_undefined():
    done = run_fuzz(native.build_native_sanitized(ROOT, "zig"), "fence")
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > 1000


def test_address_sanitizer():
    preload = native.asan_runtime()
    if preload is None:
        pytest.skip("no C compiler with AddressSanitizer here; the fenced run covers the heap")
    done = run_fuzz(native.build_native_sanitized(ROOT, "cc"), preload=preload)
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[0]) > 1000


@needs_fence
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("panel.h", "column_stride == 1 && columns >= PANEL", "column_stride == 1"),  # reads beyond the last column
        ("panel.h", "if (columns >= PANEL)", "if (columns >= 1)"),  # writes beyond it
        ("conv2d.c", "smaller(pixel + p, pixels - 1)", "(pixel + p)"),  # reads beyond the image
        ("nearest_row.c", "smaller(i + r, n - 1)", "(i + r)"),  # reads beyond the last vector
        ("segment_sum.c", "j < width", "j <= width"),
    ],
)
def test_the_fence_notices(tmp_path, file, right, wrong):
    """The memory tests can fail: each planted error ends the process."""
    sources = tmp_path / "snippets" / "native"
    shutil.copytree(ROOT / "snippets" / "native", sources, ignore=shutil.ignore_patterns("build"))
    text = (sources / file).read_text()
    assert right in text
    (sources / file).write_text(text.replace(right, wrong))
    done = run_fuzz(native.build_native_sanitized(tmp_path, "zig"), "fence")
    assert done.returncode < 0, done.stdout  # by a signal, not by a wrong number


# Builds


def tree() -> dict[str, bytes]:
    skipped = {"build", "__pycache__"}
    files = (path for path in (ROOT / "snippets").rglob("*") if path.is_file() and not skipped & set(path.parts))
    return {str(path.relative_to(ROOT)): path.read_bytes() for path in files}


def modules() -> set[str]:
    return {name for name in tree() if name.endswith(".py")} - {"snippets/hatch_build.py"}


INFO = {f"snippets-0.1.0.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD")}


def test_pure_wheel(tmp_path):
    before = tree()
    wheel = native.build_pure_wheel(ROOT, tmp_path)
    assert wheel.name == "snippets-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) == modules() | INFO
        assert archive.read("snippets/ops.py") == (ROOT / "snippets" / "ops.py").read_bytes()
        assert b"Requires-Dist: numpy" in archive.read("snippets-0.1.0.dist-info/METADATA")
        archive.extractall(tmp_path / "installed")
    assert tree() == before
    code = "from snippets import ops; import numpy as np; print(ops.backend(), ops.__file__, ops.softmax(np.zeros(2)))"
    folder = tmp_path / "installed"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"numpy {tmp_path}") and "[0.5 0.5]" in done.stdout


def test_pyodide_wheel(tmp_path):
    before = tree()
    first, second = (native.build_pyodide_wheel(ROOT, tmp_path / name) for name in ("first", "second"))
    assert first.name == "snippets-0.1.0-py3-none-pyodide_2024_0_wasm32.whl"
    assert first.read_bytes() == second.read_bytes(), "not reproducible"
    with zipfile.ZipFile(first) as archive:
        library = {name for name in modules() if name.count("/") == 1}
        assert set(archive.namelist()) == library | INFO | {"snippets/_ops.so"}, "the library, and no entry"
        module = archive.read("snippets/_ops.so")
    assert imports(module) == {"memory", "__stack_pointer", "__memory_base", "__table_base"}
    assert tree() == before


def imports(module: bytes) -> set[str]:
    """The names that a WebAssembly module asks of its surroundings: anything but memory would fail at load."""
    assert module[:8] == b"\0asm\1\0\0\0"
    at, names = 8, set()

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = module[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def text() -> str:
        nonlocal at
        length = number()
        at += length
        return module[at - length : at].decode()

    while at < len(module):
        section, length = module[at], 0
        at += 1
        length = number()
        if section != 2:
            at += length
            continue
        for _ in range(number()):
            text()  # the module it comes from
            names.add(text())
            kind = number()
            fields = {0: 1, 1: 1, 2: 0, 3: 2}[kind]  # function: type; table: element; global: type and mutability
            for _ in range(fields):
                number()
            if kind in (1, 2):  # limits
                for _ in range(2 if number() & 1 else 1):
                    number()
    return names


def test_sources_compile_without_warnings(tmp_path):
    source = ROOT / "snippets" / "native" / "ops.c"
    command = [*native.ZIG, *native.FLAGS, "-Werror", str(source), "-o", str(tmp_path / "ops.so")]
    assert subprocess.run(command, capture_output=True, text=True).stderr == ""


def test_native_build_is_kept_until_a_source_changes(tmp_path):
    shutil.copytree(ROOT / "snippets" / "native", tmp_path / "snippets" / "native", ignore=shutil.ignore_patterns("build"))
    built = native.build_native(tmp_path)
    first = built.stat().st_ino
    assert native.build_native(tmp_path).stat().st_ino == first
    scan = tmp_path / "snippets" / "native" / "scan.c"
    scan.write_text(scan.read_text() + "\n")
    assert native.build_native(tmp_path).stat().st_ino != first
