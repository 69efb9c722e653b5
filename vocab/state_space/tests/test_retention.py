import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.state_space import retention as numpy_variant
from vocab.attention.linear import linear_attention
from vocab.kernels.interpret import interpreting
from vocab.state_space.retention import MultiScaleRetention, RetentionState, decays, retention

D = torch.float64
MODES = ["parallel", "recurrent", "chunkwise"]


def example():
    return MultiScaleRetention(8, 2, chunk_size=2).double(), (torch.randn(2, 5, 8, dtype=D),)


def inputs(time=7):
    q, k = torch.randn(2, 2, 3, time, 4, dtype=D)
    return q, k, torch.randn(2, 3, time, 5, dtype=D), torch.tensor([0.5, 0.9, 1.0], dtype=D)


def closed_form(q, k, v, gamma):
    out = torch.zeros_like(v)
    for t in range(q.shape[2]):
        for s in range(t + 1):
            out[:, :, t] += (gamma ** (t - s) * (q[:, :, t] * k[:, :, s]).sum(-1))[..., None] * v[:, :, s]
    return out


def by_hand(layer, x, scale=True):
    """The paper's equations with complex numbers for the rotation, token by token; of one batch element."""
    H, d, e = layer.n_heads, layer.head_dim, layer.value_dim
    q, k, v = ((x @ p.weight.T).view(len(x), H, w) for p, w in ((layer.q_proj, d), (layer.k_proj, d), (layer.v_proj, e)))
    theta = 10000.0 ** (-torch.arange(0, d, 2, dtype=D) / d)
    turn = torch.polar(torch.ones(len(x), 1, d // 2, dtype=D), torch.arange(len(x), dtype=D)[:, None, None] * theta)
    q, k = torch.view_as_complex(q.unflatten(-1, (-1, 2)).contiguous()) * turn, torch.view_as_complex(k.unflatten(-1, (-1, 2)).contiguous()) * turn
    out = torch.zeros(len(x), H, e, dtype=D)
    for t in range(len(x)):
        for s in range(t + 1):
            score = (q[t] * k[s].conj()).real.sum(-1) / d**0.5
            kept = torch.tensor([(1 - 2 ** -(5 + h)) ** (t - s) for h in range(H)], dtype=D)
            out[t] += (score * kept)[:, None] * v[s]
    out = (out - out.mean(-1, keepdim=True)) / (out.var(-1, correction=0, keepdim=True) + layer.eps).sqrt()
    gate = x @ layer.gate_proj.weight.T
    return (out.flatten(1) * gate * gate.sigmoid()) @ layer.o_proj.weight.T


@pytest.mark.oracle("the sum over all earlier tokens, one by one")
@pytest.mark.parametrize("mode", MODES)
def test_every_form_equals_the_sum_over_earlier_tokens(mode):
    given = inputs()
    torch.testing.assert_close(retention(*given, mode=mode, chunk_size=3)[0], closed_form(*given), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 6, 7, 50])
def test_all_forms_give_the_same_output_and_memory_for_every_chunk_size(chunk_size):
    given, start = inputs(), torch.randn(2, 3, 4, 5, dtype=D)
    expected = retention(*given, start, mode="recurrent")
    torch.testing.assert_close(retention(*given, start, mode="chunkwise", chunk_size=chunk_size), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(retention(*given, start, mode="parallel"), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("the paper's equations with complex rotations, a group norm and the gate")
@pytest.mark.parametrize("mode", MODES)
def test_the_layer_equals_the_equations_of_the_paper(mode):
    layer, (x,) = example()
    y, _ = layer(x, mode)
    torch.testing.assert_close(y[0], by_hand(layer, x[0]))
    torch.testing.assert_close(y[1], by_hand(layer, x[1]))


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 5])
def test_the_layer_gives_the_same_in_all_modes(chunk_size):
    layer, (x,) = example()
    layer.chunk_size = chunk_size
    whole = layer(x)
    for mode in MODES[1:]:
        torch.testing.assert_close(layer(x, mode), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("attention/linear without its normalizer")
def test_without_decay_and_rotation_it_is_causal_linear_attention_unnormalized():
    q, k, v, _ = inputs()
    q, k = q.abs(), k.abs()
    mean, (memory, total) = linear_attention(q, k, v)
    sums = mean * torch.einsum("bhtd,bhtd->bht", q, k.cumsum(2))[..., None]
    out, state = retention(q, k, v, torch.ones(3, dtype=D))
    torch.testing.assert_close(out, sums)
    torch.testing.assert_close(state, memory)


@pytest.mark.oracle("1 - 2^(-5-h), in fractions")
def test_decays_are_the_fractions_of_the_paper():
    assert decays(5).tolist() == [31 / 32, 63 / 64, 127 / 128, 255 / 256, 511 / 512]
    assert (1 / (1 - decays(8))).tolist() == [32, 64, 128, 256, 512, 1024, 2048, 4096]
    assert decays(8)[-1].bfloat16() == 1, "in 16 bits the later heads would never forget"


def test_scaling_queries_or_keys_leaves_the_output_as_it_is():
    layer, (x,) = example()
    layer.eps = 0.0
    before, _ = layer(x)
    with torch.no_grad():
        layer.q_proj.weight *= 7
        layer.k_proj.weight /= 3
    torch.testing.assert_close(layer(x)[0], before)


def test_the_papers_rescaling_of_scores_drops_out_in_the_norm():
    """Decays divided by the root of their sum, scores by their own sum where above 1: positive factors per row."""
    q, k, v, _ = (y[:, :2] for y in (*inputs()[:3], inputs()[3][None]))
    gamma = torch.tensor([0.5, 0.9], dtype=D)
    plain, _ = retention(q, k, v, gamma)
    gap = torch.arange(7)[:, None] - torch.arange(7)
    mask = torch.where(gap >= 0, gamma[:, None, None] ** gap.clamp(min=0), 0.0)
    scores = q @ k.mT * mask / mask.sum(-1, keepdim=True).sqrt()
    rescaled = scores / scores.sum(-1, keepdim=True).abs().clamp(min=1) @ v
    assert not torch.allclose(rescaled, plain, rtol=0.1)
    normal = lambda o: F.layer_norm(o, o.shape[-1:], eps=0.0)  # noqa: E731
    torch.testing.assert_close(normal(rescaled), normal(plain))


def test_outputs_do_not_depend_on_where_counting_starts():
    """The rotation sees distances only, so a text in the middle of nothing reads like one at the start."""
    layer, (x,) = example()
    empty = RetentionState(torch.zeros(2, 2, 4, 8, dtype=D), 1000)
    torch.testing.assert_close(layer(x, state=empty)[0], layer(x)[0])


def test_a_forgotten_position_turns_the_new_keys_wrongly():
    layer, (x,) = example()
    first, state = layer(x[:, :3])
    right, _ = layer(x[:, 3:], state=state)
    wrong, _ = layer(x[:, 3:], state=state._replace(position=0))
    torch.testing.assert_close(right, layer(x)[0][:, 3:])
    assert not torch.allclose(wrong, right, rtol=1e-2)


@pytest.mark.parametrize("modes", [("parallel", "recurrent"), ("recurrent", "chunkwise"), ("chunkwise", "parallel")])
def test_a_sequence_may_go_on_in_another_mode(modes):
    layer, (x,) = example()
    first, state = layer(x[:, :3], modes[0])
    rest, end = layer(x[:, 3:], modes[1], state)
    whole, last = layer(x)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    torch.testing.assert_close(end, last)
    assert end.position == 5 and end.memory.shape == (2, 2, 4, 8)


def test_the_norm_is_of_each_head_of_each_token():
    layer, (x,) = example()
    others = torch.randn(3, 5, 8, dtype=D)
    torch.testing.assert_close(layer(torch.cat([x, 100 * others]))[0][:2], layer(x)[0])
    with torch.no_grad():  # values of one head a hundred times larger: the norm takes it back
        before, _ = layer(x)
        layer.v_proj.weight[:8] *= 100
    torch.testing.assert_close(layer(x)[0], before, rtol=1e-2, atol=1e-3)


@pytest.mark.oracle("the widely copied formula, written out")
def test_the_widely_copied_formula_reads_all_keys_and_stops_at_the_product():
    """(Q_t K^T * D_t) V with D undefined: taken as all ones it reads the future too, and there is no rotation, norm or gate."""
    q, k, v, gamma = inputs()
    ours, _ = retention(q, k, v, gamma)
    copied = (q @ k.mT * torch.ones(7, 7, dtype=D)) @ v
    later = v.clone()
    later[:, :, -1] += 1
    assert torch.equal(retention(q, k, later, gamma)[0][:, :, :-1], ours[:, :, :-1])
    assert not torch.allclose((q @ k.mT) @ later, copied, rtol=1e-3)
    layer, (x,) = example()
    plain = retention(*(layer_part(layer, x)), decays(2))[0].transpose(1, 2).flatten(2)
    assert not torch.allclose(layer.o_proj(plain), layer(x)[0], rtol=0.1)


def layer_part(layer, x):
    widths = (layer.q_proj, 4), (layer.k_proj, 4), (layer.v_proj, 8)
    return [p(x).unflatten(-1, (2, w)).transpose(1, 2) for p, w in widths]


def test_causal_and_every_earlier_token_counts():
    layer, (x,) = example()
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v)[0][0].sum(-1), x)[:, 0].abs().sum(-1)
    assert torch.equal(jacobian > 0, torch.ones(5, 5, dtype=torch.bool).tril())


def test_sizes_and_parameters():
    layer = MultiScaleRetention(64, 4)
    assert sum(p.numel() for p in layer.parameters()) == 8 * 64 * 64
    assert layer(torch.randn(1, 2, 64))[1].memory.shape == (1, 4, 16, 32) and layer.chunk_size == 64
    narrow = MultiScaleRetention(64, 4, value_factor=1, gate="gelu")
    assert sum(p.numel() for p in narrow.parameters()) == 5 * 64 * 64
    x = torch.randn(1, 2, 64)
    swish = MultiScaleRetention(64, 4, value_factor=1)
    swish.load_state_dict(narrow.state_dict())
    assert not torch.allclose(narrow(x)[0], swish(x)[0])


def test_sixteen_bits_are_computed_in_thirty_two():
    one = torch.ones(1, 1, 1000, 1, dtype=torch.bfloat16)
    for mode in MODES:
        out, state = retention(one, one, one, torch.ones(1), mode=mode)
        assert out.dtype == torch.bfloat16 and state.dtype == torch.float32 and state.item() == 1000
    y, state = MultiScaleRetention(8, 2).bfloat16()(torch.randn(1, 3, 8).bfloat16())
    assert y.dtype == torch.bfloat16 and state.memory.dtype == torch.float32


def test_numpy_variant_agrees(agree):
    q, k, v = (y[0, 0].numpy() for y in inputs(24)[:3])
    for gamma in (0.5, 0.9, 1.0):
        given = [torch.tensor(y)[None, None] for y in (q, k, v)]
        expected, memory = retention(*given, torch.tensor([gamma], dtype=D), mode="recurrent")
        agree(numpy_variant.parallel(q, k, v, gamma), expected[0, 0])
        outputs, states = numpy_variant.recurrent(q, k, v, gamma)
        agree(outputs, expected[0, 0])
        agree(states[-1], memory[0, 0])
        for chunk in (1, 5, 24):
            agree(numpy_variant.chunkwise(q, k, v, gamma, chunk), expected[0, 0])
    np.testing.assert_array_equal(numpy_variant.head_decay(np.arange(8)), decays(8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d_model=8, n_heads=0), r"d_model=8 is not a multiple of 2 \* n_heads=0"),
        (dict(d_model=0, n_heads=1), "d_model=0 is not a multiple"),
        (dict(d_model=6, n_heads=2), r"d_model=6 is not a multiple of 2 \* n_heads=4; a head is turned in pairs"),
        (dict(d_model=8, n_heads=2, value_factor=0), "value_factor=0 or chunk_size=64 is below 1"),
        (dict(d_model=8, n_heads=2, chunk_size=0), "value_factor=2 or chunk_size=0 is below 1"),
        (dict(d_model=8, n_heads=2, gate="relu"), "gate='relu' is neither 'swish' nor 'gelu'"),
        (dict(d_model=8, n_heads=2, eps=-1.0), "eps=-1.0 is negative"),
    ],
)
def test_settings_that_cannot_be_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleRetention(**arguments)


def test_the_smallest_layer_works():
    assert MultiScaleRetention(2, 1, value_factor=1, chunk_size=1, eps=0.0)(torch.randn(1, 3, 2), "chunkwise")[0].isfinite().all()


@pytest.mark.parametrize("name", ["q", "k", "v", "gamma", "state"])
def test_each_argument_is_checked(name):
    given = dict(zip(["q", "k", "v", "gamma"], inputs()), state=torch.zeros(2, 3, 4, 5, dtype=D))
    assert retention(**given)[0].isfinite().all()
    smaller = given[name][0] if name == "q" else given[name][..., :-1, :] if name == "v" else given[name][..., 1:]
    with pytest.raises(ValueError, match=rf"^{name} has shape .*; expected"):
        retention(**{**given, name: smaller})
    with pytest.raises(TypeError, match=rf"^{name} has dtype"):
        retention(**{**given, name: given[name].long()})


def test_other_bad_input_says_what_is_allowed():
    layer, (x,) = example()
    with pytest.raises(ValueError, match=r"mode='scan' is none of \('parallel', 'recurrent', 'chunkwise'\)"):
        layer(x, "scan")
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 7\); expected \(batch, time, d_model=8\)"):
        layer(x[..., 1:])
    with pytest.raises(ValueError, match=r"state has shape \(1, 2, 4, 8\); expected \(batch=2, heads=2, head_dim=4, value_dim=8\)"):
        layer(x, state=RetentionState(torch.zeros(1, 2, 4, 8, dtype=D), 3))
    assert math.isclose(layer.rotary.base, 10000)


@pytest.mark.interp
@pytest.mark.parametrize("mode", ["parallel", "chunkwise"])
def test_kernel_agrees(kernel_agrees, mode):
    layer, (x,) = example()
    memory = torch.randn(2, 2, 4, 8, dtype=D, requires_grad=True)
    given = x.requires_grad_(), memory, *layer.parameters()
    kernel_agrees("linear_attention", lambda _: layer(x, mode, RetentionState(memory, 3)), given, module=layer)


def test_kernel_is_refused_step_by_step():
    pytest.importorskip("triton")
    with interpreting(), pytest.raises(RuntimeError, match="mode='recurrent' goes step by step"):
        retention(*inputs(), mode="recurrent", backend="triton")
