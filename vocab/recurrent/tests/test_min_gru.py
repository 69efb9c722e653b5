import numpy as np
import pytest
import torch

from snippets.recurrent.min_gru import gates, scan
from vocab.recurrent.gru import GRU
from vocab.recurrent.min_gru import MinGRU, MinLSTM, log_scan
from vocab.state_space.parallel_scan import linear_scan

D = torch.float64


def example():
    return MinGRU(3, 4).double(), (torch.randn(2, 5, 3, dtype=D), torch.rand(2, 4, dtype=D) + 0.1)


def one_by_one(a, b, h):
    states = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.oracle("a loop over time")
@pytest.mark.parametrize("time", [1, 2, 3, 63, 64, 65, 1000, 4096])
def test_both_scans_equal_the_loop(time):
    a, b, h0 = torch.rand(2, time, 3, dtype=D), torch.randn(2, time, 3, dtype=D), torch.randn(2, 3, dtype=D)
    torch.testing.assert_close(linear_scan(a, b, h0, axis=1), one_by_one(a, b, h0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(linear_scan(a, b, axis=1), one_by_one(a, b, 0 * h0), rtol=1e-10, atol=1e-12)
    b, h0 = b.abs(), h0.abs()
    torch.testing.assert_close(log_scan(a.log(), b.log(), h0.log()), one_by_one(a, b, h0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(log_scan(a.log(), b.log()), one_by_one(a, b, 0 * h0), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("the formulas of Feng et al. 2024, step by step")
@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
@pytest.mark.parametrize("with_h0", [True, False])
def test_equals_the_recurrence_of_the_paper(kind, log_space, with_h0):
    layer, x = kind(3, 4, log_space=log_space, bias=True).double(), 3 * torch.randn(2, 9, 3, dtype=D)
    h0 = torch.rand(2, 4, dtype=D) + 0.1 if with_h0 else None
    *pre, v = (x @ layer.proj.weight.T + layer.proj.bias).split(4, -1)
    if log_space:
        v = torch.where(v >= 0, v + 0.5, torch.sigmoid(v))
    if kind is MinGRU:
        write = torch.sigmoid(pre[0])
        keep = 1 - write
    else:
        f, i = torch.sigmoid(pre[0]), torch.sigmoid(pre[1])
        keep, write = f / (f + i), i / (f + i)
    expected = one_by_one(keep, write * v, torch.zeros(2, 4, dtype=D) if h0 is None else h0)
    y, h = layer(x, h0)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(h, expected[:, -1])
    for t in range(9):
        h0 = layer.step(x[:, t], h0)
        torch.testing.assert_close(h0, expected[:, t])


def with_gate(value, **settings):
    layer = MinGRU(3, 4, bias=True, **settings).double()
    layer.proj.weight.data[:4], layer.proj.bias.data[:4] = 0, value
    return layer


@pytest.mark.parametrize("log_space", [True, False])
def test_a_shut_gate_keeps_the_state_and_an_open_one_forgets_it(log_space):
    x, h0 = torch.randn(2, 50, 3, dtype=D), torch.rand(2, 4, dtype=D) + 0.1
    y, _ = with_gate(-800.0, log_space=log_space)(x, h0)
    torch.testing.assert_close(y, h0[:, None].expand_as(y))
    layer = with_gate(800.0, log_space=log_space)
    torch.testing.assert_close(layer(x, h0)[0], layer(x)[0])
    torch.testing.assert_close(layer(x)[0][:, 1:], layer(x[:, 1:])[0])


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_a_state_stays_within_the_range_of_its_start_and_the_candidates(kind):
    layer, x, h0 = kind(3, 4, log_space=False).double(), 5 * torch.randn(2, 80, 3, dtype=D), torch.randn(2, 4, dtype=D)
    candidates = (x @ layer.proj.weight.T)[..., -4:]
    seen = torch.cat([h0[:, None], candidates], 1)
    y, _ = layer(x, h0)
    assert (y <= seen.cummax(1).values[:, 1:] + 1e-12).all() and (y >= seen.cummin(1).values[:, 1:] - 1e-12).all()


def test_a_layer_is_linear_in_its_state_with_factors_from_0_to_1():
    """So one layer cannot flip a state's sign, as parity needs."""
    layer, x = MinGRU(3, 4, log_space=False).double(), 4 * torch.randn(1, 6, 3, dtype=D)
    jacobian = torch.autograd.functional.jacobian(lambda h: layer(x, h)[1], torch.randn(1, 4, dtype=D))[0, :, 0]
    other = torch.autograd.functional.jacobian(lambda h: layer(x, h)[1], 100 * torch.randn(1, 4, dtype=D))[0, :, 0]
    torch.testing.assert_close(jacobian, other)
    assert torch.equal(jacobian, jacobian.diag().diag()) and (jacobian.diag() > 0).all() and (jacobian.diag() < 1).all()


def test_products_of_many_small_gates_underflow_unless_they_are_logarithms():
    a, b = torch.full((1, 400), 0.1), torch.ones(1, 400)
    products = a.cumprod(1)
    divided = products * (b / products).cumsum(1)  # the closed form as it is often written
    assert not divided.isfinite().all()
    for h in (log_scan(a.log(), b.log()), linear_scan(a, b, axis=1)):
        torch.testing.assert_close(h[0, -1].item(), 1 / 0.9, rtol=1e-4, atol=0)


def test_gates_far_out_give_finite_numbers_and_gradients():
    for kind in (MinGRU, MinLSTM):
        layer, x = kind(3, 4), 1000 * torch.randn(2, 50, 3)
        y, _ = layer(x)
        y.square().mean().backward()
        assert y.isfinite().all() and layer.proj.weight.grad.isfinite().all()


def test_far_fewer_parameters_than_a_gru():
    count = [sum(p.numel() for p in layer.parameters()) for layer in (MinGRU(128, 256), MinLSTM(128, 256), GRU(128, 256, bias=False))]
    assert count == [2 * 128 * 256, 3 * 128 * 256, 3 * 256 * (128 + 256)]
    assert MinGRU(3, 4).log_space


def test_numpy_variant_agrees(agree):
    for time in (1, 13, 64):
        layer, x = MinGRU(3, 4, log_space=False).double(), torch.randn(1, time, 3, dtype=D)
        w_z, w_h = layer.proj.weight.detach().numpy().reshape(2, 4, 3)
        a, b = gates(x[0].numpy(), w_z, w_h)
        rounds = scan(a, b)
        assert len(rounds) == 1 + int(np.ceil(np.log2(time)))
        agree(rounds[-1], layer(x)[0][0])


@pytest.mark.interp
@pytest.mark.parametrize("log_space", [True, False])
@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
@pytest.mark.parametrize("with_h0", [True, False])
def test_kernel_agrees(kernel_agrees, kind, log_space, with_h0):
    layer, x = kind(3, 4, log_space=log_space).double(), torch.randn(2, 9, 3, dtype=D, requires_grad=True)
    inputs = [x, *([(torch.rand(2, 4, dtype=D) + 0.1).requires_grad_()] if with_h0 else [])]
    kernel_agrees("scan", lambda _: layer(*inputs), (layer.proj.weight, *inputs), module=layer, atol=1e-13)


def test_bad_states_and_shapes_say_which_and_why():
    layer, x = MinGRU(3, 4), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 4\); expected \(batch, time, input_size=3\)"):
        layer(torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"h0 has shape \(1, 4\); expected \(batch=2, hidden_size=4\)"):
        layer(x, torch.ones(1, 4))
    with pytest.raises(ValueError, match="h0 holds -0.5; in log space a state is above 0, and None is no past"):
        layer(x, torch.full((2, 4), -0.5))
    with pytest.raises(ValueError, match="h holds 0; in log space"):
        layer.step(x[:, 0], torch.zeros(2, 4))
    MinGRU(3, 4, log_space=False)(x, -torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\); expected \(batch, input_size=3\)"):
        layer.step(x)
    a = torch.ones(2, 5, 3)
    for bad in [(a, a[:, :4]), (a, a, torch.ones(2, 5)), (a[0, 0], a[0, 0])]:
        with pytest.raises(ValueError, match="log_a has shape .* expected \\(batch, time, ...\\) twice"):
            log_scan(*bad)
    with pytest.raises(TypeError, match="log_a has dtype"):
        log_scan(a.long(), a)
    with pytest.raises(TypeError, match="log_b has dtype"):
        log_scan(a, a.long())
