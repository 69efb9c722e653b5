import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.state_space import mamba_2 as numpy_variant
from vocab.attention.linear import linear_attention
from vocab.kernels.interpret import interpreting
from vocab.state_space.mamba import MambaState, selective_scan
from vocab.state_space.mamba_2 import Mamba2, decay_attention, decay_chunk, segment_sum, ssd

D = torch.float64


def example():
    return Mamba2(4, d_state=3, d_conv=3, head_dim=2, n_groups=2, chunk_size=2).double(), (torch.randn(2, 5, 4, dtype=D),)


def inputs(batch=2, time=7, heads=4, width=3, groups=2, d_state=5):
    x, log_a = torch.randn(batch, time, heads, width, dtype=D), -torch.rand(batch, time, heads, dtype=D)
    B, C = torch.randn(2, batch, time, groups, d_state, dtype=D)
    return x, log_a, B, C


def one_number_at_a_time(x, log_a, B, C):
    """S[n][p] = a S[n][p] + B[n] x[p], in Python floats."""
    y = torch.zeros_like(x)
    batch, time, heads, width = x.shape
    groups, d_state = B.shape[2:]
    for b in range(batch):
        for h in range(heads):
            g = h // (heads // groups)
            S = [[0.0] * width for _ in range(d_state)]
            for t in range(time):
                a = math.exp(log_a[b, t, h])
                for n in range(d_state):
                    for p in range(width):
                        S[n][p] = a * S[n][p] + float(B[b, t, g, n]) * float(x[b, t, h, p])
                        y[b, t, h, p] += float(C[b, t, g, n]) * S[n][p]
    return y


@pytest.mark.oracle("the recurrence, one number at a time")
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 6, 7, 100])
def test_every_chunk_size_gives_the_recurrence(chunk_size):
    given = inputs()
    torch.testing.assert_close(ssd(*given, chunk_size), one_number_at_a_time(*given), rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("the quadratic form with its products of decays")
@pytest.mark.parametrize("chunk_size", [1, 3, 64])
def test_it_is_a_masked_attention_without_softmax(chunk_size):
    x, log_a, B, C = inputs(heads=1, groups=1)
    a, expected = log_a.exp()[..., 0], torch.zeros_like(x)
    for b in range(len(x)):
        L = torch.tensor([[math.prod(a[b, s + 1 : t + 1].tolist()) if s <= t else 0.0 for s in range(7)] for t in range(7)], dtype=D)
        expected[b, :, 0] = (L * (C[b, :, 0] @ B[b, :, 0].T)) @ x[b, :, 0]
    torch.testing.assert_close(ssd(x, log_a, B, C, chunk_size), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.oracle("attention/linear without its normalizer")
def test_without_decay_it_is_causal_linear_attention_unnormalized():
    x, log_a, B, C = inputs(heads=2)
    B, C = B.abs(), C.abs()
    q, k, v = (y.transpose(1, 2) for y in (C, B, x))
    mean, (memory, _) = linear_attention(q, k, v)
    total = torch.einsum("bhtn,bhtn->bht", q, k.cumsum(2))
    y, state = ssd(x, 0 * log_a, B, C, 3, return_state=True)
    torch.testing.assert_close(y.transpose(1, 2), mean * total[..., None])
    torch.testing.assert_close(state, memory)


@pytest.mark.oracle("the closed form of retention")
def test_a_constant_decay_is_retention_without_its_rotation():
    x, log_a, B, C = inputs(heads=2)
    gamma = torch.tensor([0.9, 0.6], dtype=D)
    expected = torch.zeros_like(x)
    for t in range(7):
        for s in range(t + 1):
            score = (C[:, t] * B[:, s]).sum(-1) * gamma ** (t - s)
            expected[:, t] += score[..., None] * x[:, s]
    torch.testing.assert_close(ssd(x, gamma.log().expand_as(log_a), B, C, 3), expected)


@pytest.mark.oracle("state-space/mamba with equal decays in a head")
def test_it_is_a_selective_scan_whose_channels_share_a_decay():
    x, _, B, C = inputs(heads=2, groups=1)
    dt, A = torch.rand(2, 7, 2, dtype=D), -torch.rand(2, dtype=D)
    wide = lambda y: y.repeat_interleave(3, -1).transpose(1, 2)  # noqa: E731  a step for each of the 3 channels of a head
    scanned = selective_scan(
        x.flatten(2).transpose(1, 2), wide(dt), A.repeat_interleave(3)[:, None].expand(6, 5), B[:, :, 0].mT, C[:, :, 0].mT
    )
    torch.testing.assert_close(ssd(x * dt[..., None], dt * A, B, C, 4).flatten(2), scanned.mT)


@pytest.mark.oracle("transformers.Mamba2Mixer")
@pytest.mark.parametrize("groups", [1, 2])
def test_layer_equals_transformers_with_copied_weights(groups):
    pytest.importorskip("transformers")
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=16, state_size=5, conv_kernel=4, expand=2, head_dim=8, num_heads=4, n_groups=groups, chunk_size=4
    )
    library, ours = Mamba2Mixer(config, layer_idx=0).eval(), Mamba2(16, 5, head_dim=8, n_groups=groups, chunk_size=3)
    with torch.no_grad():
        for p in library.parameters():
            p.add_(0.3 * torch.rand_like(p))
    weights = {n.replace("conv1d", "conv").replace("norm.weight", "norm_weight"): w for n, w in library.state_dict().items()}
    assert weights.keys() == ours.state_dict().keys()
    ours.load_state_dict(weights)
    x = torch.randn(2, 11, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[0], library(x), rtol=1e-4, atol=1e-5)


@pytest.mark.oracle("sums by a double loop")
def test_segment_sums_equal_a_double_loop():
    x = torch.randn(2, 6, dtype=D)
    for b in range(2):
        for t in range(6):
            for s in range(6):
                expected = sum(x[b, s + 1 : t + 1].tolist()) if s <= t else -math.inf
                assert segment_sum(x)[b, t, s].item() == pytest.approx(expected, abs=1e-14)


def test_differences_of_cumulative_sums_lose_digits_and_clearing_becomes_nan():
    x = torch.full((2000,), -5.01)
    total = x.cumsum(0)
    differences = total[:, None] - total
    assert (differences.diagonal(-1) + 5.01).abs().max() > 1e-4
    torch.testing.assert_close(segment_sum(x).diagonal(-1), x[1:], rtol=1e-6, atol=0)
    x = torch.tensor([0.0, -math.inf, -1.0])
    assert (x.cumsum(0)[:, None] - x.cumsum(0)).isnan().any()
    assert segment_sum(x)[2].tolist() == [-math.inf, -1.0, 0.0]


def test_a_decay_of_zero_clears_the_state():
    x, log_a, B, C = inputs()
    log_a[:, 4] = -math.inf
    y, state = ssd(x, log_a, B, C, 3, return_state=True)
    later, after = ssd(*(z[:, 4:] for z in (x, log_a, B, C)), 3, return_state=True)
    torch.testing.assert_close(y[:, 4:], later)
    torch.testing.assert_close(state, after)


@pytest.mark.oracle("autograd through the recurrence")
def test_gradients_equal_those_of_the_loop():
    given = [z.requires_grad_() for z in inputs(heads=1, groups=1)]
    x, log_a, B, C = given
    S, rows = 0, []
    for t in range(7):
        S = log_a[:, t].exp()[..., None] * S + B[:, t, 0, :, None] * x[:, t, 0, None]
        rows.append((C[:, t, 0, :, None] * S).sum(1))
    weight = torch.randn(2, 7, 3, dtype=D)
    expected = torch.autograd.grad(torch.stack(rows, 1), given, weight)
    torch.testing.assert_close(torch.autograd.grad(ssd(*given, 3)[:, :, 0], given, weight), expected)


def test_a_block_below_the_diagonal_has_the_rank_of_the_state():
    """Every block below the diagonal is a product of two thin matrices: what the chunks exchange is a state, no more."""
    _, log_a, B, C = inputs(batch=1, time=12, heads=1, groups=1, d_state=3)
    basis = torch.eye(12, dtype=D)[None, :, None]  # a one at each step: the outputs are the columns of the matrix
    M = ssd(basis, log_a, B, C, 5)[0, :, 0]
    assert torch.equal(M, M.tril())
    assert torch.linalg.matrix_rank(M) == 12
    for cut in (4, 6, 9):
        assert torch.linalg.matrix_rank(M[cut:, :cut]) == 3


def test_steps_that_write_nothing_and_keep_everything_are_padding():
    x, log_a, B, C = inputs()
    y, state = ssd(x, log_a, B, C, 4, return_state=True)
    padded = [F.pad(z, (0, 0) * (z.ndim - 2) + (0, 5)) for z in (x, log_a, B, C)]
    longer, same = ssd(*padded, 4, return_state=True)
    torch.testing.assert_close(longer[:, :7], y)
    torch.testing.assert_close(same, state)


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_sequence_in_two_pieces_gives_what_the_whole_gives(cut):
    layer, (x,) = example()
    whole, end = layer(x)
    first, state = layer(x[:, :cut])
    rest, after = layer(x[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole)
    torch.testing.assert_close(after, end)


def test_tokens_one_by_one_give_what_the_whole_gives():
    layer, (x,) = example()
    state, outputs = None, []
    for t in range(5):
        y, state = layer(x[:, t : t + 1], state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), layer(x)[0])
    assert isinstance(state, MambaState) and state.conv.shape == (2, 20, 2) and state.ssm.shape == (2, 4, 3, 2)


def test_the_layer_is_its_parts_in_order():
    layer, (x,) = example()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.2 * torch.rand_like(p))
    for p in layer.parameters():
        p.requires_grad_(False)
    z, u, dt = layer.in_proj(x).split([8, 20, 4], -1)
    u = F.conv1d(F.pad(u.mT, (2, 0)), layer.conv.weight, layer.conv.bias, groups=20).mT
    u, B, C = (u * u.sigmoid()).split([8, 6, 6], -1)
    dt = (1 + (dt + layer.dt_bias).exp()).log()
    u, B, C = u.view(2, 5, 4, 2), B.view(2, 5, 2, 3), C.view(2, 5, 2, 3)
    y = one_number_at_a_time(u * dt[..., None], -dt * layer.A_log.exp(), B, C) + layer.D[:, None] * u
    y = (y.flatten(2) * z * z.sigmoid()).view(2, 5, 2, 4)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x)[0], layer.out_proj(y.flatten(2) * layer.norm_weight))


def test_layer_starts_as_the_paper_says():
    layer = Mamba2(1024, head_dim=2)
    decays, dt = layer.A_log.exp(), F.softplus(layer.dt_bias)
    assert 1 <= decays.min() < 1.2 and 15.8 < decays.max() <= 16 and 8 < decays.mean() < 9
    assert 0.999e-3 < dt.min() < 1.1e-3 and 0.09 < dt.max() < 0.1001 and 0.008 < dt.median() < 0.0125
    assert torch.equal(layer.D, torch.ones(1024)) and torch.equal(layer.norm_weight, torch.ones(2048))
    assert layer.d_state == 128 and layer.chunk_size == 256 and layer.conv.kernel_size == (4,)
    assert layer.in_proj.bias is None and layer.out_proj.bias is None and layer.in_proj.out_features == 2 * 2048 + 2 * 128 + 1024


def test_a_state_of_the_defaults_is_as_large_as_a_cache_of_132_tokens():
    """At equal width, where a cache holds 2 D numbers a token."""
    layer = Mamba2(512)
    _, state = layer(torch.randn(1, 2, 512))
    assert state.ssm.numel() == 1024 * 128 and state.conv.numel() == (1024 + 256) * 3
    assert round(sum(part.numel() for part in state) / (2 * 512)) == 132


def test_sixteen_bits_are_computed_in_thirty_two():
    one = torch.ones(1, 1000, 1, 1, dtype=torch.bfloat16)
    y, state = ssd(one, torch.zeros(1, 1000, 1), one, one, 10, return_state=True)
    assert y.dtype == torch.bfloat16 and state.dtype == torch.float32 and state.item() == 1000
    out, state = Mamba2(8, head_dim=4).bfloat16()(torch.randn(1, 3, 8).bfloat16())
    assert out.dtype == torch.bfloat16 and state.ssm.dtype == torch.float32


def test_numpy_variant_agrees(agree):
    x, log_a, B, C = inputs(batch=1, time=16, heads=1, groups=1)
    arrays = x[0, :, 0].numpy(), log_a[0, :, 0].numpy(), B[0, :, 0].numpy(), C[0, :, 0].numpy()
    for chunk in (1, 5, 16):
        agree(numpy_variant.ssd(*arrays, chunk), ssd(x, log_a, B, C, chunk)[0, :, 0])
    expected = ssd(x, log_a, B, C, 4)[0, :, 0]
    agree(numpy_variant.recurrence(*arrays), expected)
    agree(numpy_variant.mixing_matrix(*arrays[1:]) @ arrays[0], expected)
    np.testing.assert_allclose(numpy_variant.segment_sum(arrays[1]), segment_sum(log_a[0, :, 0]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d_model=0), "d_model=0 is not a whole number above 0"),
        (dict(d_model=4, d_state=0), "d_state=0 is not"),
        (dict(d_model=4, d_conv=0), "d_conv=0 is not"),
        (dict(d_model=4, expand=1.5), "expand=1.5 is not"),
        (dict(d_model=4, head_dim=0), "head_dim=0 is not"),
        (dict(d_model=4, head_dim=4, n_groups=0), "n_groups=0 is not"),
        (dict(d_model=4, head_dim=4, chunk_size=0), "chunk_size=0 is not"),
        (dict(d_model=4, head_dim=3), r"the inner width 8 \(expand \* d_model\) is not a multiple of head_dim=3"),
        (dict(d_model=4, head_dim=2, n_groups=3), "the 4 heads are not a multiple of n_groups=3"),
    ],
)
def test_sizes_that_do_not_fit_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mamba2(**arguments)


def test_sizes_of_one_are_enough():
    assert Mamba2(1, 1, 1, 1, 1, 1, 1)(torch.randn(1, 3, 1))[0].isfinite().all()


def test_wrong_shapes_name_the_expected_ones():
    layer, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape \(5, 4\); expected \(batch, time, d_model=4\)"):
        layer(x[0])
    _, (conv, ssm) = layer(x)
    with pytest.raises(ValueError, match=r"state\[0\] has shape \(2, 20, 1\); expected \(batch=2, width=20, past=2\)"):
        layer(x, (conv[..., 1:], ssm))
    with pytest.raises(ValueError, match=r"state\[1\] has shape \(1, 4, 3, 2\); expected \(batch=2, heads=4, d_state=3, head_dim=2\)"):
        layer(x, (conv, ssm[:1]))
    with pytest.raises(TypeError, match=r"state\[1\] is a NoneType"):
        layer(x, (conv, None))


@pytest.mark.parametrize("name", ["x", "log_a", "B", "C", "state"])
def test_each_argument_of_ssd_is_checked(name):
    given = dict(zip(["x", "log_a", "B", "C"], inputs()), state=torch.zeros(2, 4, 5, 3, dtype=D))
    assert ssd(**given).isfinite().all()
    smaller = given[name][0] if name in ("x", "B") else given[name][..., 1:]
    with pytest.raises(ValueError, match=rf"^{name} has shape .*; expected"):
        ssd(**{**given, name: smaller})
    with pytest.raises(TypeError, match=rf"^{name} has dtype"):
        ssd(**{**given, name: given[name].long()})
    with pytest.raises(ValueError, match="chunk_size=0 or the number of steps, 7, is below 1"):
        ssd(**given, chunk_size=0)
    empty = [y[:, :0] for y in inputs()]
    with pytest.raises(ValueError, match="chunk_size=64 or the number of steps, 0, is below 1"):
        ssd(*empty)
    with pytest.raises(ValueError, match="x has 4 heads, not a multiple of the 3 groups of B"):
        ssd(given["x"], given["log_a"], *torch.zeros(2, 2, 7, 3, 5, dtype=D))


@pytest.mark.parametrize("name", ["q", "k", "v", "log_decay", "state"])
def test_each_argument_of_a_chunk_is_checked(name):
    given = dict(q=torch.ones(4, 3), k=torch.ones(4, 3), v=torch.ones(4, 2), log_decay=torch.zeros(4), state=torch.zeros(3, 2))
    assert decay_chunk(**given)[0].tolist() == [[3.0, 3.0], [6.0, 6.0], [9.0, 9.0], [12.0, 12.0]]
    with pytest.raises(ValueError, match=rf"^{'k' if name == 'q' else name} has shape"):
        decay_chunk(**{**given, name: given[name][1:]})
    with pytest.raises(TypeError, match=f"^{name} has dtype"):
        decay_chunk(**{**given, name: given[name].long()})
    with pytest.raises(ValueError, match=r"^log_decay has shape \(5,\); expected \(..., time=4\)"):
        decay_attention(given["q"], given["k"], given["v"], torch.zeros(5), given["state"], 2)


def test_a_start_state_decays_and_is_read():
    x, log_a, B, C = inputs(groups=4)
    start = torch.randn(2, 4, 5, 3, dtype=D)
    change = ssd(x, log_a, B, C, 3, state=start) - ssd(x, log_a, B, C, 3)
    expected = torch.einsum("bthn,bhnp,bth->bthp", C, start, log_a.cumsum(1).exp())
    torch.testing.assert_close(change, expected)


@pytest.mark.interp
def test_kernel_agrees(kernel_agrees):
    layer, (x,) = example()
    state = MambaState(torch.randn(2, 20, 2, dtype=D), torch.randn(2, 4, 3, 2, dtype=D))
    given = x.requires_grad_(), *(s.requires_grad_() for s in state), *layer.parameters()
    kernel_agrees("linear_attention", lambda _: layer(x, state), given, module=layer)


@pytest.mark.interp
def test_kernel_may_clear_the_state(agree):
    pytest.importorskip("triton")
    x, log_a, B, C = inputs()
    log_a[:, 3] = -math.inf
    with interpreting():
        found = ssd(x, log_a, B, C, return_state=True, backend="triton")
    for ours, plain in zip(found, ssd(x, log_a, B, C, return_state=True), strict=True):
        agree(ours, plain, of="triton", rtol=1e-12)
