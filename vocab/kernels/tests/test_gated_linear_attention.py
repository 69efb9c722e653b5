import pytest
import torch

from vocab.kernels import linear_attention as scalar
from vocab.kernels.gated_linear_attention import gated_linear_attention, reference
from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import free_memory_or_skip
from vocab.kernels.tests.test_linear_attention import example, loop

D = torch.float64

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "sums of the own half": ("place = (steps >> level) + (-1 if UP else 1)", "place = steps >> level"),
    "both halves take the other's sum": ("inside & (((steps >> level) & 1) == (1 if UP else 0))", "inside & (place >= 0)"),
    "a step decays what it writes": ("return log if UP else tl.zeros_like(log)", "return log"),
    "a chunk decays the state by its first step": ("passed = _load(sums, batch, head, 2 * ((N << LEVELS) - N) + chunk, 0, row", "passed = _load(sums, batch, head, chunk << LEVELS, 0, row"),
    "the first state is left out": ("memory += tl.load(start", "memory += 0.0 * tl.load(start"),
    "gradients of states in order of time": ("chunk = N - 1 - done if REVERSE else done", "chunk = done"),
    "keys are written undecayed": ("_dot((key.to(ACC) * tl.exp(log))", "_dot((key.to(ACC) * 1.0)"),
    "one level too few": ("        for level in tl.range(0, LEVELS, num_stages=1):\n            pairs", "        for level in tl.range(0, LEVELS - 1, num_stages=1):\n            pairs"),
    "a step does not see itself": ("weight += tl.where(rows == cols, _dot(asking, asked, ACC), 0.0)", "weight += tl.where(rows == cols, 0.0, 0.0)"),
    "queries undecayed within a chunk": ("_dot((asking.to(ACC) * tl.exp(own)).to(asking.dtype), (asked", "_dot((asking.to(ACC) * 1.0).to(asking.dtype), (asked"),
    "pairs of neighbours, also of other blocks": (" & (((later >> level) & 1) == 1)", ""),
    "the future is seen": ("(cols, rows) if REVERSE else (rows, cols)", "(rows, cols)"),
    "no gradient through a step's own key": ("mixed = _dot(tl.where(rows == cols, weight, 0.0)", "mixed = 0.0 * _dot(tl.where(rows == cols, weight, 0.0)"),
    "decays pass to the wrong side": ("passing = (rows > cols if REVERSE else rows <= cols) & (", "passing = (rows >= cols if REVERSE else rows < cols) & ("),
    "decays pass to other blocks": (" & (rows >> level == cols >> level)", ""),
    "the decay's gradient without what passes the chunk": ("total += passed[None, :] *", "total += 0.0 * passed[None, :] *"),
    "a decay does not change what is read of earlier chunks": ("(own * read).to(mixing.dtype)", "(own * 0.0).to(mixing.dtype)"),
    "the state is read undecayed": ("read *= tl.exp(here)", "read *= 1.0"),
}
SANITIZED = None  # triton-viz cannot follow addresses that are made by shifting bits


@pytest.mark.parametrize("time", [1, 15, 16, 33])
def test_reference_is_the_recurrence_step_by_step(time):
    given = example(time=time, decay="row")
    torch.testing.assert_close(reference(*given), loop(*given))


def test_operators_on_a_cpu_without_interpreter_agree_with_autograd_through_the_loop():
    given = example(decay="row")
    plain = [x.detach() for x in given]
    expected = loop(*given)
    torch.testing.assert_close(torch.ops.vocab.gated_linear_attention_forward(*plain), expected)
    upstream = [torch.randn_like(x) for x in expected]
    found = torch.ops.vocab.gated_linear_attention_backward(*upstream, *plain)
    torch.testing.assert_close(found, torch.autograd.grad(expected, given, upstream))


@pytest.mark.interp
def test_gradcheck():
    with interpreting():
        run = lambda *x: gated_linear_attention(*x, backend="triton")  # noqa: E731
        torch.autograd.gradcheck(run, example(batch=1, time=2, heads=1, groups=1, keys=1, values=1, decay="row"), fast_mode=True)


@pytest.mark.interp
def test_equal_decays_of_all_rows_are_linear_attention_with_one_decay():
    q, k, v, log_decay, _ = example(batch=1, time=19, heads=2, groups=1, decay="step")
    with interpreting(), torch.no_grad():
        found = gated_linear_attention(q, k, v, log_decay[..., None].expand(*log_decay.shape, 3), backend="triton")
        torch.testing.assert_close(found, scalar.linear_attention(q, k, v, log_decay, backend="triton"), rtol=1e-12, atol=1e-12)


@pytest.mark.interp
@pytest.mark.parametrize("dtype", [torch.float32, D])
def test_decays_however_strong_neither_overflow_nor_lose_what_came_after(dtype):
    """Factors that refer to the start of a chunk would be exp(3000) for keys: infinite, and NaN times 0."""
    ones = torch.ones(1, 16, 1, 2, dtype=dtype)
    log_decay = torch.full((1, 16, 1, 2), -200.0, dtype=dtype)
    log_decay[:, 10:, :, 0] = -0.01
    log_decay[:, 12, :, 1] = -torch.inf
    given = [x.requires_grad_() for x in (ones.clone(), ones.clone(), ones[..., :1].clone(), log_decay)]
    with interpreting():
        out, last = gated_linear_attention(*given, backend="triton")
        gradients = torch.autograd.grad(out.sum() + last.sum(), given)
    kept = sum(torch.exp(torch.tensor(-0.01 * n, dtype=D)).item() for n in range(7))  # what step 9 and later wrote
    assert last.flatten().tolist() == pytest.approx([kept, 1.0], rel=1e-6)
    assert out[0, -1, 0, 0].item() == pytest.approx(kept + 1.0, rel=1e-6)
    expected, end = reference(*given)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum() + end.sum(), given))


@pytest.mark.interp
def test_nan_reaches_its_own_head_only():
    q, k, v, log_decay, state = example(batch=1, time=18, heads=2, groups=2, decay="row")
    with torch.no_grad():
        k[0, 3, 0] = torch.nan
    with interpreting(), torch.no_grad():
        out, last = gated_linear_attention(q, k, v, log_decay, state, backend="triton")
    assert out[0, 3:, 0].isnan().all() and last[0, 0].isnan().all()
    assert not out[0, :, 1].isnan().any() and not last[0, 1].isnan().any()


@pytest.mark.interp
def test_refused_with_the_reason():
    q, k, v, log_decay, _ = example(decay="row")
    with interpreting():
        with pytest.raises(RuntimeError, match="k has dtype torch.float32 and q torch.float64"):
            gated_linear_attention(q, k.float(), v, log_decay, backend="triton")
        with pytest.raises(RuntimeError, match="q has dtype torch.complex128"):
            gated_linear_attention(q.to(torch.complex128), k, v, log_decay, backend="triton")


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(70)
    heads, width = 64, 64
    time = 2**31 // (heads * width) + 70
    q = torch.zeros(1, time, 1, width, dtype=torch.bfloat16, device="cuda")
    q[0, -70:, 0] = torch.randn(70, width)
    v = torch.zeros(1, time, heads, 16, dtype=torch.bfloat16, device="cuda")
    v[0, -70:] = torch.randn(70, heads, 16)
    log_decay = torch.full((1, time, heads, width), -0.1, device="cuda")
    out, last = gated_linear_attention(q, q, v, log_decay, backend="triton")
    expected, end = reference(q[:, -70:], q[:, -70:], v[:, -70:], log_decay[:, -70:])
    torch.testing.assert_close(out[:, -70:], expected, rtol=0.02, atol=0.5)
    torch.testing.assert_close(last, end, rtol=0.02, atol=0.5)
