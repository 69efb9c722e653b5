import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.initialization import gain as numpy_variant
from vocab.initialization.gain import calculate_gain, variance_gain
from vocab.initialization.variance_propagation import propagate_variance

FUNCTIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "GELU": F.gelu, "SiLU": F.silu, "SELU": F.selu, "ReLU": torch.relu}


@pytest.mark.oracle("torch.nn.init.calculate_gain")
def test_customary_values_are_pytorchs():
    for name in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "sigmoid",
                 "tanh", "relu", "selu", "leaky_relu"):
        assert calculate_gain(name) == pytest.approx(nn.init.calculate_gain(name), rel=1e-15)
    for slope in (0, 0.2, -0.5, 1.0, 3):
        assert calculate_gain("leaky_relu", slope) == pytest.approx(nn.init.calculate_gain("leaky_relu", slope), rel=1e-15)


@pytest.mark.oracle("closed forms: √2, 1, √(2/(1 + a²))")
def test_the_definition_gives_the_known_gains():
    assert variance_gain(torch.relu) == pytest.approx(math.sqrt(2), rel=1e-12)
    assert variance_gain(lambda z: z) == pytest.approx(1, rel=1e-12)
    for a in (0.01, 0.25, 1.0):
        assert variance_gain(lambda z: F.leaky_relu(z, a)) == pytest.approx(math.sqrt(2 / (1 + a**2)), rel=1e-12)
    assert variance_gain(F.selu) == pytest.approx(1, rel=1e-6)


@pytest.mark.oracle("Monte Carlo over two million normal numbers")
@pytest.mark.parametrize(("name", "expected"), [("tanh", 1.593), ("GELU", 1.534), ("SiLU", 1.677), ("sigmoid", 1.846)])
def test_the_definition_agrees_with_drawn_numbers(name, expected):
    z = torch.randn(2_000_000, dtype=torch.float64)
    squares = FUNCTIONS[name](z).square()
    error = squares.std() / len(z) ** 0.5
    found = variance_gain(FUNCTIONS[name])
    assert abs(found**-2 - squares.mean()) < 4 * error
    assert found == pytest.approx(expected, abs=6e-4)


@pytest.mark.oracle("a layer of 4,000 inputs")
@pytest.mark.parametrize("std", [0.3, 1.0, 2.5])
def test_weights_of_this_gain_give_the_signal_back(std):
    z = std * torch.randn(300, 4000)
    back = torch.tanh(z) @ torch.randn(4000, 300) * variance_gain(torch.tanh, std) / 4000**0.5
    assert back.std().item() == pytest.approx(std, rel=0.02)


def test_only_homogeneous_functions_have_one_gain_for_all_sizes():
    assert variance_gain(torch.relu, 0.1) == pytest.approx(variance_gain(torch.relu, 10.0), rel=1e-12)
    gains = [variance_gain(F.gelu, s) for s in (0.01, 1.0, 100.0)]
    assert gains == pytest.approx([2.0, 1.534, 1.414], abs=0.01)


def test_pytorchs_gains_for_tanh_and_selu_do_not_keep_a_standard_normal_signal():
    q, _ = propagate_variance(200, 1, torch.tanh, 5 / 3)
    assert (q[1] / q[0]).item() < 1 and q[-1].item() == pytest.approx(1.178, abs=1e-3)
    kept, _ = propagate_variance(200, 1, torch.tanh, variance_gain(torch.tanh))
    assert kept[-1].item() == pytest.approx(1, rel=1e-9)
    q, _ = propagate_variance(50, 1, F.selu, 0.75)
    assert q[-1].item() == pytest.approx(0.0239, abs=1e-4)
    q, _ = propagate_variance(50, 1, F.selu, 1.0)
    assert q[-1].item() == pytest.approx(1, rel=1e-6)


def steepness(fn, h=1e-4):
    """Of the map from the variance of one layer to that of the next, where the gain keeps variance 1."""
    gain = variance_gain(fn)
    up, down = (gain**2 * s**2 / variance_gain(fn, s) ** 2 for s in ((1 + h) ** 0.5, (1 - h) ** 0.5))
    return (up - down) / (2 * h)


@pytest.mark.parametrize(("name", "expected"), [("tanh", 0.461), ("SELU", 0.783), ("ReLU", 1.0), ("GELU", 1.144), ("SiLU", 1.173)])
def test_the_exact_gain_holds_tanh_fast_and_lets_gelu_go(name, expected):
    assert steepness(FUNCTIONS[name]) == pytest.approx(expected, abs=6e-4)
    q, _ = propagate_variance(50, 1, FUNCTIONS[name], variance_gain(FUNCTIONS[name]), input_moment=1.02)
    strayed = abs(math.log(q[-1].item()) - (math.log(2.04) if name == "ReLU" else 0))
    assert strayed < 1e-3 if expected < 1 else strayed > (1 if expected > 1 else 0)


@pytest.mark.parametrize(("name", "expected"), [("ReLU", 1.0), ("tanh", 1.178), ("SELU", 1.072), ("GELU", 1.072), ("SiLU", 1.067)])
def test_gradients_grow_where_the_forward_gain_is_exact(name, expected):
    _, chi = propagate_variance(1, 1, FUNCTIONS[name], variance_gain(FUNCTIONS[name]), input_moment=variance_gain(FUNCTIONS[name]) ** -2)
    assert chi.item() == pytest.approx(expected, abs=6e-4)


def test_gain_is_a_matter_of_the_forward_pass_and_warmup_is_not():
    """Erratum: with the signal kept exactly, Adam's first steps still have a size that knows nothing of it."""
    sizes = []
    for factor in (1.0, 100.0):
        weight = nn.Parameter(torch.full((4,), 0.5))
        optimizer = torch.optim.Adam([weight], lr=0.1)
        (factor * weight.square().sum()).backward()
        optimizer.step()
        sizes.append((weight - 0.5).abs().max().item())
    assert sizes == pytest.approx([0.1, 0.1], rel=1e-4)


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "softplus"])
def test_functions_without_a_customary_gain_say_where_to_get_one(name):
    with pytest.raises(ValueError, match=rf"nonlinearity='{name}' has no customary gain \(there are linear.* leaky_relu\): compute it with variance_gain"):
        calculate_gain(name)
    with pytest.raises(ValueError):
        nn.init.calculate_gain(name)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match="param=True is not the slope of a leaky ReLU"):
        calculate_gain("leaky_relu", True)
    with pytest.raises(ValueError, match="param='a' is not the slope"):
        calculate_gain("leaky_relu", "a")
    with pytest.raises(ValueError, match="param=0.2 is given, but relu has no parameter"):
        calculate_gain("relu", 0.2)
    for std in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"std={std} is not a number above 0"):
            variance_gain(torch.tanh, std)
    with pytest.raises(ValueError, match="fn is zero for all numbers"):
        variance_gain(torch.zeros_like)


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_numpy_variant_agrees(agree, name):
    ours = (lambda z: F.gelu(z, approximate="tanh")) if name == "GELU" else FUNCTIONS[name]
    for std in (0.5, 1.0, 2.0):
        agree(numpy_variant.variance_gain(numpy_variant.FUNCTIONS[name][0], std), variance_gain(ours, std))


def test_numpy_slopes_are_those_of_the_functions():
    z = np.linspace(-3, 3, 200)
    for f, slope in numpy_variant.FUNCTIONS.values():
        np.testing.assert_allclose(slope(z), (f(z + 1e-6) - f(z - 1e-6)) / 2e-6, atol=1e-6)
