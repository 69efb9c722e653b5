import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import instance as numpy_variant
from vocab.normalization.batch import BatchNorm2d
from vocab.normalization.instance import InstanceNorm2d

D = torch.float64


def example():
    module = InstanceNorm2d(3, eps=0.01, affine=True).double()
    nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return module, (torch.randn(2, 3, 2, 3, dtype=D),)


@pytest.mark.oracle("torch.nn.InstanceNorm2d")
@pytest.mark.parametrize("named", [{}, {"affine": True}, {"eps": 0.3}, {"track_running_stats": True}, {"track_running_stats": True, "momentum": 0.7}])
def test_equals_torch_through_several_steps_with_gradients(named):
    ours, theirs = InstanceNorm2d(3, **named).double(), nn.InstanceNorm2d(3, **named).double()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    for _ in range(3):
        grad, x = torch.randn(4, 3, 2, 5, dtype=D), 2 + 3 * torch.randn(4, 3, 2, 5, dtype=D)
        found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(ours(found), theirs(expected))
        ours(found).backward(grad), theirs(expected).backward(grad)
        torch.testing.assert_close(found.grad, expected.grad)
    for name in {"running_mean", "running_var"} & set(theirs.state_dict()):  # PyTorch's own never counts its batches here
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.oracle("torch.nn.functional.instance_norm")
def test_without_running_averages_training_and_evaluation_are_the_same():
    module, x = InstanceNorm2d(3).double(), torch.randn(4, 3, 5, 5, dtype=D)
    torch.testing.assert_close(module(x), F.instance_norm(x))
    torch.testing.assert_close(module.eval()(x), F.instance_norm(x))
    assert not module.state_dict(), "no gain, no shift, no averages, as in PyTorch"


@pytest.mark.oracle("group normalization with as many groups as channels")
def test_equals_group_norm_with_one_channel_per_group():
    module, (x,) = example()
    torch.testing.assert_close(module(x), F.group_norm(x, 3, module.weight, module.bias, 0.01))


@pytest.mark.oracle("batch normalization of batches of one")
def test_equals_batch_norm_in_training_of_one_image_at_a_time():
    module, x = InstanceNorm2d(3).double(), 5 + torch.randn(4, 3, 5, 5, dtype=D)
    batch_norm = nn.BatchNorm2d(3).double()
    torch.testing.assert_close(module(x), torch.cat([batch_norm(image) for image in x.split(1)]))
    assert (module(x) - batch_norm(x)).abs().max() > 0.1
    ours = BatchNorm2d(3).double()
    torch.testing.assert_close(module(x[:1]), ours(x[:1]))
    assert (ours.eval()(x[:1]) - module(x[:1])).abs().max() > 1, "a network trained with batches of one differs in evaluation"


@pytest.mark.oracle("closed form of the output's mean and variance")
def test_every_map_has_mean_zero_and_variance_one_up_to_eps():
    x = 3 + 0.5 * torch.randn(4, 3, 6, 5, dtype=D)
    y, before = InstanceNorm2d(3, eps=0.1).double()(x), x.var((2, 3), correction=0)
    torch.testing.assert_close(y.mean((2, 3)), torch.zeros(4, 3, dtype=D), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var((2, 3), correction=0), before / (before + 0.1))


@pytest.mark.oracle("invariance to contrast and brightness")
def test_contrast_and_brightness_of_each_channel_are_divided_out():
    module, x = InstanceNorm2d(3, eps=0.0).double(), torch.randn(4, 3, 5, 5, dtype=D)
    contrast, brightness = torch.rand(4, 3, 1, 1, dtype=D) + 0.1, torch.randn(4, 3, 1, 1, dtype=D)
    torch.testing.assert_close(module(contrast * x + brightness), module(x))
    negative = module(-x)
    torch.testing.assert_close(negative, -module(x))


@pytest.mark.oracle("a batch of one")
def test_an_image_does_not_know_of_its_batch():
    module, (x,) = example()
    torch.testing.assert_close(module(x)[1:], module(x[1:]), rtol=1e-14, atol=1e-14)


def test_two_images_that_differ_in_strength_alone_become_equal_so_a_classifier_cannot_use_it():
    faint, strong = 0.3 * torch.eye(4, dtype=D), 3.0 * torch.eye(4, dtype=D)
    y = InstanceNorm2d(1, eps=0.0).double()(torch.stack([faint, strong])[:, None])
    torch.testing.assert_close(y[0], y[1])


def test_running_averages_make_evaluation_another_function():
    module, x = InstanceNorm2d(3, track_running_stats=True).double(), 5 + 2 * torch.randn(4, 3, 5, 5, dtype=D)
    trained = module(x)
    assert (module.eval()(x) - trained).abs().max() > 1
    torch.testing.assert_close(module.running_mean, 0.1 * x.mean((2, 3)).mean(0))


@pytest.mark.parametrize("training", [True, False])
def test_a_map_of_one_pixel_has_no_variance(training):
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 1, 1\): 1 value per mean, and a variance needs two or more"):
        InstanceNorm2d(3).train(training)(torch.zeros(2, 3, 1, 1))


def test_wrong_arguments_and_inputs_are_named():
    with pytest.raises(ValueError, match="num_features=0 is below 1"):
        InstanceNorm2d(0)
    with pytest.raises(ValueError, match="eps=-1"):
        InstanceNorm2d(1, eps=-1)
    with pytest.raises(ValueError, match="momentum=2"):
        InstanceNorm2d(1, momentum=2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 5, 5\); expected \(batch, num_features=3, height, width\)"):
        InstanceNorm2d(3)(torch.zeros(2, 4, 5, 5))


def test_numpy_variant_agrees(agree):
    module, (x,) = example()
    agree(numpy_variant.instance_norm(x.numpy(), module.weight.detach().numpy(), module.bias.detach().numpy(), 0.01), module(x))


@pytest.mark.oracle("PyTorch's four norms")
def test_the_norms_of_the_demo_are_those_of_torch(agree):
    x = torch.randn(2, 4, 5, 5, dtype=D)
    theirs = {"instance": F.instance_norm(x), "group": F.group_norm(x, 2), "layer": F.layer_norm(x, (4, 5, 5)), "batch": F.batch_norm(x, None, None, training=True)}
    for name, (function, _) in numpy_variant.NORMS.items():
        agree(function(x.numpy()), theirs[name])


def test_demo_shows_that_only_instance_normalization_makes_the_pictures_equal():
    apart = {row[0]: float(row[2]) for row in numpy_variant.show(contrast=0.4, channel="red")[1]["rows"]}
    assert apart["instance"] < 0.02 and min(apart[n] for n in ("group", "layer", "batch")) > 0.2
    everything = {row[0]: float(row[2]) for row in numpy_variant.show(contrast=0.4, channel="all")[1]["rows"]}
    assert everything["layer"] < 0.02 and everything["group"] < 0.02 and everything["batch"] > 0.2
    assert np.isfinite(numpy_variant.shapes()).all()
