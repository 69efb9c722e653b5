import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.blocks.residual import gradients, path_shares, signals
from vocab.blocks.residual import Residual, ResidualBlock, make_norm

D = torch.float64


def example():
    """For the contract suite: a small instance and its inputs."""
    return ResidualBlock(2, 3, stride=2, zero_init=False).double(), (torch.randn(2, 2, 5, 4, dtype=D),)


def shaken(module):
    """Normalizations that do something."""
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            for tensor in (m.weight, m.bias, m.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(m.running_var, 0.5, 2)
    return module.double()


@pytest.mark.oracle("transformers ResNetBasicLayer with copied weights")
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 6), 2), ((4, 4), 2)])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_basic_layer_of_transformers(channels, stride, training):
    layers = pytest.importorskip("transformers.models.resnet.modeling_resnet")
    library, module = shaken(layers.ResNetBasicLayer(*channels, stride)), ResidualBlock(*channels, stride=stride).double()
    pairs = [(module.sum.branch[0], library.layer[0].convolution), (module.sum.branch[1], library.layer[0].normalization),
             (module.sum.branch[3], library.layer[1].convolution), (module.sum.branch[4], library.layer[1].normalization)]
    if module.sum.shortcut:
        pairs += [(module.sum.shortcut[0], library.shortcut.convolution), (module.sum.shortcut[1], library.shortcut.normalization)]
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 4, 7, 6, dtype=D)
    torch.testing.assert_close(module.train(training)(x.clone()), library.train(training)(x.clone()))


@pytest.mark.oracle("the block written out with torch.nn.functional")
@pytest.mark.parametrize(("channels", "stride"), [((3, 3), 1), ((3, 4), 2)])
def test_preactivation_normalizes_first_and_leaves_the_sum_alone(channels, stride):
    block, x = shaken(ResidualBlock(*channels, stride=stride, preact=True, zero_init=False)).eval(), torch.randn(2, 3, 6, 6, dtype=D)
    norm = lambda m, x: F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias)  # noqa: E731
    ready = norm(block.enter[0], x).relu()
    y = F.conv2d(ready, block.sum.branch[0].weight, stride=stride, padding=1)
    y = F.conv2d(norm(block.sum.branch[1], y).relu(), block.sum.branch[3].weight, padding=1)
    around = F.conv2d(ready, block.sum.shortcut[0].weight, stride=stride) if stride > 1 else x
    torch.testing.assert_close(block(x), y + around)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_at_the_start_it_is_its_shortcut(norm):
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(ResidualBlock(4, norm=norm)(x), x.relu())
    assert torch.equal(ResidualBlock(4, norm=norm, preact=True)(x), x)
    assert not torch.equal(ResidualBlock(4, norm=norm, zero_init=False)(x), x.relu())
    assert not torch.equal(ResidualBlock(4, norm=norm, preact=True, zero_init=False)(x), x)


@pytest.mark.oracle("finite differences of the branch alone")
def test_the_jacobian_is_the_identity_plus_that_of_the_branch():
    block, x = shaken(ResidualBlock(2, preact=True, zero_init=False)).eval(), torch.randn(1, 2, 3, 3, dtype=D)
    jacobian = torch.autograd.functional.jacobian(block, x).view(18, 18)
    steps = 1e-6 * torch.eye(18, dtype=D).view(18, 2, 3, 3)
    branch = lambda x: block.sum.branch(block.enter(x)).flatten(1)  # noqa: E731
    of_branch = (branch(x + steps) - branch(x - steps)).T / 2e-6
    torch.testing.assert_close(jacobian, torch.eye(18, dtype=D) + of_branch, rtol=1e-6, atol=1e-7)


@pytest.mark.oracle("explicit sum over all 2^L paths")
def test_linear_branches_unroll_into_all_subsets():
    layers, x = [nn.Linear(3, 3, bias=False).double() for _ in range(5)], torch.randn(2, 3, dtype=D)
    y = nn.Sequential(*(Residual(layer) for layer in layers))(x)
    expected = torch.zeros_like(x)
    for taken in itertools.product([False, True], repeat=5):
        path = x
        for layer, through in zip(layers, taken):
            path = layer(path) if through else path
        expected += path
    torch.testing.assert_close(y, expected)


@pytest.mark.oracle("bound by the product of 1 + |J| of the branches")
def test_fifty_layers_lose_the_gradient_without_the_way_around_and_keep_it_with():
    weights = [torch.randn(16, 16, dtype=D) / 16**0.5 * 0.5 for _ in range(50)]
    norms, sizes = {}, [torch.linalg.matrix_norm(w, 2).item() for w in weights]
    for skip in (False, True):
        x = torch.randn(16, dtype=D, requires_grad=True)
        h = x
        for w in weights:
            h = torch.tanh(h @ w) + (h if skip else 0)
        h.sum().backward()
        norms[skip] = x.grad.norm().item() / 4
    assert norms[False] < 1e-10
    assert 0.1 < norms[True] < np.prod([1 + s for s in sizes])


def test_shape_and_channels_may_change_and_then_the_sum_needs_a_projection():
    """A widely copied block keeps channels and stride fixed, so it cannot build a ResNet."""
    x = torch.randn(2, 4, 7, 8)
    assert ResidualBlock(4, 6, stride=2)(x).shape == (2, 6, 4, 4)
    with pytest.raises(ValueError, match=r"the branch gives \(2, 6, 7, 8\), the shortcut \(2, 4, 7, 8\); they must agree"):
        Residual(nn.Conv2d(4, 6, 3, padding=1))(x)
    with pytest.raises(ValueError, match="they must agree"):
        Residual(nn.Conv2d(4, 1, 1))(x)  # would broadcast


def test_a_plain_network_with_batch_normalization_has_gradients_and_needs_no_shortcut_for_that():
    """A widely copied reason: the shortcut prevents vanishing gradients."""
    layers = [nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()) for _ in range(30)]
    y = torch.randn(8, 8, 6, 6)
    for layer in layers:
        y = layer(y)
    (y * torch.randn_like(y)).sum().backward()
    first, last = (layer[0].weight.grad.norm() for layer in (layers[0], layers[-1]))
    assert first > last


def test_the_two_convolution_block_is_that_of_the_small_resnets():
    """A widely copied advice is to take it for 50 and more layers; those use the bottleneck."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig()
    assert (list(config.depths), config.layer_type) == ([3, 4, 6, 3], "bottleneck")  # ResNet-50
    assert sum(config.depths) * 3 + 2 == 50 and sum([3, 4, 6, 3]) * 2 + 2 == 34


def test_the_input_is_not_changed_on_the_way():
    x = torch.randn(2, 4, 5, 5)
    kept = x.clone()
    for preact in (False, True):
        ResidualBlock(4, preact=preact, zero_init=False)(x)
        assert torch.equal(x, kept)


def test_groups_are_the_most_up_to_32_that_divide_the_channels():
    assert [make_norm("group", c).num_groups for c in (64, 48, 7, 32)] == [32, 16, 1, 32]


def test_numpy_stack_and_its_gradients_agree(agree):
    rng = np.random.default_rng(0)
    weights, x = rng.normal(size=(6, 4, 4)), rng.normal(size=4)
    for skip, scale in [(True, 0.5), (False, 1.0)]:
        h = torch.from_numpy(x).requires_grad_()
        states = [h]
        for w in torch.from_numpy(weights):
            states.append(scale * torch.tanh(states[-1] @ w.T) + (states[-1] if skip else 0))
        agree(signals(x, weights, scale, skip), torch.stack(states))
        slopes = torch.autograd.grad(states[-1].sum(), states)
        agree(gradients(signals(x, weights, scale, skip), weights, scale, skip), torch.stack(slopes))


def test_numpy_path_shares_are_binomial(agree):
    stats = pytest.importorskip("scipy.stats")
    agree(path_shares(20, 1.0), stats.binom(20, 0.5).pmf(np.arange(21)))
    agree(path_shares(7, 0.25), stats.binom(7, 0.2).pmf(np.arange(8)))


def test_one_channel_is_enough():
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(ResidualBlock(1)(x), x.relu()) and ResidualBlock(2, 1)(x.expand(-1, 2, -1, -1)).shape == x.shape


def test_wrong_arguments_are_named():
    for arguments, message in [
        (dict(in_channels=0), "in_channels=0 is below 1"), (dict(in_channels=2, out_channels=0), "out_channels=0 is below 1"),
        (dict(in_channels=2, stride=0), "stride=0 is below 1"), (dict(in_channels=2, norm="layer"), "norm='layer' is not 'batch' or 'group'"),
    ]:
        with pytest.raises(ValueError, match=message):
            ResidualBlock(**arguments)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 4, 4\); expected \(batch, in_channels=2, height, width\)"):
        ResidualBlock(2)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(TypeError, match="x is a list"):
        Residual(nn.ReLU())([1.0])
