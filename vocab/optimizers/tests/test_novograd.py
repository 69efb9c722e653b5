import numpy as np
import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.novograd import novograd_step, train
from vocab.optimizers.novograd import NovoGrad
from vocab.optimizers.tests.walks import SHAPES, assert_same_path, in_numpy, layers, pull, walk


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: NovoGrad(params, lr=0.02, weight_decay=0.1, eps=1e-3)), ()


@pytest.mark.oracle("pytorch_optimizer.NovoGrad, 100 steps")
@pytest.mark.parametrize("options", [{}, dict(betas=(0.8, 0.5), weight_decay=0.2, eps=1e-2)])
def test_equals_another_library(options):
    Theirs = pytest.importorskip("pytorch_optimizer").NovoGrad
    assert_same_path(lambda p: NovoGrad(p, lr=0.02, **options), lambda p: Theirs(p, lr=0.02, foreach=False, **options))


@pytest.mark.oracle("the paper's algorithm 1, in NumPy")
def test_decay_is_inside_of_the_momentum():
    """Erratum: a widely copied version adds the decay outside, to the step."""
    beta1, beta2, lr, d, eps = 0.7, 0.6, 0.1, 0.3, 1e-8
    w = w_outside = np.array([3.0, -1.0, 0.5])
    gradients = [np.array([1.0, 2.0, -2.0]), np.array([0.1, 0.0, 0.3]), np.array([5.0, -4.0, 1.0])]
    optimizer_w = Parameter(torch.tensor(w))
    optimizer = NovoGrad([optimizer_w], lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=d)
    v, m, m_outside = None, 0.0, 0.0
    for g in gradients:
        v = g @ g if v is None else beta2 * v + (1 - beta2) * (g @ g)
        m = beta1 * m + (g / (v**0.5 + eps) + d * w)
        w = w - lr * m
        m_outside = beta1 * m_outside + g / (v**0.5 + eps)
        w_outside = w_outside - lr * (m_outside + d * w_outside)
        optimizer_w.grad = torch.tensor(g)
        optimizer.step()
    np.testing.assert_allclose(optimizer_w.detach().numpy(), w, rtol=1e-12)
    assert np.abs(w - w_outside).max() > 0.01


@pytest.mark.oracle("invariance: one layer's gradient times a constant (eps = 0)")
@pytest.mark.parametrize("foreach", [False, True])
def test_scale_of_a_layers_gradient_cancels(foreach):
    paths = []
    for factors in ((1.0, 1.0), (1e-4, 1e5)):
        params = layers((4, 3), (5,))
        optimizer = NovoGrad(params, lr=0.05, eps=0.0, weight_decay=0.1, foreach=foreach)
        for t in range(40):
            torch.manual_seed(t)
            for p, factor in zip(params, factors):
                p.grad = factor * torch.randn_like(p)
            optimizer.step()
        paths.append(params)
    torch.testing.assert_close(*paths, rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("identity: v after the first step is the squared norm")
def test_second_moment_begins_at_the_first_square():
    params = layers(*SHAPES)
    optimizer = NovoGrad(params)
    pull(params, 0)
    optimizer.step()
    for p in params:
        assert optimizer.state[p]["v"].item() == pytest.approx(p.grad.square().sum().item(), rel=1e-12)
    first = [p.grad.square().sum().item() for p in params]
    pull(params, 1)
    optimizer.step()
    for p, square in zip(params, first):
        assert optimizer.state[p]["v"].item() == pytest.approx(0.98 * square + 0.02 * p.grad.square().sum().item(), rel=1e-12)


def test_first_step_of_every_layer_is_as_long_as_the_rate():
    path = walk(lambda p: NovoGrad(p, lr=0.3), layers(*SHAPES), 1)[0]
    for after, before in zip(path, layers(*SHAPES)):
        assert (after - before).norm().item() == pytest.approx(0.3, rel=1e-6)


def test_direction_within_a_layer_is_that_of_momentum():
    """The ratio of two weights' steps is that of their gradients, unlike in Adam."""
    w = Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = NovoGrad([w])
    for size in (1.0, 30.0, 0.2):
        w.grad = size * torch.tensor([1.0, 1000.0], dtype=torch.float64)
        optimizer.step()
    assert (w[1] / w[0]).item() == pytest.approx(1000.0)


@pytest.mark.oracle("linearity: averaging is a smaller rate")
def test_averaging_is_the_rate_times_one_minus_beta1():
    assert_same_path(lambda p: NovoGrad(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1, grad_averaging=True),
                     lambda p: NovoGrad(p, lr=0.02, betas=(0.8, 0.9), weight_decay=0.1), steps=30)


def test_beta2_of_zero_is_a_normalized_gradient():
    w = Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = NovoGrad([w], lr=1.0, betas=(0.0, 0.0), eps=0.0)
    for t in range(5):
        before = w.detach().clone()
        w.grad = torch.randn(3, dtype=torch.float64) * 10.0**t
        optimizer.step()
        torch.testing.assert_close(before - w.detach(), w.grad / w.grad.norm(), rtol=1e-10, atol=1e-12)


def test_state_is_one_buffer_and_one_number():
    (w,) = layers((50, 4))
    optimizer = NovoGrad([w])
    pull([w], 0)
    optimizer.step()
    sizes = sorted(x.numel() for x in optimizer.state[w].values() if isinstance(x, torch.Tensor))
    assert sizes == [1, 200]
    adam = torch.optim.Adam([w])
    adam.step()
    assert sum(sizes) / sum(x.numel() for x in adam.state[w].values()) == pytest.approx(0.5, rel=0.01)


def test_a_layer_without_gradient_stays_and_a_first_gradient_of_zero_does_no_harm():
    w = Parameter(torch.ones(2))
    w.grad = torch.zeros(2)
    optimizer = NovoGrad([w], lr=0.1)
    optimizer.step()
    assert torch.equal(w.data, torch.ones(2))


def test_after_a_first_gradient_of_zero_steps_are_long():
    """Pitfall: v begins at 0 and forgets slowly: sqrt(1 / 0.02) times the rate."""
    w = Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = NovoGrad([w], lr=0.1)
    for g in (0.0, 5.0):
        w.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    assert -w.item() == pytest.approx(0.1 / 0.02**0.5, rel=1e-6)


def test_defaults_are_the_papers():
    assert NovoGrad(layers((2,))).defaults == dict(lr=1e-3, betas=(0.95, 0.98), eps=1e-8, weight_decay=0.0, grad_averaging=False, foreach=None, maximize=False)


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.tensor([[torch.nan, 0], [1, 1]], dtype=torch.float64)
    NovoGrad([w]).step()
    assert w.isnan().all()


@pytest.mark.parametrize(("options", "message"), [
    (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
    (dict(eps=-0.1), "eps=-0.1"),
    (dict(weight_decay=-0.1), "weight_decay=-0.1"),
    (dict(betas=(1.0, 0.9)), r"betas=\(1.0, 0.9\) are not all in \[0, 1\)"),
])
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        NovoGrad(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        NovoGrad([{"params": layers((2, 2)), **options}])


@pytest.mark.parametrize("averaging", [False, True])
def test_numpy_variant_agrees(agree, averaging):
    options = dict(lr=0.05, weight_decay=0.2, grad_averaging=averaging)
    agree(*in_numpy(lambda w, g, s, t: novograd_step(w, g, s, t, **options), lambda p: NovoGrad(p, **options)))


def test_demo_keeps_its_curve_when_a_layer_is_scaled():
    one, two = (train((0.9, 0.98), scale, True) for scale in (1.0, 100.0))
    np.testing.assert_allclose(one[0], two[0], rtol=1e-4)
    assert one[0][-1] < 0.6 * one[0][0]
    momentum = [train((0.9, 0.98), scale, False)[0][-1] for scale in (1.0, 100.0)]
    assert momentum[1] < 0.5 * momentum[0], "the same rate is another for momentum"
    assert two[2].max() < 8 and two[1][0, 0] == pytest.approx(100 * one[1][0, 0])
