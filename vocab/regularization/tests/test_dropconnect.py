import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.regularization import dropconnect as numpy_dropconnect
from vocab.regularization import dropconnect
from vocab.regularization.dropconnect import DropConnectLinear, output_variance
from vocab.regularization.tests.test_dropout import FixedDraws


def example():
    """For the contract suite: a small instance and its inputs."""
    return DropConnectLinear(3, 4, 0.3).double(), (torch.randn(5, 3).double(),)


@pytest.mark.oracle("torch.nn.Linear")
def test_evaluation_and_p_zero_are_a_linear_layer():
    layer, reference = DropConnectLinear(5, 3, 0.7).double(), nn.Linear(5, 3).double()
    layer.load_state_dict(reference.state_dict())
    x = torch.randn(4, 5).double()
    torch.testing.assert_close(layer.eval()(x), reference(x), rtol=0, atol=0)
    for per_sample in (False, True):
        plain = DropConnectLinear(5, 3, 0.0, per_sample).double()
        plain.load_state_dict(reference.state_dict())
        torch.testing.assert_close(plain(x), reference(x))


@pytest.mark.oracle("closed form of mean and variance over 100,000 masks")
@pytest.mark.parametrize("p", [0.25, 0.5])
def test_outputs_have_the_mean_of_the_layer_and_the_variance_of_the_formula(p):
    layer = DropConnectLinear(6, 2, p, per_sample=True).double()
    x = torch.randn(1, 6).double()
    y = layer(x.expand(100_000, 6)).detach()
    mean, variance = layer.eval()(x).detach()[0], output_variance(layer.weight, x, p).detach()[0]
    by_hand = torch.stack([p / (1 - p) * sum(layer.weight[o, i] ** 2 * x[0, i] ** 2 for i in range(6)) for o in range(2)]).detach()
    torch.testing.assert_close(variance, by_hand)
    assert ((y.mean(0) - mean).abs() < 4.5 * (variance / 100_000).sqrt()).all()
    torch.testing.assert_close(y.var(0), variance, rtol=0.03, atol=0)
    assert np.corrcoef(y.T)[0, 1] == pytest.approx(0, abs=0.02), "outputs have weights of their own"


@pytest.mark.oracle("dropout of the inputs")
def test_a_mask_that_is_constant_per_input_is_dropout_of_the_input(monkeypatch):
    layer, x = DropConnectLinear(5, 3, 0.5).double(), torch.randn(4, 5).double()
    columns = torch.tensor([2.0, 0, 2, 0, 2]).double()
    monkeypatch.setattr(dropconnect, "dropout", lambda weight, p, generator: weight * columns)
    torch.testing.assert_close(layer(x), layer.eval()(x * columns))


def test_one_mask_serves_a_batch_unless_each_example_has_its_own():
    x = torch.ones(6, 40).double()
    shared = DropConnectLinear(40, 3).double()(x)
    own = DropConnectLinear(40, 3, per_sample=True).double()(x)
    assert (shared == shared[:1]).all() and len(own[:, 0].unique()) == 6


def test_dropped_weights_get_no_gradient_and_the_bias_always_does():
    layer = DropConnectLinear(30, 2, 0.5).double()
    layer(torch.ones(1, 30).double()).sum().backward()
    assert set(layer.weight.grad.unique().tolist()) == {0.0, 2.0} and (layer.bias.grad == 1).all()


def test_nothing_dropped_leaves_no_variance_and_everything_dropped_the_bias():
    assert output_variance(torch.ones(2, 3), torch.ones(1, 3), 0.0).tolist() == [[0.0, 0.0]]
    for per_sample in (False, True):
        layer = DropConnectLinear(4, 2, 1.0, per_sample)
        assert torch.equal(layer(torch.randn(3, 4)), layer.bias.expand(3, 2))


def test_the_mean_weights_are_not_the_mean_output_behind_a_relu():
    """Why the paper draws from a Gaussian at test time: E[relu(z)] is not relu(E[z])."""
    layer = DropConnectLinear(60, 1, 0.5, per_sample=True).double()
    x = torch.randn(1, 60).double()
    layer.bias.data = -(x @ layer.weight.T)[0].detach()  # the mean output is 0
    assert layer.eval()(x).relu().item() == pytest.approx(0, abs=1e-12)
    drawn = layer.train()(x.expand(20_000, 60)).relu().mean().item()
    std = output_variance(layer.weight, x, 0.5).sqrt().item()
    assert drawn == pytest.approx(std / math.sqrt(2 * math.pi), rel=0.05)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DropConnectLinear(3, 2, 1.5), "p=1.5 is not between 0 and 1"),
        (lambda: DropConnectLinear(3, 2)(torch.zeros(4, 5)), r"x has shape \(4, 5\); expected \(batch, in_features=3\)"),
        (lambda: output_variance(torch.ones(2, 3), torch.ones(1, 3), 1.0), "p=1.0 is not from 0 to below 1"),
        (lambda: output_variance(torch.ones(2, 3), torch.ones(1, 3), -0.1), "p=-0.1 is not from 0 to below 1"),
        (lambda: output_variance(torch.ones(2, 3), torch.ones(1, 4), 0.5), r"expected \(batch, in_features=3\)"),
        (lambda: output_variance(torch.ones(3), torch.ones(1, 3), 0.5), r"weight has shape \(3,\); expected \(out_features, in_features\)"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_defaults_and_generator():
    layer, x = DropConnectLinear(9, 4), torch.ones(2, 9)
    assert layer.p == 0.5 and not layer.per_sample and "p=0.5, per_sample=False" in repr(layer)
    for layer.per_sample in (False, True):
        assert torch.equal(*(layer(x, torch.Generator().manual_seed(2)) for _ in range(2)))


def test_numpy_variant_agrees(agree):
    layer, x = DropConnectLinear(5, 3, 0.4).double(), torch.randn(2, 5).double()
    torch.manual_seed(6)
    kept = dropconnect.dropout_mask(layer.weight, 0.4, (3, 5)) != 0
    torch.manual_seed(6)
    y = layer(x)
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    agree(numpy_dropconnect.dropconnect(x.numpy(), W, b, 0.4, FixedDraws(kept)), y)
    agree(numpy_dropconnect.output_variance(W, x.numpy(), 0.4), output_variance(layer.weight, x, 0.4))
