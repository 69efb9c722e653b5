import itertools

import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.scan import _chunk, reference, scan
from vocab.kernels.tests.harness import free_memory_or_skip

D = torch.float64

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "channels past the last": ("tl.store(end + place, state, live)", "tl.store(end + place, state)"),
    "steps past the last": ("out.to(h.dtype.element_ty), inside)", "out.to(h.dtype.element_ty), live[:, None])"),
    "missing steps forget": ("keep = tl.load(a_rows + far * a_time, inside, other=1.0).to(ACC)\n        add = tl.load(b_rows + far * b_time, inside, other=0.0).to(ACC)\n        if", "keep = tl.load(a_rows + far * a_time, inside, other=0.0).to(ACC)\n        add = tl.load(b_rows + far * b_time, inside, other=0.0).to(ACC)\n        if"),
    "a chunk's decay from one step only": ("product *= kept", "product = kept"),
    "the summary of gradients without the last decay": ("            add *= keep", "            add *= 1.0"),
    "every chunk starts at zero": ("state += tl.load(ends", "state += 0.0 * tl.load(ends"),
    "every chunk starts with its own end": ("earlier = number + 1 if REVERSE else number - 1", "earlier = number"),
    "the first state at the wrong end": ("live & (number == (chunks - 1 if REVERSE else 0)), other=0.0)\n    for", "live & (number == (0 if REVERSE else chunks - 1)), other=0.0)\n    for"),
    "input before decay": ("state = _step(keep, now) * state + _step(add, now)", "state = _step(keep, now) * (state + _step(add, now))"),
    "steps of a tile always in order": ("now = steps[None, :] == (STEPS - 1 - i if REVERSE else i)\n            gradient", "now = steps[None, :] == i\n            gradient"),
    "one tile too few": ("for done in tl.range(0, chunk, STEPS, num_stages=STAGES):\n        time = tl.multiple_of(number * chunk + (chunk - STEPS - done if REVERSE else done), STEPS) + steps\n        inside = live[:, None] & (time < T)[None, :]\n        far = time.to(tl.int64)[None, :]\n        keep", "for done in tl.range(0, chunk - STEPS, STEPS, num_stages=STAGES):\n        time = tl.multiple_of(number * chunk + (chunk - STEPS - done if REVERSE else done), STEPS) + steps\n        inside = live[:, None] & (time < T)[None, :]\n        far = time.to(tl.int64)[None, :]\n        keep"),
    "later chunks hand nothing back": ("carried += tl.load(ends", "carried += 0.0 * tl.load(ends"),
    "the state of the same step": ("h + place + (-inner if REVERSE else inner)", "h + place"),
    "the first state has no part in the first decay": ("first += tl.load(h0", "first += 0.0 * tl.load(h0"),
    "the gradient passes undamped": ("carried = _step(keep, now) * gradient", "carried = gradient"),
    "the first state's gradient from the wrong chunk": ("tl.store(dh0 + channel, carried, live & (number == (0 if REVERSE else chunks - 1)))", "tl.store(dh0 + channel, carried, live & (number == (chunks - 1 if REVERSE else 0)))"),
}
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("both", "tl.load(dh + place, inside, other=0.0)", "tl.load(dh + place)")


def example(outer=2, time=9, inner=3, dtype=D):
    a, b = torch.rand(outer, time, inner, dtype=dtype) * 2 - 1, torch.randn(outer, time, inner, dtype=dtype)
    return tuple(x.requires_grad_() for x in (a, b, torch.randn(outer, inner, dtype=dtype)))


def loop(a, b, h, order=None):
    states = {}
    for t in order or range(a.shape[1]):
        h = states[t] = a[:, t] * h + b[:, t]
    return torch.stack([states[t] for t in range(a.shape[1])], 1)


@pytest.mark.parametrize("time", [1, 2, 3, 8, 33])
def test_reference_is_the_loop(time):
    a, b, h0 = example(time=time)
    torch.testing.assert_close(reference(a, b, h0), loop(a, b, h0))
    torch.testing.assert_close(reference(a, b), loop(a, b, 0 * h0))
    torch.testing.assert_close(reference(a, b, h0, reverse=True), loop(a, b, h0, range(time - 1, -1, -1)))


def test_reference_is_scipys_first_order_filter():
    signal = pytest.importorskip("scipy.signal")
    b = torch.randn(1, 200, 1, dtype=D)
    expected = torch.from_numpy(signal.lfilter([1.0], [1.0, 0.93], b[0, :, 0].numpy()))
    torch.testing.assert_close(reference(torch.full_like(b, -0.93), b)[0, :, 0], expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("start", [False, True])
def test_operators_on_a_cpu_without_interpreter_agree_with_autograd_through_the_loop(start, reverse):
    a, b, h0 = example()
    expected = loop(a, b, h0 if start else 0 * h0, range(8, -1, -1) if reverse else None)
    first = h0.detach() if start else None
    h = torch.ops.vocab.scan_forward(a.detach(), b.detach(), first, reverse)
    torch.testing.assert_close(h, expected)
    upstream = torch.randn_like(h)
    found = torch.ops.vocab.scan_backward(upstream, a.detach(), h, first, reverse)
    wanted = torch.autograd.grad(expected, (a, b, h0), upstream)
    torch.testing.assert_close(found[:2], wanted[:2])
    if start:
        torch.testing.assert_close(found[2], wanted[2])


@pytest.mark.interp
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(1, 9, 2), (2, 9, 1)])
def test_gradcheck(shape, reverse):
    with interpreting():
        torch.autograd.gradcheck(lambda *x: scan(*x, reverse=reverse, backend="triton"), example(*shape), fast_mode=True)


@pytest.mark.interp
@pytest.mark.parametrize("time", [8, 9, 21])
def test_without_a_first_state_and_with_a_decay_that_is_not_copied(time):
    """21 steps are three chunks, the last of which is not full."""
    decay, b = torch.rand(3, dtype=D), torch.randn(2, time, 3, dtype=D)
    a = decay.expand(2, time, 3)
    with interpreting():
        torch.testing.assert_close(scan(a, b, backend="triton"), loop(a, b, torch.zeros(2, 3, dtype=D)))


@pytest.mark.interp
@pytest.mark.parametrize("reverse", [False, True])
def test_a_nan_stays_in_its_channel_and_in_what_comes_after_it(reverse):
    b = torch.ones(1, 21, 3)
    b[0, 10, 1] = torch.nan
    with interpreting():
        h = scan(torch.full_like(b, 0.5), b, reverse=reverse, backend="triton")
    after = h[0, :11, 1] if reverse else h[0, 10:, 1]
    assert after.isnan().all() and h.isnan().sum() == len(after)


@pytest.mark.interp
def test_a_decay_of_zero_forgets_and_a_decay_of_one_adds_in_single_precision():
    a, b = torch.ones(1, 300, 1, dtype=torch.float16), torch.ones(1, 300, 1, dtype=torch.float16) * 0.125
    a[0, 200] = 0.0
    with interpreting():
        h = scan(a, b, backend="triton")
    assert h.dtype == torch.float16 and h[0, 199] == 25.0 and h[0, 200] == 0.125 and h[0, 299] == 12.5


def test_chunks_are_whole_tiles_fill_the_gpu_and_leave_enough_channels_alone():
    for time, channels in itertools.product((1, 8, 100, 5000, 2**20), (1, 1000, 2**17, 2**20)):
        chunk = _chunk(time, channels)
        assert chunk % 8 == 0 and -(-time // chunk) <= max(chunk, 1), "a pass over chunks is no longer than a chunk"
    assert _chunk(4096, 2**17) >= 4096 and _chunk(4096, 2**14) == 512 and _chunk(2**16, 1) == 256


@pytest.mark.interp
def test_two_dtypes_are_refused():
    b = torch.zeros(1, 9, 1)
    with interpreting(), pytest.raises(RuntimeError, match="a has dtype torch.float64 and b torch.float32"):
        scan(b.double(), b, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2, 2**20 + 3, 1025), (2**20 + 3, 2050, 1)])
def test_past_two_to_the_31_numbers(shape):
    free_memory_or_skip(24)
    a = torch.full((1, 1, 1), 0.5, dtype=torch.bfloat16, device="cuda").expand(shape)
    b = torch.zeros(shape, dtype=torch.bfloat16, device="cuda")
    b[-1, -2, -1] = 4.0
    h = scan(a, b, backend="triton")
    assert h[-1, -2, -1] == 4.0 and h[-1, -1, -1] == 2.0 and h.count_nonzero() == 2
