import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.recurrent.xlstm import mlstm as numpy_mlstm
from vocab.recurrent.xlstm import MLSTM, SLSTM, MLSTMState, SLSTMState, mlstm

D = torch.float64


def example():
    return MLSTM(6, 2, chunk_size=2).double(), (torch.randn(2, 5, 6, dtype=D),)


def inputs(time=7, batch=2, heads=3, d_key=4, d_value=5, size=1.0):
    q, k = (torch.randn(batch, heads, time, d_key, dtype=D) for _ in range(2))
    v = torch.randn(batch, heads, time, d_value, dtype=D)
    log_i, f = (size * torch.randn(batch, heads, time, dtype=D) for _ in range(2))
    return q, k, v, log_i, F.logsigmoid(f)


def unscaled(q, k, v, log_i, log_f):
    """The recurrence without a stabilizer."""
    batch, heads, time, d_key = q.shape
    C, n, out = torch.zeros(batch, heads, d_key, v.shape[-1], dtype=D), torch.zeros(batch, heads, d_key, dtype=D), []
    for t in range(time):
        f, i = log_f[:, :, t].exp(), log_i[:, :, t].exp()
        C = f[..., None, None] * C + i[..., None, None] * k[:, :, t, :, None] * v[:, :, t, None, :]
        n = f[..., None] * n + i[..., None] * k[:, :, t]
        top = (q[:, :, t, :, None] * C).sum(-2)
        out.append(top / (q[:, :, t] * n).sum(-1).abs().clamp(min=1)[..., None])
    return torch.stack(out, 2), C, n


@pytest.mark.oracle("the recurrence without a stabilizer")
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 64])
def test_any_chunking_equals_the_plain_recurrence(chunk_size):
    args = inputs()
    expected, C, n = unscaled(*args)
    h, state = mlstm(*args, chunk_size=chunk_size)
    torch.testing.assert_close(h, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.C * state.m.exp()[..., None, None], C, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.n * state.m.exp()[..., None], n, rtol=1e-9, atol=1e-11)


@pytest.mark.oracle("attention with decaying weights, over all pairs of steps")
def test_the_parallel_form_is_attention_with_a_decay_mask():
    q, k, v, log_i, log_f = inputs(time=9)
    weight = torch.zeros(2, 3, 9, 9, dtype=D)
    for t in range(9):
        for s in range(t + 1):
            weight[:, :, t, s] = (log_i[:, :, s] + log_f[:, :, s + 1 : t + 1].sum(-1)).exp() * (q[:, :, t] * k[:, :, s]).sum(-1)
    expected = weight @ v / weight.sum(-1).abs().clamp(min=1)[..., None]
    torch.testing.assert_close(mlstm(q, k, v, log_i, log_f, chunk_size=1)[0], expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("cut", [1, 4, 8])
def test_carrying_the_state_over_equals_one_pass(cut):
    args = inputs(time=9, size=20.0)
    whole, last = mlstm(*args, chunk_size=4)
    first, state = mlstm(*(a[:, :, :cut] for a in args), chunk_size=4)
    second, state = mlstm(*(a[:, :, cut:] for a in args), state, chunk_size=3)
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tuple(state), tuple(last), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("chunk_size", [1, 8])
def test_a_covariance_memory_returns_the_value_of_each_orthonormal_key(chunk_size):
    keys, values = torch.linalg.qr(torch.randn(6, 6, dtype=D))[0], torch.randn(6, 3, dtype=D)
    k, v, ones = keys[None, None], values[None, None], torch.zeros(1, 1, 6, dtype=D)
    _, state = mlstm(k, k, v, ones, ones, chunk_size=chunk_size)
    for j in range(6):  # read without writing anything
        h, _ = mlstm(k[:, :, j : j + 1], k[:, :, :1] * 0, v[:, :, :1], ones[..., :1] - 800, ones[..., :1], state)
        torch.testing.assert_close(h[0, 0, 0], values[j])


def test_a_large_input_gate_makes_a_late_token_outweigh_all_before():
    q, k, v, log_i, log_f = inputs(time=6)
    log_i[..., -1] = 40
    h, _ = mlstm(q, k, v, log_i, log_f)
    score = (q[:, :, -1] * k[:, :, -1]).sum(-1, keepdim=True)
    torch.testing.assert_close(h[:, :, -1], v[:, :, -1] * score.sign(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [80.0, -80.0])
def test_nothing_overflows_in_float32_at_gates_of_80(size):
    for kind in (0, 1):
        q, k, v, log_i, log_f = (a.float() for a in inputs(time=50))
        gates = [log_i, log_f]
        gates[kind] = torch.full_like(log_i, size) if kind == 0 else F.logsigmoid(torch.full_like(log_i, size))
        exact = mlstm(*(a.double() for a in (q, k, v, *gates)), chunk_size=1)[0]
        for chunk_size in (1, 16, 64):
            h, state = mlstm(q, k, v, *gates, chunk_size=chunk_size)
            assert all(part.isfinite().all() for part in (h, *state))
            torch.testing.assert_close(h.double(), exact, rtol=2e-2, atol=2e-3)
    assert torch.tensor(80.0).exp() ** 2 == math.inf  # without the stabilizer two steps are enough
    layer = SLSTM(3, 4)
    for gate in (0, 4):
        layer.proj.bias.data[gate : gate + 4] = size
        y, state = layer(torch.randn(2, 50, 3))
        assert y.isfinite().all() and all(part.isfinite().all() for part in state)
        y.sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_layer_makes_queries_keys_values_and_gates_of_its_input():
    layer, x = MLSTM(6, 2).double(), torch.randn(2, 5, 6, dtype=D)
    q, k, v = (x @ w.T + b for w, b in zip(layer.qkv_proj.weight.chunk(3), layer.qkv_proj.bias.chunk(3)))
    gates = x @ layer.gate_proj.weight.T + layer.gate_proj.bias
    heads = []
    for j in range(2):
        part = slice(3 * j, 3 * j + 3)
        args = q[..., part], k[..., part] / math.sqrt(3), v[..., part], gates[..., j], torch.log(torch.sigmoid(gates[..., 2 + j]))
        heads.append(unscaled(*(a[:, None] for a in args))[0][:, 0])
    opened = torch.sigmoid(x @ layer.out_gate.weight.T + layer.out_gate.bias)
    torch.testing.assert_close(layer(x)[0], opened * torch.cat(heads, -1))


def slstm_by_hand(layer, x):
    """The scalar recurrence with plain exponentials, batch by batch and head by head."""
    size, heads = layer.hidden_size, layer.n_heads
    width = size // heads
    outputs = []
    for row in x:
        h = c = n = torch.zeros(size, dtype=D)
        states = []
        for x_t in row:
            pre = (layer.proj.weight @ x_t + layer.proj.bias).view(4, size)
            mixed = torch.stack([torch.block_diag(*layer.recurrent[g]) @ h for g in range(4)])
            i, f, z, o = pre + mixed
            c = torch.sigmoid(f) * c + torch.exp(i) * torch.tanh(z)
            n = torch.sigmoid(f) * n + torch.exp(i)
            h = torch.sigmoid(o) * c / n
            states.append(h)
        outputs.append(torch.stack(states))
    assert width * heads == size
    return torch.stack(outputs)


@pytest.mark.oracle("the sLSTM's formulas without a stabilizer")
@pytest.mark.parametrize("heads", [1, 2])
def test_slstm_equals_its_formulas(heads):
    layer, x = SLSTM(3, 4, heads).double(), torch.randn(2, 9, 3, dtype=D)
    y, last = layer(x)
    torch.testing.assert_close(y, slstm_by_hand(layer, x))
    first, state = layer(x[:, :4])
    second, state = layer(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), y)
    torch.testing.assert_close(tuple(state), tuple(last))


def test_slstm_with_gates_of_one_is_a_running_mean():
    layer, x = SLSTM(3, 4).double(), torch.randn(1, 20, 3, dtype=D)
    layer.recurrent.data.zero_()
    for gate, bias in ((0, 0.0), (1, 800.0), (3, 800.0)):
        layer.proj.weight.data[4 * gate : 4 * gate + 4], layer.proj.bias.data[4 * gate : 4 * gate + 4] = 0, bias
    z = torch.tanh(x @ layer.proj.weight[8:12].T + layer.proj.bias[8:12])
    torch.testing.assert_close(layer(x)[0], z.cumsum(1) / torch.arange(1.0, 21, dtype=D)[:, None])


def test_slstm_heads_do_not_see_each_other():
    layer, x = SLSTM(3, 4, 2).double(), torch.randn(1, 5, 3, dtype=D)
    zero = torch.zeros(1, 4, dtype=D)

    def run(h):
        return layer(x, SLSTMState(h, zero, zero + 1, zero))[0][:, 0]

    seen = torch.autograd.functional.jacobian(run, torch.randn(1, 4, dtype=D))[0, :, 0] != 0
    assert torch.equal(seen, torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool())


def test_forget_gates_start_open_between_3_and_6():
    layer = MLSTM(8, 4)
    torch.testing.assert_close(layer.gate_proj.bias[4:].detach(), torch.tensor([3.0, 4, 5, 6]))
    assert layer.gate_proj.bias[:4].abs().max() < 1 and layer.chunk_size == 64
    torch.testing.assert_close(SLSTM(3, 4).proj.bias[4:8].detach(), torch.tensor([3.0, 4, 5, 6]))
    recurrent = SLSTM(3, 64, 4).recurrent
    assert 0.24 < recurrent.abs().max() <= 0.25 and recurrent.min() < -0.24


def test_numpy_variant_agrees(agree):
    for size in (1.0, 30.0):
        q, k, v, log_i, log_f = inputs(batch=1, heads=1, time=9, size=size)
        out, (C, n, m) = numpy_mlstm(*(a[0, 0].numpy() for a in (q, k, v, log_i, log_f)))
        h, state = mlstm(q, k, v, log_i, log_f)
        agree(out, h[0, 0])
        agree(C, state.C[0, 0])
        np.testing.assert_allclose(n, state.n[0, 0])
        np.testing.assert_allclose(m, state.m[0, 0])


def test_bad_settings_and_shapes_say_which_and_why():
    for heads in (0, 4):
        with pytest.raises(ValueError, match=f"d_model=6 is not a multiple of n_heads={heads}"):
            MLSTM(6, heads)
        with pytest.raises(ValueError, match=f"hidden_size=6 is not a multiple of n_heads={heads}"):
            SLSTM(3, 6, heads)
    for layer, size in ((MLSTM(6, 2), "d_model=6"), (SLSTM(6, 4), "input_size=6")):
        with pytest.raises(ValueError, match=rf"expected \(batch, time, {size}\)"):
            layer(torch.zeros(2, 5, 3))
    zero = torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"state.n has shape \(1, 4\); expected \(batch=2, hidden_size=4\)"):
        SLSTM(3, 4)(torch.zeros(2, 5, 3), SLSTMState(zero, zero, zero[:1], zero))
    q, k, v, log_i, log_f = inputs()
    for bad, name in [((q[0], k, v, log_i, log_f), "q"), ((q, k[..., :3], v, log_i, log_f), "k"), ((q, k, v[:, :2], log_i, log_f), "v"),
                      ((q, k, v, log_i[..., :3], log_f), "log_i"), ((q, k, v, log_i, log_f[:1]), "log_f")]:
        with pytest.raises(ValueError, match=f"^{name} has shape"):
            mlstm(*bad)
    _, state = mlstm(q, k, v, log_i, log_f)
    for name in MLSTMState._fields:
        with pytest.raises(ValueError, match=f"state.{name} has shape"):
            mlstm(q, k, v, log_i, log_f, state._replace(**{name: getattr(state, name)[:1]}))
    with pytest.raises(ValueError, match="chunk_size=0 or the number of steps, 7, is below 1"):
        mlstm(q, k, v, log_i, log_f, chunk_size=0)
    with pytest.raises(ValueError, match="number of steps, 0, is below 1"):
        mlstm(*(a[:, :, :0] for a in (q, k, v, log_i, log_f)))


@pytest.mark.oracle("transformers: the native recurrence of its xLSTM")
def test_equals_the_recurrence_in_transformers():
    theirs = pytest.importorskip("transformers.models.xlstm.modeling_xlstm")
    if not hasattr(theirs, "mlstm_recurrent_sequence_native"):
        pytest.skip("the xlstm package replaces them")
    q, k, v, log_i, _ = inputs(time=8)
    f = torch.randn_like(log_i)
    # There the query is scaled in place of the key, and a small number is added to the normalizer.
    expected = theirs.mlstm_recurrent_sequence_native(q, k, v, log_i, f, eps=0.0, dtype_state=D)
    ours, _ = mlstm(q, k / 2, v, log_i, F.logsigmoid(f), chunk_size=3)
    torch.testing.assert_close(ours, expected)
