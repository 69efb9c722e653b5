import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from snippets.optimizers.k_fac import kfac_direction
from vocab.optimizers.k_fac import KFAC, damped
from vocab.optimizers.sophia import sampled_cross_entropy

# No example(): the constructor takes a model, and a step needs statistics of a pass through it.


def fisher(layer, x, g):
    """The mean over examples of the outer products of the gradients of all weights, rows one after the other."""
    a = x if layer.bias is None else torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    each = torch.einsum("no,ni->noi", g, a).flatten(1)
    return each.T @ each / len(x)


def collect(optimizer, layer, x, g):
    """Statistics of a mean loss whose gradient at each example's outputs is ``g``."""
    with optimizer.statistics():
        (layer(x) * g).sum().div(len(x)).backward()
    optimizer.zero_grad()


@pytest.mark.oracle("the Fisher matrix assembled from the gradient of a single example")
@pytest.mark.parametrize("bias", [False, True])
def test_for_one_example_the_kronecker_product_is_the_fisher_matrix(bias):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=bias).double()
    x, g = torch.randn(1, 4).double(), torch.randn(1, 3).double()
    optimizer = KFAC(layer)
    collect(optimizer, layer, x, g)
    state = optimizer.state[layer.weight]
    torch.testing.assert_close(torch.kron(state["G"], state["A"]), fisher(layer, x, g), rtol=1e-12, atol=1e-14)


@pytest.mark.oracle("the assembled Fisher matrix, for independent inputs and output gradients")
def test_for_independent_inputs_and_gradients_it_is_exact_and_otherwise_not():
    torch.manual_seed(0)
    layer, a, b = nn.Linear(3, 2, bias=False).double(), torch.randn(5, 3).double(), torch.randn(4, 2).double()
    x, g = a.repeat_interleave(4, 0), b.repeat(5, 1)  # every input with every gradient
    optimizer = KFAC(layer, stat_decay=0.0)
    collect(optimizer, layer, x, g)
    found = torch.kron(optimizer.state[layer.weight]["G"], optimizer.state[layer.weight]["A"])
    torch.testing.assert_close(found, fisher(layer, x, g), rtol=1e-12, atol=1e-14)
    dependent = x[:, :2] * 3
    collect(optimizer, layer, x, dependent)
    found = torch.kron(optimizer.state[layer.weight]["G"], optimizer.state[layer.weight]["A"])
    assert (found - fisher(layer, x, dependent)).norm() > 0.2 * found.norm()


@pytest.mark.oracle("torch.linalg.lstsq")
@pytest.mark.parametrize("bias", [False, True])
def test_one_step_on_a_linear_layer_reaches_the_least_squares_solution(bias):
    torch.manual_seed(0)
    layer, x, y = nn.Linear(4, 3, bias=bias).double(), torch.randn(30, 4).double() * torch.tensor([1.0, 10.0, 0.1, 3.0]), torch.randn(30, 3).double()
    optimizer = KFAC(layer, lr=1.0, damping=0.0)
    unit = torch.linalg.qr(torch.randn(30, 3).double()).Q * 30**0.5  # draws of a unit normal whose sample covariance is exactly 1
    collect(optimizer, layer, x, unit)
    (layer(x) - y).square().sum().div(60).backward()
    optimizer.step()
    inputs = torch.cat([x, torch.ones(30, 1).double()], 1) if bias else x
    solution = torch.linalg.lstsq(inputs, y).solution
    torch.testing.assert_close(layer.weight.detach(), solution[:4].T, rtol=1e-8, atol=1e-10)
    if bias:
        torch.testing.assert_close(layer.bias.detach(), solution[4], rtol=1e-8, atol=1e-10)


@pytest.mark.oracle("torch.linalg.solve with the whole Kronecker product")
def test_the_step_is_the_solution_with_the_large_matrix():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3).double()
    x, g = torch.randn(20, 4).double(), torch.randn(20, 3).double()
    optimizer = KFAC(layer, lr=0.3, damping=0.01)
    collect(optimizer, layer, x, g)
    before = torch.cat([layer.weight, layer.bias[:, None]], 1).detach().clone()
    layer(x).square().mean().backward()
    gradient = torch.cat([layer.weight.grad, layer.bias.grad[:, None]], 1).flatten()
    A, G = damped(optimizer.state[layer.weight]["A"], optimizer.state[layer.weight]["G"], 0.01)
    optimizer.step()
    after = torch.cat([layer.weight, layer.bias[:, None]], 1).detach()
    torch.testing.assert_close((before - after).flatten(), 0.3 * torch.linalg.solve(torch.kron(G, A), gradient), rtol=1e-9, atol=1e-11)


@pytest.mark.oracle("identity: the correction keeps the relative damping of both factors equal")
def test_damping_is_split_by_the_size_of_the_factors():
    """Pitfall: equal shares over- or under-damp one of them."""
    A, G = 100 * torch.eye(3).double(), 0.01 * torch.eye(2).double()
    one, two = damped(A, G, 0.25)
    assert (one[0, 0] / 100).item() == pytest.approx((two[0, 0] / 0.01).item()) == pytest.approx(1.5)
    torch.testing.assert_close(torch.kron(one - A, two - G), 0.25 * torch.eye(6).double(), rtol=1e-12, atol=1e-14)
    for dead in ((torch.zeros(2, 2), torch.eye(2)), (torch.eye(2), torch.zeros(2, 2))):  # a layer without inputs, or without a gradient
        one, two = damped(*dead, 0.25)
        assert (one + two).tolist() == [[2.0, 0.0], [0.0, 2.0]]


@pytest.mark.oracle("invariance: an invertible affine map of a layer's inputs")
def test_an_affine_map_of_the_inputs_changes_nothing_without_damping():
    torch.manual_seed(0)
    x, y, mixing, shift = torch.randn(40, 3).double(), torch.randint(0, 4, (40,)), torch.randn(3, 3).double(), torch.randn(3).double()
    outputs = []
    for inputs, back in ((x, None), (x @ mixing.T + shift, torch.linalg.inv(mixing))):
        torch.manual_seed(1)
        layer = nn.Linear(3, 4).double()
        if back is not None:  # the same function of x
            layer.weight.data = layer.weight.data @ back
            layer.bias.data -= layer.weight.data @ shift
        optimizer, generator = KFAC(layer, lr=0.5, damping=0.0, update_freq=1), torch.Generator().manual_seed(0)
        for _ in range(10):
            with optimizer.statistics():
                sampled_cross_entropy(layer(inputs), generator).backward()
            optimizer.zero_grad()
            cross_entropy(layer(inputs), y).backward()
            optimizer.step()
        outputs.append(layer(inputs).softmax(-1).detach())
    torch.testing.assert_close(*outputs, rtol=1e-6, atol=1e-8)


@pytest.mark.oracle("torch.autograd.functional.hessian of the cross-entropy at a linear layer with one input")
def test_sampled_targets_give_the_curvature_and_those_of_the_data_do_not():
    """Pitfall: with data labels it is the empirical Fisher matrix."""
    torch.manual_seed(0)
    n = 4000
    logits, x = torch.tensor([[1.0, -0.5, 0.2]]).double(), torch.ones(n, 1).double()
    layer = nn.Linear(1, 3, bias=False).double()
    layer.weight.data = logits.T.clone()
    optimizer, labels = KFAC(layer, stat_decay=0.0), torch.zeros(n, dtype=torch.long)
    true = torch.autograd.functional.hessian(lambda z: cross_entropy(z, labels[:1]), logits)[0, :, 0]
    with optimizer.statistics():
        sampled_cross_entropy(layer(x)).backward()
    torch.testing.assert_close(optimizer.state[layer.weight]["G"], true, rtol=0, atol=0.02)
    with optimizer.statistics():
        cross_entropy(layer(x), labels).backward()
    assert (optimizer.state[layer.weight]["G"] - true).norm() > 0.3 * true.norm()


def test_factors_are_running_means_and_inverses_are_computed_rarely():
    torch.manual_seed(0)
    layer, x = nn.Linear(2, 2, bias=False).double(), torch.eye(2).double()
    optimizer = KFAC(layer, stat_decay=0.75, update_freq=2, lr=0.0)
    collect(optimizer, layer, x, x)
    collect(optimizer, layer, 3 * x, x)
    torch.testing.assert_close(optimizer.state[layer.weight]["A"], 0.75 * x / 2 + 0.25 * 9 * x / 2)
    inverses = []
    for _ in range(3):
        layer(x).sum().backward()
        optimizer.step()
        inverses.append(optimizer.state[layer.weight]["A_inverse"].clone())
        collect(optimizer, layer, 5 * x, x)
    assert torch.equal(inverses[0], inverses[1]) and not torch.equal(inverses[1], inverses[2])


def test_trains_a_network_resumes_bit_by_bit_and_gives_other_layers_sgd():
    torch.manual_seed(0)
    x, y, ends = torch.randn(64, 3).double(), torch.randint(0, 3, (64,)), []
    for interrupted in (False, True):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).double()
        optimizer, generator, losses = KFAC(model, lr=0.1, update_freq=3), torch.Generator().manual_seed(0), []
        for t in range(40):
            if interrupted and t == 17:
                saved = copy.deepcopy(optimizer.state_dict())
                optimizer = KFAC(model, lr=0.1, update_freq=3)
                optimizer.load_state_dict(saved)
            with optimizer.statistics():
                sampled_cross_entropy(model(x), generator).backward()
            optimizer.zero_grad()
            before = model[1].weight.detach().clone()

            def closure():
                loss = cross_entropy(model(x), y)
                loss.backward()
                return loss

            losses.append(optimizer.step(closure).item())
            torch.testing.assert_close(model[1].weight.detach(), before - 0.1 * model[1].weight.grad)
        ends.append([p.detach().clone() for p in model.parameters()])
        assert losses[-1] < losses[0] - 0.1
        assert optimizer.step() is None
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_a_frozen_bias_stays():
    layer = nn.Linear(2, 2).double()
    layer.bias.requires_grad_(False)
    optimizer, before, x = KFAC(layer, lr=1.0), layer.bias.detach().clone(), torch.randn(5, 2).double()
    collect(optimizer, layer, x, torch.randn(5, 2).double())
    layer(x).square().sum().backward()
    old = layer.weight.detach().clone()
    optimizer.step()
    assert torch.equal(layer.bias.detach(), before) and not torch.equal(layer.weight.detach(), old)


def test_shared_weights_missing_statistics_and_sparse_gradients_raise():
    layer = nn.Linear(2, 2)
    optimizer = KFAC(layer)
    for use in (lambda: layer(torch.ones(1, 3, 2)), lambda: layer(layer(torch.ones(1, 2)))):
        with pytest.raises(ValueError, match="used for many positions.*shared weights need KFC"), optimizer.statistics():
            use()
    layer(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match=r"step before any statistics\(\)"):
        optimizer.step()
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="KFAC takes no sparse gradients"):
        KFAC(embedding).step()
    assert not layer._forward_hooks, "hooks are removed, also after an error"


@pytest.mark.parametrize(
    ("options", "message"),
    [(dict(lr=-0.1), "lr=-0.1 is not 0 or more"), (dict(damping=-1.0), "damping=-1.0 is not 0 or more"),
     (dict(stat_decay=1.0), r"stat_decay=1.0 is not in \[0, 1\)"), (dict(update_freq=0), "update_freq=0 is not a whole number"),
     (dict(update_freq=1.5), "update_freq=1.5 is not a whole number")],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        KFAC(nn.Linear(2, 2), **options)


def test_defaults_are_the_documented_ones():
    assert KFAC(nn.Linear(2, 2)).defaults == dict(lr=1e-2, damping=1e-3, stat_decay=0.95, update_freq=10)
    with pytest.raises(ValueError, match=r"A has shape \(2,\); expected \(n, n\)"):
        damped(torch.ones(2), torch.eye(2), 0.1)


def test_numpy_variant_agrees(agree):
    torch.manual_seed(0)
    layer, x, g = nn.Linear(4, 3, bias=False).double(), torch.randn(20, 4).double(), torch.randn(20, 3).double()
    optimizer, before = KFAC(layer, lr=1.0, damping=0.02), layer.weight.detach().clone()
    collect(optimizer, layer, x, g)
    layer(x).square().mean().backward()
    gradient = layer.weight.grad.numpy().copy()
    optimizer.step()
    A, G = (np.einsum("ni,nj->ij", z, z) / 20 for z in (x.numpy(), g.numpy()))
    agree(kfac_direction(gradient, A, G, 0.02), before - layer.weight.detach())
