import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.linear_attention import linear_attention, reference
from vocab.kernels.tests.harness import free_memory_or_skip

D = torch.float64

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "steps past the last": ("(rows < T - first) & (dims < D)", "(rows < T) & (dims < D)"),
    "columns past the last": ("(rows < T - first) & (dims < D)", "(rows < T - first)"),
    "a chunk does not decay the state": ("memory *= tl.exp(tl.sum(log, 0))", "memory *= 1.0"),
    "the first state is left out": ("memory += tl.load(start", "memory += 0.0 * tl.load(start"),
    "writing decays from the wrong end": ("steps[None, :], not REVERSE)[:, None]", "steps[None, :], REVERSE)[:, None]"),
    "gradients of states in order of time": ("chunk = N - 1 - done if REVERSE else done", "chunk = done"),
    "one chunk too few": ("tl.range(0, N, num_stages", "tl.range(0, N - 1, num_stages"),
    "a step does not see itself": ("weight = tl.where(cols >= rows if REVERSE else cols <= rows, weight, 0.0)", "weight = tl.where(cols > rows if REVERSE else cols < rows, weight, 0.0)"),
    "a step sees the future of its chunk": ("weight = tl.where(cols >= rows if REVERSE else cols <= rows, weight, 0.0)", "weight = weight * 1.0"),
    "a step decays what it writes": ("tl.where(rows > cols, log[:, None], 0.0)", "tl.where(rows >= cols, log[:, None], 0.0)"),
    "the same on the way back": ("tl.where(cols > rows, log[None, :], 0.0) if REVERSE", "tl.where(cols >= rows, log[None, :], 0.0) if REVERSE"),
    "the state is read undecayed": ("read *= _kept(log, rows, cols, REVERSE)[:, None]", "read *= 1.0"),
    "the state is read as it lies": ("wide[:, None] + dims * DA if TURNED", "wide[:, None] * DX + dims if TURNED"),
    "the state keeps the size of 1": (".to(asking.dtype), ACC) * size", ".to(asking.dtype), ACC)"),
    "only the first keys": ("tl.range(0, DA, BLOCK", "tl.range(0, BLOCK, BLOCK"),
    "the decay's gradient without what passes the chunk": ("total += passed *", "total += 0.0 * passed *"),
    "a decay changes what its own step writes": ("tl.where(rows < cols, share", "tl.where(rows <= cols, share"),
    "a decay does not change what its own step reads": ("tl.where(rows >= cols, share", "tl.where(rows > cols, share"),
    "pairs are added up from the wrong end": ("pairs = tl.cumsum(pairs, 0, reverse=True)", "pairs = tl.cumsum(pairs, 0)"),
    "steps written after a decay": ("tl.sum(tl.where(cols < rows, pairs, 0.0), 1)", "tl.sum(tl.where(cols <= rows, pairs, 0.0), 1)"),
}
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("both", "tl.load(states + tile, there, other=0.0)", "tl.load(states + tile)")


def example(batch=2, time=5, heads=4, groups=2, keys=3, values=2, decay="step"):
    shapes = (batch, time, groups, keys), (batch, time, groups, keys), (batch, time, heads, values), (batch, heads, keys, values)
    q, k, v, state = (torch.randn(shape, dtype=D, requires_grad=True) for shape in shapes)
    shape = {"head": (heads,), "step": (batch, time, heads), "row": (batch, time, heads, keys)}.get(decay)
    return q, k, v, None if shape is None else (-torch.rand(shape, dtype=D)).requires_grad_(), state


def loop(q, k, v, log_decay, state):
    """One step after the other, one batch element and head after the other."""
    batch, time, heads, width = v.shape
    share = heads // q.shape[2]
    outs, states = torch.zeros(batch, time, heads, width, dtype=D), []
    decay = torch.ones((), dtype=D) if log_decay is None else log_decay.exp()
    decay = decay[..., None] if log_decay is None or log_decay.dim() < 4 else decay
    decay = decay.expand(batch, time, heads, k.shape[3])
    for b in range(batch):
        for h in range(heads):
            S = state[b, h]
            for t in range(time):
                S = torch.diag(decay[b, t, h]) @ S + torch.outer(k[b, t, h // share], v[b, t, h])
                outs[b, t, h] = q[b, t, h // share] @ S
            states.append(S)
    return outs, torch.stack(states).view(state.shape)


@pytest.mark.parametrize("chunk", [1, 2, 3, 64])
@pytest.mark.parametrize("decay", ["none", "head", "step", "row"])
def test_reference_is_the_recurrence_step_by_step(decay, chunk):
    given = example(decay=decay)
    torch.testing.assert_close(reference(*given, chunk=chunk), loop(*given))


@pytest.mark.parametrize("decay", ["none", "step"])
def test_operators_on_a_cpu_without_interpreter_agree_with_autograd_through_the_loop(decay):
    given = example(decay=decay)
    plain = [None if x is None else x.detach() for x in given]
    expected = loop(*given)
    torch.testing.assert_close(torch.ops.vocab.linear_attention_forward(*plain), expected)
    upstream = [torch.randn_like(x) for x in expected]
    found = torch.ops.vocab.linear_attention_backward(*upstream, *plain, decay == "step")
    wanted = [x for x in given if x is not None]
    found = [g for g, x in zip(found, given) if x is not None]
    torch.testing.assert_close(found, list(torch.autograd.grad(expected, wanted, upstream)))


@pytest.mark.interp
@pytest.mark.parametrize("decay", ["none", "step"])
def test_gradcheck(decay):
    given = example(batch=1, time=3, heads=2, groups=1, keys=2, decay=decay)
    wanted = [x for x in given if x is not None]

    def run(q, k, v, *rest):
        log_decay, state = (None, *rest) if decay == "none" else rest
        return linear_attention(q, k, v, log_decay, state, backend="triton")

    with interpreting():
        torch.autograd.gradcheck(run, wanted, fast_mode=True)


@pytest.mark.interp
def test_a_decay_of_minus_infinity_clears_the_state_and_nothing_becomes_nan():
    q, k, v, log_decay, state = example(batch=1, time=40, heads=1, groups=1)
    with torch.no_grad():
        log_decay[0, [0, 7, 35]] = -torch.inf
    wanted = (q, k, v, log_decay, state)
    with interpreting():
        out, last = linear_attention(*wanted, backend="triton")
        gradients = torch.autograd.grad(out.square().sum() + last.sum(), wanted)
    fresh = linear_attention(q[:, 35:], k[:, 35:], v[:, 35:], log_decay[:, 35:])
    torch.testing.assert_close((out[:, 35:], last), fresh)
    expected, end = reference(*wanted)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum() + end.sum(), wanted))
    assert not gradients[4].any() and not gradients[3][0, [0, 7, 35]].any()


@pytest.mark.interp
def test_short_segments_after_a_long_decay_keep_their_digits():
    """Differences of cumulative sums would be off by 1e-4 here: a sum of -4000 in float32 knows no less than 2e-4."""
    ones = torch.ones(1, 32, 1, 1)
    log_decay = torch.full((1, 32, 1), -200.0)
    log_decay[:, 20:] = -0.01
    with interpreting():
        out, _ = linear_attention(ones, ones, ones, log_decay, backend="triton")
    expected = sum(torch.exp(torch.tensor(-0.01 * n, dtype=D)) for n in range(13))  # what step 19 and later wrote
    assert out[0, -1, 0, 0].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.interp
def test_a_state_beyond_the_range_of_float16_can_be_read():
    q, k, v = (torch.full((1, 2, 1, 1), x, dtype=torch.float16) for x in (1e-3, 1.0, 2.0))
    with interpreting():
        out, last = linear_attention(q, k, v, None, torch.full((1, 1, 1, 1), 1e7), backend="triton")
    assert out.flatten().tolist() == pytest.approx([1e4, 1e4], rel=2e-3) and last.item() == 1e7 + 4


@pytest.mark.interp
def test_nan_reaches_its_own_step_and_later_ones_only():
    q, k, v, log_decay, state = example(batch=1, time=36, heads=2, groups=2)
    with torch.no_grad():
        k[0, 3, 0] = torch.nan
    with interpreting(), torch.no_grad():
        out, last = linear_attention(q, k, v, log_decay, state, backend="triton")
    bad = out.isnan().all(-1)[0]
    assert bad[3:, 0].all() and last[0, 0].isnan().all()
    assert not last[0, 1].isnan().any() and not bad[:, 1].any() and not bad[:3, 0].any()


@pytest.mark.interp
def test_refused_with_the_reason():
    q, k, v, log_decay, state = example(decay="row")
    with interpreting():
        with pytest.raises(RuntimeError, match="log_decay has a number for each row of the state"):
            linear_attention(q, k, v, log_decay, state, backend="triton")
        with pytest.raises(RuntimeError, match="k has dtype torch.float32 and q torch.float64"):
            linear_attention(q, k.float(), v, backend="triton")
        with pytest.raises(RuntimeError, match="q has dtype torch.complex128"):
            linear_attention(q.to(torch.complex128), k, v, backend="triton")
    torch.testing.assert_close(linear_attention(q, k, v, log_decay, state), loop(q, k, v, log_decay, state))


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(40)
    heads, width = 64, 128
    time = 2**31 // (heads * width) + 70
    q = torch.zeros(1, time, 1, width, dtype=torch.bfloat16, device="cuda")
    q[0, -70:, 0] = torch.randn(70, width)
    v = torch.zeros(1, time, heads, width, dtype=torch.bfloat16, device="cuda")
    v[0, -70:] = torch.randn(70, heads, width)
    log_decay = torch.full((heads,), -0.1, device="cuda")
    out, last = linear_attention(q, q, v, log_decay, backend="triton")
    expected, end = reference(q[:, -70:], q[:, -70:], v[:, -70:], log_decay)
    torch.testing.assert_close(out[:, -70:], expected, rtol=0.02, atol=0.5)
    torch.testing.assert_close(last, end, rtol=0.02, atol=0.5)
