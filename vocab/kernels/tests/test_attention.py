import contextlib
import math

import pytest
import torch
from torch.nn import functional as F

from vocab.kernels import attention as ops
from vocab.kernels.attention import SPEC, attention, reference
from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import free_memory_or_skip

D = torch.float64
# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "rows beyond the last": ("(rows < many - start) & (dims < D)", "(rows < many) & (dims < D)"),
    "numbers beyond the head": ("(rows < many - start) & (dims < D)", "rows < many - start"),
    "keys beyond the last": ("seen = cols < S - key\n", "seen = cols < S\n"),
    "the sum is not carried to the new maximum": ("total * shrink +", "total +"),
    "the mean is not carried to the new maximum": ("mixed * shrink[:, None] +", "mixed +"),
    "infinity less infinity": ('base = tl.where(higher == float("-inf"), 0.0, higher)', "base = higher"),
    "nothing divided by nothing": ("tl.where(total == 0.0, 1.0, total)", "total"),
    "the log-sum without its maximum": ("highest + tl.log(total)", "tl.log(total)"),
    "log-sums past the last query": ("highest + tl.log(total), rows < T - query)", "highest + tl.log(total))"),
    "a bonus for distance": ("score -= slope * tl.abs(back)", "score += slope * tl.abs(back)"),
    "one key fewer before": ("seen & (back <= before)", "seen & (back < before)"),
    "one key more behind": ("seen & (back <= before) & (back >= -after)", "seen & (back <= before) & (back >= -after - 1)"),
    "a block too few at the start": ("tl.maximum(start - before, 0) // STEP", "tl.maximum(start - before, 0) // STEP + 1"),
    "a block too few at the end": ("tl.cdiv(tl.minimum(start + LENGTH + after, many), STEP)", "tl.minimum(start + LENGTH + after, many) // STEP"),
    "the diagonal in the upper corner": ("_reach(key - (S - T), after, before", "_reach(key, after, before"),
    "before and after changed about": ("_reach(key - (S - T), after, before", "_reach(key - (S - T), before, after"),
    "a mask lying on its side": ("rows * 64 + cols) != 0", "cols * 64 + rows) != 0"),
    "always the mask's first corner": ("tile + query % 64 * 64 + key % 64 + rows", "tile + rows"),
    "hidden blocks instead of visible ones": ("descending=True", "descending=False"),
    "one query head instead of a group": ("range(kv * (H // G), (kv + 1) * (H // G))", "range(kv, kv + 1)"),
    "no softcap on the way to the queries": ("(score / cap)\n        for_queries +=", "0.0\n        for_queries +="),
    "no softcap on the way to the keys": ("(score / cap)\n            for_keys +=", "0.0\n            for_keys +="),
    "the softmax without its mean, queries": (" - mean[:, None])\n        if CAP", ")\n        if CAP"),
    "the softmax without its mean, keys": (" - mean[None, :])", ")"),
    "keys without the scale": ("for_keys * factor", "for_keys"),
    "no bias": ("score += tl.load(there", "score += 0.0 * tl.load(there"),
    "the bias of the first tile": ("bias + tl.full((), query, tl.int64) * bias_row + key + rows", "bias + rows"),
    "a bias lying on its side": ("rows * bias_row + cols\n", "cols * bias_row + rows\n"),
    "the bias beyond the last query": ("seen & (rows < T - query), other=0.0", "seen, other=0.0"),
    "the first head's bias": ("tl.full((), head, tl.int64) * bias_head\n    queries", "0\n    queries"),
    "the first head's bias, keys": ("tl.full((), head, tl.int64) * bias_head\n        theirs, line", "0\n        theirs, line"),
    "another text's bias": ("step in zip(bias.shape[:3], bias.stride())", "step in zip(bias.shape[1:], bias.stride())"),
    "the bias's gradient from one text alone": ("batches * heads, 0)", "heads, 0)"),
    "the bias's gradient in the wrong head": ("which % heads_given + n % heads", "which % heads_given * 0 + n % heads"),
    "the bias's gradient where nothing is seen": ("(first <= block) & (block < last) & (number >= 0)", "first >= 0"),
    "the bias's gradient with the scale": ("tl.store(there, total.to", "tl.store(there, (total * factor).to"),
    "the bias's gradient without the mean": (" - mean[:, None])\n    there", ")\n    there"),
}
# triton-viz cannot follow loops whose length depends on the program. Every comparison checks the addresses.
SANITIZED = None


def example(T=3, S=4, H=2, G=1, width=2, B=1):
    return [torch.randn(B, n, t, width, dtype=D, requires_grad=True) for n, t in ((H, T), (G, S), (G, S))]


def band(T, S, before, after):
    back = torch.arange(S - T, S)[:, None] - torch.arange(S)
    return back, (back <= before) & (back >= -after)


@pytest.mark.parametrize(("T", "S"), [(5, 7), (7, 5)])
def test_reference_is_torchs_attention_with_a_mask(T, S):
    q, k, v = example(T, S, 4, 2, 3, B=2)
    assert torch.allclose(reference(q, k, v)[0], F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    back, seen = band(T, S, 2, 1)
    slopes = torch.tensor([0.5, 0.25, -1.0, 2.0], dtype=D)
    table = (-slopes[:, None, None] * back.abs()).masked_fill(~seen, -torch.inf)
    found, lse = reference(q, k, v, before=2, after=1, slopes=slopes, scale=0.3)
    wanted = F.scaled_dot_product_attention(q, k, v, table, scale=0.3, enable_gqa=True)
    kept = seen.any(1)
    torch.testing.assert_close(found[:, :, kept], wanted[:, :, kept])
    assert (found[:, :, ~kept] == 0).all()
    torch.testing.assert_close(lse, (0.3 * q @ k.repeat_interleave(2, 1).mT + table).logsumexp(-1))


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (1, 4, 5, 7), (3, 1, 5, 7), (5, 7), (4, 5, 1), (3, 1, 1, 7), ()])
@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=pytest.mark.interp)])
def test_a_bias_of_any_shape_that_broadcasts_is_torchs_mask_with_its_gradient(shape, backend):
    q, k, v = example(5, 7, 4, 2, 3, B=3)
    bias = torch.randn(shape, dtype=D, requires_grad=True)
    with interpreting() if backend == "triton" else contextlib.nullcontext():
        found, _ = attention(q, k, v, bias=bias, backend=backend)
    wanted = F.scaled_dot_product_attention(q, k, v, bias.expand(3, 4, 5, 7), enable_gqa=True)
    torch.testing.assert_close(found, wanted)
    upstream = torch.randn_like(wanted)
    gradients = (torch.autograd.grad(x, (q, k, v, bias), upstream) for x in (found, wanted))
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.interp
def test_a_bias_of_minus_infinity_hides_keys_and_whole_rows_as_a_mask_would():
    q, k, v = example(70, 66, B=2)
    seen = torch.rand(2, 1, 1, 66) < 0.5
    seen[0] = False  # nothing but padding
    bias = torch.zeros(2, 1, 1, 66).masked_fill(~seen, -torch.inf)
    with interpreting():
        found, lse = attention(q, k, v, bias=bias, after=0, backend="triton")
        gradients = torch.autograd.grad(found.square().sum(), (q, k, v))
    wanted = F.scaled_dot_product_attention(q, k, v, seen & band(70, 66, 66, 0)[1], enable_gqa=True)
    wanted = wanted.where((seen & band(70, 66, 66, 0)[1]).any(-1, keepdim=True), 0.0)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients, torch.autograd.grad(wanted.square().sum(), (q, k, v)))
    assert (found[0] == 0).all() and (lse[0] == -torch.inf).all() and (gradients[1][0] == 0).all() and found[1, :, -1].all()


@pytest.mark.interp
def test_a_bias_that_wants_no_gradient_costs_no_launch(monkeypatch):
    launched, (q, k, v) = [], example(B=2)
    with interpreting(), monkeypatch.context() as patch:
        kernel = ops._bias_kernel
        patch.setattr(ops, "_bias_kernel", type("", (), {"__getitem__": lambda self, grid: launched.append(grid) or kernel[grid]})())
        for wanted in (False, True):
            bias = torch.zeros(2, 3, 4, dtype=D, requires_grad=wanted)
            attention(q, k, v, bias=bias, backend="triton")[0].sum().backward()
            assert len(launched) == wanted


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (torch.zeros(3, 5), r"bias has shape \(3, 5\), which does not broadcast to \(1, 2, 3, 4\)"),
        (torch.zeros(1, 1, 1, 3, 4), r"bias has shape \(1, 1, 1, 3, 4\)"),
        (torch.ones(3, 4).bool(), "bias has dtype torch.bool; expected floating-point numbers"),
    ],
)
def test_what_is_no_bias_is_named(bias, message):
    with pytest.raises(ValueError, match=message):
        attention(*example(), bias=bias)


def test_softcap_is_gemmas():
    q, k, v = example()
    score = 2 * torch.tanh(q @ k.mT / math.sqrt(2) / 2)
    torch.testing.assert_close(reference(q, k, v, softcap=2.0)[0], score.softmax(-1) @ v)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_reference_with_blocks_is_flex_attention():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    q, k, v = (torch.randn(1, 1, n, 16, dtype=D) for n in (130, 200, 200))
    blocks = torch.tensor([[1, -1, -1, 0], [0, 1, -1, -1], [-1, -1, -1, -1]], dtype=torch.int32)
    tiles = (torch.rand(2, 64, 64) < 0.5).byte()

    def see(b, h, i, j):
        number = blocks[i // 64, j // 64].long()
        return (number >= 0) & (tiles[number.clamp(min=0), i % 64, j % 64] > 0)

    mask = flex.create_block_mask(see, None, None, 130, 200, device="cpu")
    torch.testing.assert_close(reference(q, k, v, blocks=blocks, tiles=tiles)[0], flex.flex_attention(q, k, v, block_mask=mask))
    whole = flex.create_block_mask(lambda b, h, i, j: blocks[i // 64, j // 64] >= 0, None, None, 130, 200, device="cpu")
    torch.testing.assert_close(reference(q, k, v, blocks=blocks)[0], flex.flex_attention(q, k, v, block_mask=whole))


EVERYTHING = dict(
    before=2, after=1, scale=0.7, softcap=1.5, slopes=torch.tensor([0.5, 0.2], dtype=D), blocks=torch.zeros(1, 1, dtype=torch.int32),
    tiles=(torch.arange(64)[:, None] + torch.arange(64) != 3).byte()[None],
)  # fmt: skip


def test_operators_on_a_cpu_without_interpreter_are_the_closed_form():
    q, k, v = example(B=2)
    bias = torch.randn(1, 2, 3, 4, dtype=D, requires_grad=True)
    settings = ops._arguments(q, k, **EVERYTHING, bias=bias)
    turned = [x.transpose(1, 2) for x in (q, k, v)]
    out, lse = torch.ops.vocab.attention_forward(*turned, *settings)
    expected, sums = reference(q, k, v, **EVERYTHING, bias=bias)
    torch.testing.assert_close((out.transpose(1, 2), lse), (expected, sums))
    upstream = torch.randn_like(expected)
    *wanted, for_bias = torch.autograd.grad(expected, (q, k, v, bias), upstream)
    for asked in (True, False):
        *found, of_bias = torch.ops.vocab.attention_backward(upstream.transpose(1, 2), *turned, out, lse, asked, *settings)
        torch.testing.assert_close([x.transpose(1, 2) for x in found], wanted)
        torch.testing.assert_close(of_bias, for_bias if asked else torch.empty(0, 3, 2, 2, dtype=D))


@pytest.mark.interp
@pytest.mark.parametrize(("heads", "options"), [(1, {"after": 0}), (2, EVERYTHING)], ids=["causal", "everything"])
def test_gradcheck(heads, options):
    bias = [torch.randn(heads, 2, 3, dtype=D, requires_grad=True)]

    def run(q, k, v, bias=None):
        return attention(q, k, v, bias=bias, **options, backend="triton")[0]

    with interpreting():
        torch.autograd.gradcheck(run, example(2, 3, heads, B=heads) + bias[: heads - 1])


@pytest.mark.interp
@pytest.mark.parametrize(
    "options", [{"slopes": torch.tensor([0.5, 0.25], dtype=D)}, {"before": 0}, {"before": 3, "after": 40}], ids=["alibi", "before", "band"]
)
def test_keys_behind_the_query_are_seen_as_in_plain_torch(options):
    q, k, v = example(70, 66, width=5)
    with interpreting():
        found = attention(q, k, v, **options, backend="triton")
    expected = attention(q, k, v, **options, backend="torch")
    torch.testing.assert_close(found, expected)


@pytest.mark.interp
def test_the_size_of_a_tile_changes_nothing(monkeypatch):
    q, k, v = example(40, 50, width=5)
    settings = {("forward", "float32"): (16, 64, 4, 1), ("queries", "float32"): (64, 16, 4, 1), ("keys", "float32"): (16, 64, 4, 1)}
    found = []
    with interpreting():
        for tiles in ({}, settings):
            monkeypatch.setattr(ops, "CONFIGS", {key: {64: tiles.get(key, sizes[64])} for key, sizes in ops.CONFIGS.items()})
            out, lse = attention(q, k, v, after=0, before=20, backend="triton")
            found.append((out, lse, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    torch.testing.assert_close(*found)


@pytest.mark.interp
def test_log_sums_are_those_of_the_scores_and_have_no_gradient():
    q, k, v = example(40, 50, width=5)
    with interpreting():
        _, lse = attention(q, k, v, after=0, backend="triton")
    score = (q @ k.mT / math.sqrt(5)).masked_fill(~band(40, 50, 50, 0)[1], -torch.inf)
    torch.testing.assert_close(lse, score.logsumexp(-1).detach())
    assert not lse.requires_grad


@pytest.mark.interp
def test_a_query_that_sees_nothing_gets_zeros_and_passes_no_gradient_on():
    q, k, v = example(5, 3)
    with interpreting():
        out, lse = attention(q, k, v, after=0, backend="triton")  # two queries stand before the first key
        gradients = torch.autograd.grad(out.sum() + out.square().sum(), (q, k, v))
    assert (out[:, :, :2] == 0).all() and (lse[:, :, :2] == -torch.inf).all() and (gradients[0][:, :, :2] == 0).all()
    assert all(x.isfinite().all() for x in (out, *gradients)) and (out[:, :, 2:] != 0).all()


@pytest.mark.interp
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores_do_not_overflow(size):
    q, k = torch.ones(1, 1, 1, 1), torch.arange(40.0).view(1, 1, 40, 1)  # two tiles
    with interpreting():
        out, lse = attention(q, k, k, scale=size, backend="triton")
    assert out.item() == (39.0 if size > 0 else 0.0) and lse.item() == max(39 * size, 0)


@pytest.mark.interp
def test_a_nan_reaches_the_queries_that_see_it_and_no_others():
    q, k, v = (x.detach().clone() for x in example(4, 4, width=3))
    k[:, :, 2, 1] = torch.nan
    q[:, 1, 0, 0] = torch.nan
    with interpreting():
        out, _ = attention(q, k, v, after=0, backend="triton")
    assert out.isnan().all(-1).tolist() == [[[False, False, True, True], [True, False, True, True]]] and not out[0, 0, :2].isnan().any()


@pytest.mark.interp
def test_heads_side_by_side_as_a_projection_leaves_them_are_not_copied(monkeypatch):
    q, k, v = (torch.randn(1, n, 2, 16, dtype=D).transpose(1, 2) for n in (3, 5, 5))
    copied = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda x: copied.append(not x.is_contiguous()) or contiguous(x))
    with interpreting():
        out, _ = attention(q, k, v, backend="triton")
        assert copied and not any(copied)
        attention(q.clone(memory_format=torch.contiguous_format), k, v, backend="triton")
    assert any(copied) and out.transpose(1, 2).is_contiguous()


@pytest.mark.interp
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(q=torch.zeros(1, 2, 3, 2).int()), "q has dtype torch.int32"),
        (dict(v=torch.zeros(1, 1, 4, 2)), "v has dtype torch.float32 and q torch.float64"),
        (dict(v=torch.zeros(1, 1, 4, 3, dtype=D)), "heads are 2 and values 3 wide"),
        (dict(zip("qkv", [torch.zeros(1, 1, 4, 129)] * 3)), "heads are 129 .* up to 128"),
        (dict(slopes=torch.ones(2, requires_grad=True)), "slopes wants a gradient"),
    ],
)
def test_what_the_kernel_cannot_do_is_named(change, message):
    given = {**dict(zip("qkv", example())), **change}
    with interpreting(), pytest.raises(RuntimeError, match=f"attention cannot run with backend='triton': {message}"):
        attention(**given, backend="triton")


def test_gpu_sizes_use_every_stored_configuration():
    for build in SPEC.builds:
        assert any(build.at(sizes) for sizes in SPEC.gpu), build


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(40)
    heads, width = 128, 128
    T = 2**31 // (heads * width) + 3
    q = torch.zeros(1, T, heads, width, dtype=torch.bfloat16, device="cuda").requires_grad_()
    k, v = (torch.zeros(1, T, 1, width, dtype=torch.bfloat16, device="cuda").requires_grad_() for _ in range(2))
    with torch.no_grad():
        for x in (q, k, v):
            x[:, -8:] = torch.randn(1, 8, x.shape[2], width)
    options = dict(before=7, after=0)
    out, _ = attention(*(x.transpose(1, 2) for x in (q, k, v)), **options, backend="triton")
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    last = [x.detach()[:, -16:].float().requires_grad_() for x in (q, k, v)]
    expected, _ = reference(*(x.transpose(1, 2) for x in last), **options)
    torch.testing.assert_close(out[:, :, -9:].float(), expected[:, :, -9:], rtol=2e-2, atol=2e-2)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), last)):
        torch.testing.assert_close(ours[:, -8:].float(), theirs[:, -8:], rtol=5e-2, atol=5e-2)


@pytest.mark.gpu
def test_a_bias_of_more_than_two_to_the_31_numbers():
    free_memory_or_skip(30)
    T = 33_000  # two heads
    q, k, v = (torch.randn(1, 2, T, 16, device="cuda").bfloat16() for _ in range(3))
    bias = torch.zeros(1, 2, T, T, dtype=torch.bfloat16, device="cuda")
    bias[:, :, -16:] = torch.randn(1, 2, 16, T, device="cuda")
    bias.requires_grad_()
    out, _ = attention(q, k, v, bias=bias, backend="triton")
    (gradient,) = torch.autograd.grad(out[:, :, -16:].sum(), bias)
    last = bias.detach()[:, :, -16:].float().requires_grad_()
    expected, _ = reference(q[:, :, -16:].float(), k.float(), v.float(), bias=last)
    torch.testing.assert_close(out[:, :, -16:].float(), expected, rtol=2e-2, atol=2e-2)
    (wanted,) = torch.autograd.grad(expected.sum(), last)
    assert (gradient[:, :, -16:].float() - wanted).norm() <= 2e-2 * wanted.norm()
    assert not gradient[:, :, :-16].any()
