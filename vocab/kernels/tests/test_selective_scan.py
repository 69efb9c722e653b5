import pytest
import torch
from torch.nn import functional as F

from vocab.kernels.interpret import interpreting
from vocab.kernels.selective_scan import SPEC, _loop, fused, reference, selective_scan
from vocab.kernels.tests.harness import free_memory_or_skip

D = torch.float64

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "channels past the last": ("tl.store(end + batch * E * N + place, h, whole)", "tl.store(end + batch * E * N + place, h, kept[None, :])"),
    "steps past the last": ("tl.store(y + row * E + channel, out.to(y.dtype.element_ty), now)", "tl.store(y + row * E + channel, out.to(y.dtype.element_ty), live)"),
    "missing steps last": ("step = tl.load(dt + row * E + channel, now, other=0.0).to(ACC)\n            written = tl.load(B + row * N + number, there", "step = tl.load(dt + row * E + channel, now, other=1.0).to(ACC)\n            written = tl.load(B + row * N + number, there"),
    "no first state": ("h += tl.load(h0", "h += 0.0 * tl.load(h0"),
    "the input is not weighed by the step": ("h = tl.exp(step[:, None] * rate) * h + (step * drive)[:, None] * written[None, :]\n            out", "h = tl.exp(step[:, None] * rate) * h + drive[:, None] * written[None, :]\n            out"),
    "no path around the state": ("out += tl.load(D", "out += 0.0 * tl.load(D"),
    "a gate without its SiLU": ("out *= gate * tl.sigmoid(gate)", "out *= gate"),
    "stored states off by a hundredth": ("time // STEPS) * E * N + place, h, whole)", "time // STEPS) * E * N + place, h * 1.01, whole)"),
    "sequences mixed up": ("starts + (batch * tl.cdiv(T, STEPS) + first // STEPS)", "starts + (0 * batch + first // STEPS)"),
    "the last state's gradient is dropped": ("carried = tl.load(dend", "carried = 0.0 * tl.load(dend"),
    "recomputed without the decay": ("h = tl.exp(step[:, None] * rate) * h + (step * drive)[:, None] * written[None, :]\n        for", "h = h + (step * drive)[:, None] * written[None, :]\n        for"),
    "the gate's slope": ("(1.0 + gate * (1.0 - open_))", "(1.0 + gate * open_)"),
    "the gate does not damp the gradient": ("upstream *= gate * open_", "upstream *= 1.0"),
    "the read gradient sees the state before": ("tl.sum(upstream[:, None] * h, 0)", "tl.sum(upstream[:, None] * before, 0)"),
    "the written gradient without the step": ("tl.sum(carried * (step * drive)[:, None], 0)", "tl.sum(carried * drive[:, None], 0)"),
    "the skip has no gradient": ("step * along + skip * upstream", "step * along"),
    "the step has no part in the decay": ("drive * along + tl.sum(through * rate, 1)", "drive * along"),
    "the rate's gradient without the step": ("drate += through * step[:, None]", "drate += through"),
    "the gradient passes undamped": ("carried *= decay", "carried *= 1.0"),
    "parts of another block": ("share = (row * blocks + block) * N", "share = (row * blocks) * N"),
}
# triton-viz takes the number of an unrolled step, with which a kept state is looked up, for a symbol.
SANITIZED = None


def example(batch=2, time=9, channels=3, state=2):
    return SPEC.inputs({"batch": batch, "time": time, "channels": channels, "state": state}, D, "cpu")


def one_number_at_a_time(u, dt, A, B, C, D, z, h0):
    y, end = torch.zeros_like(u), torch.zeros_like(h0)
    for b in range(len(u)):
        for e in range(u.shape[2]):
            for n in range(A.shape[1]):
                h = h0[b, e, n]
                for t in range(u.shape[1]):
                    h = torch.exp(dt[b, t, e] * A[e, n]) * h + dt[b, t, e] * B[b, t, n] * u[b, t, e]
                    y[b, t, e] += C[b, t, n] * h
                end[b, e, n] = h
    return (y + D * u) * z / (1 + torch.exp(-z)), end


def test_reference_is_the_recurrence_one_number_at_a_time():
    inputs = [x.detach() for x in example()]
    torch.testing.assert_close(reference(*inputs), one_number_at_a_time(*inputs))
    torch.testing.assert_close(_loop(*inputs), one_number_at_a_time(*inputs))


def test_with_constant_steps_it_is_scipys_filter_in_every_state():
    signal = pytest.importorskip("scipy.signal")
    u = torch.randn(1, 40, 1, dtype=D)
    one, rate = torch.ones_like(u), torch.tensor([[-0.7]], dtype=D)
    expected = signal.lfilter([0.3], [1.0, -torch.tensor(-0.21).double().exp().item()], u[0, :, 0].numpy())
    torch.testing.assert_close(reference(u, 0.3 * one, rate, one, one)[0][0, :, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("time", [1, 9])
def test_operators_on_a_cpu_without_interpreter_agree_with_autograd(time, bare):
    inputs = example(time=time)
    u, dt, A, B, C, skip, z, h0 = inputs[:5] + ((None,) * 3 if bare else inputs[5:])
    given = [x for x in (u, dt, A, B, C, skip, z, h0) if x is not None]
    expected = reference(u, dt, A, B, C, skip, z, h0)
    y, starts, end = torch.ops.vocab.selective_scan_forward(u, dt, A, B, C, skip, z, h0, True)
    torch.testing.assert_close((y, end), expected)
    assert len(torch.ops.vocab.selective_scan_forward(u, dt, A, B, C, skip, z, h0, False)[1]) == 0
    upstream = torch.randn_like(y), torch.randn_like(end)
    found = torch.ops.vocab.selective_scan_backward(*upstream, u, dt, A, B, C, skip, z, starts)
    wanted = torch.autograd.grad(expected, given, upstream)
    torch.testing.assert_close(found[:5] if bare else found, wanted)


@pytest.mark.interp
@pytest.mark.parametrize("bare", [False, True])
def test_gradcheck(bare):
    inputs = example(1, 3, 2, 2)
    with interpreting():
        torch.autograd.gradcheck(lambda *x: selective_scan(*x, backend="triton"), inputs[:5] if bare else inputs, fast_mode=True)


@pytest.mark.interp
def test_a_gate_that_is_half_of_a_wider_projection_needs_no_copy():
    u, dt, A, B, C, skip, _, h0 = (x.detach() for x in example())
    wide = torch.full((2, 9, 6), torch.nan, dtype=D)
    wide[..., 3:] = torch.randn(2, 9, 3)
    with interpreting():
        found = fused(u, dt, A, B, C, skip, wide[..., 3:], h0)
    torch.testing.assert_close(found, reference(u, dt, A, B, C, skip, wide[..., 3:], h0))


@pytest.mark.interp
def test_a_sequence_in_two_pieces_is_the_whole_sequence():
    u, dt, A, B, C, skip, z, h0 = (x.detach() for x in example())
    with interpreting():
        whole, end = fused(u, dt, A, B, C, skip, z, h0)
        first, h = fused(u[:, :4], dt[:, :4], A, B[:, :4], C[:, :4], skip, z[:, :4], h0)
        second, h = fused(u[:, 4:], dt[:, 4:], A, B[:, 4:], C[:, 4:], skip, z[:, 4:], h)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(h, end)


@pytest.mark.interp
def test_a_step_of_no_duration_leaves_no_trace_and_a_long_one_forgets_all():
    u, dt, A, B, C = (x.detach() for x in example()[:5])
    dt[:, 4:] = 0.0
    with interpreting():
        _, end = fused(u, dt, A, B, C)
        _, short = fused(u[:, :4], dt[:, :4], A, B[:, :4], C[:, :4])
        dt[:, 4:], u[:, 4:] = 1e4, 0.0
        _, gone = fused(u, dt, A, B, C)
    assert torch.equal(end, short) and end.abs().min() > 0 and gone.abs().max() == 0


@pytest.mark.interp
def test_a_nan_stays_in_its_channel_and_in_what_comes_after_it():
    inputs = [x.detach().clone() for x in example()]
    inputs[0][1, 5, 2] = torch.nan
    with interpreting():
        y, end = fused(*inputs)
    assert y[1, 5:, 2].isnan().all() and y.isnan().sum() == 4 and end.isnan().sum() == 2


@pytest.mark.interp
def test_half_precision_adds_up_in_single_and_agrees_with_silu():
    one = torch.ones(1, 300, 1, dtype=torch.float16)
    rate = torch.zeros(1, 1)
    with interpreting():
        y, end = fused(one, one * 0.125, rate, one, one, None, one * 3)
    assert y.dtype == torch.float16 and end.dtype == torch.float32 and end.item() == 37.5
    torch.testing.assert_close(y[0, -1, 0], (37.5 * F.silu(torch.tensor(3.0))).half())


@pytest.mark.interp
def test_too_many_numbers_of_state_are_refused():
    u, dt, _, B, C = (x.detach() for x in example(1, 1, 1, 257)[:5])
    with interpreting(), pytest.raises(RuntimeError, match="A has 257 numbers of state a channel, and the kernel keeps up to 256"):
        selective_scan(u, dt, -torch.ones(1, 257, dtype=D), B, C, backend="triton")


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(40)
    batch, time, channels = 3, 2**17 + 5, 6000
    u = torch.zeros(batch, time, channels, dtype=torch.bfloat16, device="cuda")
    u[-1, -2, -1] = 4.0
    one = torch.ones(batch, time, 1, dtype=torch.bfloat16, device="cuda")
    y, end = fused(u, torch.ones_like(u), torch.full((channels, 1), -(2.0**0.5) / 2, device="cuda"), one, one)
    assert y.count_nonzero() == 2 and y[-1, -2, -1] == 4.0 and end.count_nonzero() == 1
