import pytest
import torch
from torch.nn import functional as F

from vocab.kernels.interpret import interpreting
from vocab.kernels.qk_norm_rope import SPEC, qk_norm_rope, reference
from vocab.kernels.tests.harness import free_memory_or_skip

D = torch.float64
# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "heads that are not there are read": ("(head < N_HEADS)[:, None] & in_first[None, :], (head < N_HEADS)[:, None] & in_second[None, :]\n    x +=", "(head < N_HEADS + 1)[:, None] & in_first[None, :], (head < N_HEADS)[:, None] & in_second[None, :]\n    x +="),
    "an odd width has a second of its last pair": ("in_first, in_second = pair < (WIDTH + 1) // 2, pair < WIDTH // 2\n    has_first, has_second = (head < N_HEADS)[:, None] & in_first[None, :], (head < N_HEADS)[:, None] & in_second[None, :]\n    x +=", "in_first, in_second = pair < (WIDTH + 1) // 2, pair < (WIDTH + 1) // 2\n    has_first, has_second = (head < N_HEADS)[:, None] & in_first[None, :], (head < N_HEADS)[:, None] & in_second[None, :]\n    x +="),
    "the other direction": ("_write(y, a * c - b * s, a * s + b * c", "_write(y, a * c + b * s, b * c - a * s"),
    "the gradient is turned forward": ("up_a * c + up_b * s, up_b * c - up_a * s", "up_a * c - up_b * s, up_b * c + up_a * s"),
    "the inverse is no inverse": ("        s = -s\n", "        s = s\n"),
    "pairs of neighbours in both layouts": ("first = tl.where(pair < ROTARY // 2, pair, first)", "first = tl.where(pair < ROTARY // 2, first, first)"),
    "the pair's second one too far": ("first, second = pair, pair + ROTARY // 2", "first, second = pair, pair + 1"),
    "what is not turned vanishes": ("tl.load(cos + pair, turned, other=1.0)", "tl.load(cos + pair, turned, other=0.0)"),
    "keys with the queries' angles of the next token": ("time * (ROTARY // 2)\n    small", "(time + 1) % T * (ROTARY // 2)\n    small"),
    "every batch with the first one's angles": ("cos += batch * angle_batch +", "cos += 0 * angle_batch +"),
    "the norm divides by the block": ("tl.sum(a * a + b * b, 1) / WIDTH + eps)[:, None]", "tl.sum(a * a + b * b, 1) / (2 * PAIRS) + eps)[:, None]"),
    "no eps": ("tl.sum(a * a + b * b, 1) / WIDTH + eps)[:, None]", "tl.sum(a * a + b * b, 1) / WIDTH)[:, None]"),
    "keys weighed as queries": ("_forward_heads(k, k_weight,", "_forward_heads(k, q_weight,"),
    "the norm's gradient along the vector is kept": ("scale * (da - a * along)", "scale * da"),
    "the gain's gradient behind the gain": ("            da, db = da * gain_a[None, :], db * gain_b[None, :]\n        along", "            da, db = da * gain_a[None, :], db * gain_a[None, :]\n        along"),
    "one token's share of the gain's gradient": ("            dgain_a += da * a\n", "            dgain_a = da * a\n"),
    "a run is one token short": ("tokens = tl.minimum(ROWS, N - first_token)", "tokens = tl.minimum(ROWS, N - first_token - 1)"),
    "the gains' gradients of queries and keys mixed": ("partial[:, :q_blocks].sum", "partial[:, :].sum"),
    "heads apart by the width": ("head.to(tl.int64)[:, None] * x_head\n    a, b", "head.to(tl.int64)[:, None] * WIDTH\n    a, b"),
}
# triton-viz cannot follow a kernel that calls another function.
SANITIZED = None


def example(batch=1, time=2, heads=2, kv_heads=1, width=5, rotary=4):
    return SPEC.inputs(dict(batch=batch, time=time, heads=heads, kv_heads=kv_heads, width=width, rotary=rotary), D, "cpu")


def test_reference_is_rms_norm_and_a_product_of_complex_numbers():
    q, k, q_weight, k_weight, cos, sin = example(batch=2, time=3, heads=4, kv_heads=2, width=7)
    phase = torch.complex(cos, sin)[:, None]
    for layout in ("half", "interleaved"):
        found = reference(q, k, cos, sin, q_weight, k_weight, layout=layout, eps=0.1)
        for ours, x, weight in zip(found, (q, k), (q_weight, k_weight)):
            normed = F.rms_norm(x, (7,), weight, 0.1)
            a, b = normed[..., :4].chunk(2, -1) if layout == "half" else normed[..., :4].unflatten(-1, (2, 2)).unbind(-1)
            turned = torch.complex(a, b) * phase
            parts = (turned.real, turned.imag)
            expected = torch.cat(parts, -1) if layout == "half" else torch.stack(parts, -1).flatten(-2)
            torch.testing.assert_close(ours, torch.cat((expected, normed[..., 4:]), -1))


@pytest.mark.parametrize("norm", ["gains", "plain", None])
@pytest.mark.parametrize(("layout", "alone"), [("half", False), ("interleaved", False), ("half", True)])
def test_operators_on_a_cpu_without_interpreter_agree_with_autograd(layout, alone, norm):
    q, k, q_weight, k_weight, cos, sin = example()
    eps = 0.1 if norm else None
    q_weight, k_weight = (q_weight, k_weight) if norm == "gains" else (None, None)
    k, k_weight = (None, None) if alone else (k, k_weight)
    expected = [x for x in reference(q, k, cos, sin, q_weight, k_weight, layout=layout, eps=eps) if x is not None]
    found = torch.ops.vocab.qk_norm_rope_forward(q, k, q_weight, k_weight, cos, sin, eps, layout == "half")
    upstream = [torch.randn_like(x) for x in expected]
    for ours, truth in zip(found, expected):
        torch.testing.assert_close(ours, truth)
    inputs = [x for x in (q, k, q_weight, k_weight) if x is not None]
    gradients = torch.ops.vocab.qk_norm_rope_backward(*upstream, *[None] * alone, q, k, q_weight, k_weight, cos, sin, eps, layout == "half")
    gradients = [g for g in gradients if g.numel()]
    for ours, truth in zip(gradients, torch.autograd.grad(expected, inputs, upstream), strict=True):
        torch.testing.assert_close(ours, truth)


@pytest.mark.interp
@pytest.mark.parametrize("options", [{"eps": 0.1}, {"layout": "interleaved", "eps": 0.0}], ids=str)
def test_gradcheck(options):
    q, k, q_weight, k_weight, cos, sin = example(time=1, heads=1, width=3, rotary=2)
    with interpreting():
        torch.autograd.gradcheck(
            lambda q, k, qw, kw: qk_norm_rope(q, k, cos, sin, qw, kw, **options, backend="triton"), (q, k, q_weight, k_weight)
        )


@pytest.mark.interp
def test_gradcheck_of_the_turn_alone_which_keeps_neither_queries_nor_keys():
    q, k, _, _, cos, sin = example(time=1, heads=1, width=3, rotary=2)
    with interpreting():
        torch.autograd.gradcheck(lambda q, k: qk_norm_rope(q, k, cos, sin, backend="triton"), (q, k))
        turned, _ = qk_norm_rope(q, k, cos, sin, backend="triton")
    assert [x is None for x in turned.grad_fn.saved_tensors] == [True] * 4 + [False] * 2


@pytest.mark.interp
def test_a_turn_keeps_lengths_and_the_opposite_turn_undoes_it():
    q, k, _, _, cos, sin = example(time=3)
    with interpreting():
        turned = qk_norm_rope(q, k, cos, sin, backend="triton")
        back = qk_norm_rope(*turned, cos, -sin, backend="triton")
    for x, there, again in zip((q, k), turned, back):
        torch.testing.assert_close(there.norm(dim=-1), x.norm(dim=-1))
        torch.testing.assert_close(again, x)
        assert (there - x).abs().max() > 0.1


@pytest.mark.interp
def test_nothing_turned_is_the_norm_and_a_gain_of_one_is_none():
    q, k, _, _, cos, sin = example(time=2, rotary=0)
    ones = torch.ones(5, dtype=D)
    with interpreting():
        for weights in ((), (ones, ones)):
            found = qk_norm_rope(q, k, cos, sin, *weights, eps=0.2, backend="triton")
            for ours, x in zip(found, (q, k)):
                torch.testing.assert_close(ours, F.rms_norm(x, (5,), None, 0.2))


@pytest.mark.interp
def test_a_vector_of_zeros_stays_and_nan_stays_in_its_head():
    q, k, _, _, cos, sin = example(time=1)
    q, k = torch.zeros_like(q), k.detach().clone()
    q[0, 1, 0, 4], k[0, 0, 0, 0] = torch.nan, torch.nan
    with interpreting():
        for eps in (1e-6, None):
            turned, keys = qk_norm_rope(q, k, cos, sin, eps=eps, backend="triton")
            assert (turned[0, 0] == 0).all() and turned[0, 1].isnan().sum() == (5 if eps else 1)
            assert keys.isnan().sum() == (5 if eps else 2)


@pytest.mark.interp
def test_slices_of_one_projection_are_read_where_they_lie(monkeypatch):
    fused_BTF = torch.randn(2, 3, (4 + 2 + 2) * 5, dtype=D)
    q, k, _ = (x.transpose(1, 2) for x in fused_BTF.unflatten(-1, (8, 5)).split((4, 2, 2), 2))
    _, _, _, _, cos, sin = example(batch=2, time=3)
    expected = reference(q, k, cos, sin, eps=0.1)
    copies = []
    contiguous = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda x: (copies.append(x.shape), contiguous(x))[1])
    with interpreting():
        found = qk_norm_rope(q, k, cos, sin, eps=0.1, backend="triton")
    assert set(copies) <= {cos.shape}
    for ours, plain in zip(found, expected):
        torch.testing.assert_close(ours, plain)
        assert ours.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "neox"}, "layout='neox' is neither 'half' nor 'interleaved'"),
        ({"k_weight": None}, "these are given: k, q_weight, eps; weights come for all heads, and with eps"),
        ({"eps": None}, "these are given: k, q_weight, k_weight; weights"),
        ({"k": None}, "these are given: q_weight, k_weight, eps; weights"),
        ({"cos": torch.zeros(2, 3)}, r"cos is \(2, 3\) and sin \(1, 2, 2\); expected \(\[1,\] 2, up to 2\)"),
        ({"cos": torch.zeros(3, 2), "sin": torch.zeros(3, 2)}, r"cos is \(3, 2\)"),
        ({"cos": torch.zeros(2, 3), "sin": torch.zeros(2, 3)}, "up to 2"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = dict(zip(("q", "k", "q_weight", "k_weight", "cos", "sin"), example()), eps=0.1) | change
    with pytest.raises(ValueError, match=message):
        qk_norm_rope(**arguments)


@pytest.mark.interp
def test_what_the_kernel_cannot_do_is_named():
    q, k, _, _, cos, sin = example()
    with interpreting():
        for arguments, message in [
            ((q, k.float(), cos, sin), "q is torch.float64 and k is torch.float32; backend='torch' computes the same"),
            ((q.to(torch.complex64), None, cos, sin), "q has dtype torch.complex64"),
            ((torch.zeros(1, 1, 2, 514), None, cos, sin), "a head of 514 numbers is wider than 512"),
            ((q, k, cos.requires_grad_(), sin), "the angles need a gradient"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                qk_norm_rope(*arguments, backend="triton")


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(24)
    heads, width = 32, 128
    time = 2**31 // (heads * width) + 3
    fused = torch.zeros(1, time, heads + 1, width, dtype=torch.bfloat16, device="cuda")
    fused[:, -1] = torch.linspace(-2, 2, width)
    q, k = (x.transpose(1, 2).requires_grad_() for x in fused.split((heads, 1), 2))
    angle = torch.linspace(0, 3, width // 2, device="cuda").expand(time, -1)
    weights = [torch.linspace(0.5, 1.5, width, device="cuda").bfloat16().requires_grad_() for _ in range(2)]
    found = qk_norm_rope(q, k, angle.cos(), angle.sin(), *weights, eps=1e-6, backend="triton")
    tail = [x[:, :, -2:].detach().requires_grad_() for x in (q, k)]
    expected = reference(*tail, angle[-2:].cos(), angle[-2:].sin(), *weights, eps=1e-6)
    ours = torch.autograd.grad(sum(x.sum() for x in found), (q, k, *weights))
    plain = torch.autograd.grad(sum(x.sum() for x in expected), (*tail, *weights))
    for a, b in zip((*found, *ours[:2]), (*expected, *plain[:2])):
        torch.testing.assert_close(a[:, :, -2:], b)
    for a, b in zip(ours[2:], plain[2:]):  # all other tokens are zeros, which have no share in it
        torch.testing.assert_close(a, b, rtol=2e-2, atol=1e-2)
