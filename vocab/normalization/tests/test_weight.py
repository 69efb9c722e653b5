import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from snippets.normalization import weight as numpy_variant
from vocab.normalization.weight import data_dependent_init, direction_and_length, remove_weight_norm, weight_norm

D = torch.float64


def example():
    return direction_and_length, (torch.randn(3, 1, 1, dtype=D), torch.randn(3, 2, 2, dtype=D))


def parts(module):
    return module.parametrizations.weight.original0, module.parametrizations.weight.original1


@pytest.mark.oracle("torch.nn.utils.parametrizations.weight_norm")
@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 4), lambda: nn.Conv2d(3, 4, 2), lambda: nn.ConvTranspose1d(3, 4, 2)])
@pytest.mark.parametrize("dim", [0, 1, -1, -2])
def test_equals_that_of_torch_with_gradients(build, dim):
    ours, x = build().double(), torch.randn(5, 3, *[6] * (build().weight.ndim - 2), dtype=D)
    theirs = copy.deepcopy(ours)
    before = ours(x)
    weight_norm(ours, dim=dim), parametrizations.weight_norm(theirs, dim=dim % ours.weight.ndim)
    torch.testing.assert_close(ours(x), before)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    for p in ours.parameters():
        nn.init.normal_(p)
    theirs.load_state_dict(ours.state_dict())
    grad = torch.randn_like(before)
    ours(x).backward(grad), theirs(x).backward(grad)
    torch.testing.assert_close(ours(x), theirs(x))
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_erratum_there_is_one_length_per_output_unit_not_one_per_matrix():
    """A widely copied text calls g a scalar of the weight."""
    layer = weight_norm(nn.Linear(3, 4).double())
    g, v = parts(layer)
    assert g.shape == (4, 1)
    nn.init.normal_(g), nn.init.normal_(v)
    torch.testing.assert_close(layer.weight.norm(dim=1), g.abs().flatten())
    kept = layer.weight.clone()
    with torch.no_grad():
        v *= torch.tensor([0.1, 3.0, 7.0, 50.0], dtype=D)[:, None]
    torch.testing.assert_close(layer.weight, kept, msg="the length of v does not show")


@pytest.mark.oracle("closed form of the gradients")
def test_gradient_of_v_is_orthogonal_to_v_and_that_of_g_is_the_part_along_it():
    g, v, upstream = torch.randn(4, 1, dtype=D, requires_grad=True), torch.randn(4, 5, dtype=D, requires_grad=True), torch.randn(4, 5, dtype=D)
    direction_and_length(g, v).backward(upstream)
    length = v.detach().norm(dim=1, keepdim=True)
    unit = v.detach() / length
    along = (upstream * unit).sum(1, keepdim=True)
    torch.testing.assert_close(g.grad, along)
    torch.testing.assert_close(v.grad, g.detach() / length * (upstream - along * unit))
    torch.testing.assert_close((v.grad * v.detach()).sum(1), torch.zeros(4, dtype=D), atol=1e-12, rtol=0)


@pytest.mark.oracle("Pythagoras: |v - s|² = |v|² + |s|²")
def test_v_never_gets_shorter_under_plain_gradient_descent():
    layer, x, y = weight_norm(nn.Linear(3, 2).double()), torch.randn(20, 3, dtype=D), torch.randn(20, 2, dtype=D)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3)
    v = parts(layer)[1]
    for _ in range(10):
        optimizer.zero_grad()
        (layer(x) - y).square().sum(1).mean().backward()
        before, step = v.detach().norm(dim=1), 0.3 * v.grad.norm(dim=1)
        optimizer.step()
        assert (v.detach().norm(dim=1) > before).all()
        torch.testing.assert_close(v.detach().norm(dim=1), (before**2 + step**2).sqrt())


@pytest.mark.oracle("scaling: the direction turns by lr g / |v|² per unit of gradient")
def test_the_effective_learning_rate_of_the_direction_falls_with_the_square_of_v():
    g, upstream, turned = torch.ones(1, 1, dtype=D), torch.tensor([[0.0, 1.0]], dtype=D), []
    for length in (1.0, 10.0):
        v = torch.tensor([[length, 0.0]], dtype=D, requires_grad=True)
        direction_and_length(g, v).backward(upstream)
        turned.append(((1e-3 * v.grad).norm() / v.detach().norm()).item())
    assert turned == [pytest.approx(1e-3), pytest.approx(1e-5)]


def test_decay_of_v_alone_leaves_the_weight_and_speeds_up_its_direction():
    layer = weight_norm(nn.Linear(3, 2, bias=False).double())
    kept = layer.weight.clone()
    torch.optim.SGD([parts(layer)[1]], lr=1.0, weight_decay=0.5).zero_grad()
    parts(layer)[1].grad = torch.zeros(2, 3, dtype=D)
    torch.optim.SGD([parts(layer)[1]], lr=1.0, weight_decay=0.5).step()
    torch.testing.assert_close(parts(layer)[1].detach(), 0.5 * kept.detach())
    torch.testing.assert_close(layer.weight, kept)


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 4), lambda: nn.Conv1d(3, 4, 2)])
def test_removal_keeps_the_function_and_leaves_an_ordinary_parameter(build):
    layer = weight_norm(build().double())
    nn.init.normal_(parts(layer)[0])
    x = torch.randn(5, 3, *[6] * (layer.weight.ndim - 2), dtype=D)
    before = layer(x)
    assert remove_weight_norm(layer) is layer
    torch.testing.assert_close(layer(x), before)
    assert set(layer.state_dict()) == {"weight", "bias"} and isinstance(layer.weight, nn.Parameter)
    with pytest.raises(ValueError, match="module has no weight norm on name='weight'"):
        remove_weight_norm(layer)
    with pytest.raises(ValueError, match="module has no weight norm on name='weight'"):
        remove_weight_norm(parametrizations.orthogonal(nn.Linear(3, 3)))


@pytest.mark.oracle("mean 0 and deviation 1 of every unit on the batch")
@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 4), lambda: nn.Conv2d(3, 4, 2), lambda: nn.Conv1d(3, 4, 2, stride=2)])
def test_after_data_dependent_init_every_unit_has_mean_zero_and_deviation_one(build):
    layer = weight_norm(build().double())
    nn.init.normal_(layer.bias), nn.init.uniform_(parts(layer)[0], 0.5, 3.0)
    x = 5 + 3 * torch.randn(16, 3, *[6] * (layer.weight.ndim - 2), dtype=D)
    direction = parts(layer)[1].clone()
    data_dependent_init(layer, x)
    y = layer(x).movedim(1, 0).flatten(1)
    torch.testing.assert_close(y.mean(1), torch.zeros(4, dtype=D), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(4, dtype=D))
    assert torch.equal(parts(layer)[1], direction) and layer.bias.requires_grad


def test_data_dependent_init_of_sequences_takes_the_last_dimension_for_the_units_of_a_linear_layer():
    layer, x = weight_norm(nn.Linear(3, 4).double()), 5 + torch.randn(8, 7, 3, dtype=D)
    data_dependent_init(layer, x)
    torch.testing.assert_close(layer(x).flatten(0, 1).std(0, correction=0), torch.ones(4, dtype=D))


def test_data_dependent_init_says_what_is_missing():
    with pytest.raises(ValueError, match="module has no weight norm on name='weight'"):
        data_dependent_init(nn.Linear(2, 2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="module has no bias"):
        data_dependent_init(weight_norm(nn.Linear(2, 2, bias=False)), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"x leaves 2 output unit\(s\) constant"):
        data_dependent_init(weight_norm(nn.Linear(2, 2)), torch.ones(3, 2))
    with pytest.raises(TypeError, match="x is a list"):
        data_dependent_init(weight_norm(nn.Linear(2, 2)), [1.0])


def test_a_zero_direction_is_refused_where_torch_gives_nan():
    layer = nn.Linear(2, 3)
    nn.init.zeros_(layer.weight[1:].data)
    assert parametrizations.weight_norm(copy.deepcopy(layer)).weight.isnan().any()
    with pytest.raises(ValueError, match=r"weight has 2 direction\(s\) of length 0: g v / \|v\| would divide by zero"):
        weight_norm(layer)


def test_erratum_the_old_function_is_deprecated_and_its_modules_cannot_be_copied():
    """A widely copied example calls torch.nn.utils.weight_norm, a hook that leaves a computed tensor in the module."""
    with pytest.warns(FutureWarning, match="parametrizations.weight_norm"):
        old = torch.nn.utils.weight_norm(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(old)
    x, ours = torch.randn(3, 2), weight_norm(nn.Linear(2, 2))
    torch.testing.assert_close(copy.deepcopy(ours)(x), ours(x))


def test_another_name_and_another_dimension():
    lstm = weight_norm(nn.LSTMCell(3, 2), name="weight_hh", dim=1)
    torch.testing.assert_close(lstm.parametrizations.weight_hh.original0[0], lstm.weight_hh.norm(dim=0))
    remove_weight_norm(lstm, name="weight_hh")
    assert isinstance(lstm.weight_hh, nn.Parameter)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="wheight"), "module Linear has no parameter name='wheight'"),
        (dict(name="forward"), "module Linear has no parameter name='forward'"),
        (dict(dim=2), r"dim=2 is no dimension of weight with shape \(4, 3\)"),
        (dict(dim=-3), r"dim=-3 is no dimension of weight with shape \(4, 3\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        weight_norm(nn.Linear(3, 4), **arguments)


def test_a_length_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"g has shape \(4,\); expected \(4, 1\) for v of shape \(4, 3\)"):
        direction_and_length(torch.ones(4), torch.ones(4, 3))
    with pytest.raises(TypeError, match="g is a float"):
        direction_and_length(1.0, torch.ones(4, 3))
    with pytest.raises(TypeError, match="v has dtype torch.int64"):
        direction_and_length(torch.ones(4, 1), torch.ones(4, 3, dtype=torch.int64))
    assert direction_and_length(torch.tensor([2.0, 3.0]), torch.tensor([-5.0, 7.0])).tolist() == [-2.0, 3.0], "a vector: signs"


def test_numpy_variant_agrees_with_gradients(agree):
    g, v, upstream = torch.randn(4, 1, dtype=D, requires_grad=True), torch.randn(4, 5, dtype=D, requires_grad=True), torch.randn(4, 5, dtype=D)
    w = direction_and_length(g, v)
    w.backward(upstream)
    agree(numpy_variant.weight(g.detach().numpy(), v.detach().numpy()), w)
    for ours, theirs in zip(numpy_variant.gradients(g.detach().numpy(), v.detach().numpy(), upstream.numpy()), (g.grad, v.grad)):
        agree(ours, theirs)


def test_demo_grows_v_where_it_was_short_and_leaves_it_where_it_was_long():
    short = [y for _, y in numpy_variant.show(length=0.2)[1]["series"]["|v|"]]
    long = [y for _, y in numpy_variant.show(length=5.0)[1]["series"]["|v|"]]
    assert short[1] > 3 * short[0] and long[-1] < 1.2 * long[0]
    assert np.all(np.diff(short) >= 0) and np.all(np.diff(long) >= 0)
