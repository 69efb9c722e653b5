import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import compared
from snippets.normalization import group as numpy_variant
from vocab.normalization.group import GroupNorm, group_norm

D = torch.float64


def example():
    module = GroupNorm(2, 6, eps=0.01, activation="silu").double()
    nn.init.normal_(module.weight), nn.init.normal_(module.bias)
    return module, (torch.randn(2, 6, 2, 3, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.group_norm")
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 5), (3, 6, 2, 5), (3, 6, 2, 2, 2)])
def test_equals_torch_group_norm_with_gradients(shape, groups):
    x, grad = (3 + 2 * torch.randn(shape, dtype=D)).requires_grad_(), torch.randn(shape, dtype=D)
    weight, bias = torch.randn(6, dtype=D, requires_grad=True), torch.randn(6, dtype=D, requires_grad=True)
    for eps in (1e-5, 0.3):
        ours, theirs = group_norm(x, groups, weight, bias, eps), F.group_norm(x, groups, weight, bias, eps)
        torch.testing.assert_close(ours, theirs)
        found, expected = (torch.autograd.grad(y, (x, weight, bias), grad, allow_unused=True) for y in (ours, theirs))
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(group_norm(0.01 * x, groups), F.group_norm(0.01 * x, groups))


@pytest.mark.oracle("torch.nn.GroupNorm, followed by SiLU")
@pytest.mark.parametrize("named", [{}, {"affine": False}, {"eps": 0.3}])
def test_a_loaded_module_is_that_of_torch_and_silu_comes_last(named):
    ours, theirs = GroupNorm(2, 6, **named).double(), nn.GroupNorm(2, 6, **named).double()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 3, 3, dtype=D)
    torch.testing.assert_close(ours(x), theirs(x))
    active = GroupNorm(2, 6, activation="silu", **named).double()
    active.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(active(x), F.silu(theirs(x)))


@pytest.mark.oracle("torch.nn.functional.instance_norm")
def test_as_many_groups_as_channels_is_instance_norm():
    x = torch.randn(2, 6, 3, 4, dtype=D)
    torch.testing.assert_close(group_norm(x, 6), F.instance_norm(x))


@pytest.mark.oracle("torch.nn.functional.layer_norm over channels and space")
def test_erratum_one_group_is_layer_norm_over_channels_and_space_and_not_over_channels():
    """A widely copied note equates one group with LayerNorm; that of Transformers and ConvNeXt has a mean per position."""
    x = torch.randn(2, 6, 3, 4, dtype=D)
    torch.testing.assert_close(group_norm(x, 1), F.layer_norm(x, (6, 3, 4)))
    per_position = F.layer_norm(x.permute(0, 2, 3, 1), (6,)).permute(0, 3, 1, 2)
    assert (group_norm(x, 1) - per_position).abs().max() > 0.5
    vectors = torch.randn(5, 6, dtype=D)
    torch.testing.assert_close(group_norm(vectors, 1), F.layer_norm(vectors, (6,)), msg="without space they are one")


@pytest.mark.oracle("a batch of one")
def test_an_image_does_not_know_of_its_batch():
    module, (x,) = example()
    torch.testing.assert_close(module(x)[1:], module(x[1:]), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(module.eval()(x), module.train()(x), rtol=0, atol=0)


@pytest.mark.oracle("closed form of each group's mean and variance")
def test_every_group_has_mean_zero_and_variance_one_up_to_eps():
    x = 3 + 0.5 * torch.randn(2, 6, 4, 4, dtype=D)
    y, before = group_norm(x, 3, eps=0.1).unflatten(1, (3, 2)), x.unflatten(1, (3, 2)).var((2, 3, 4), correction=0)
    torch.testing.assert_close(y.mean((2, 3, 4)), torch.zeros(2, 3, dtype=D), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.var((2, 3, 4), correction=0), before / (before + 0.1))


@pytest.mark.oracle("invariance: order of channels inside a group")
def test_permuting_channels_inside_a_group_commutes_and_across_groups_does_not():
    x = torch.randn(2, 6, 3, 3, dtype=D) * torch.arange(1.0, 7.0, dtype=D)[:, None, None]
    inside, across = [2, 0, 1, 3, 5, 4], [3, 1, 2, 0, 4, 5]
    torch.testing.assert_close(group_norm(x[:, inside], 2), group_norm(x, 2)[:, inside])
    assert (group_norm(x[:, across], 2) - group_norm(x, 2)[:, across]).abs().max() > 0.1


def test_inside_a_group_the_proportions_of_channels_survive():
    x = torch.randn(2, 4, 3, 3, dtype=D)
    x[:, 1] = 5 * x[:, 0]
    y = group_norm(x, 2)
    torch.testing.assert_close(y[:, 1].std((1, 2)) / y[:, 0].std((1, 2)), torch.full((2,), 5.0, dtype=D))


@pytest.mark.oracle("closed form: the variance of a variance, 2/n for Gaussian numbers")
@pytest.mark.parametrize(("channels", "pixels"), [(1, 4), (1, 16), (4, 16)])
def test_small_groups_on_small_maps_have_noisy_statistics(channels, pixels):
    x = torch.randn(8_000, channels, pixels, dtype=D)
    n = channels * pixels
    deviation = (x.std((1, 2)) / group_norm(x, 1, eps=0.0).std((1, 2))).square()  # what was divided by
    assert deviation.var().item() == pytest.approx(2 * (n - 1) / n**2, rel=0.12)


def test_it_cannot_be_folded_because_no_fixed_scale_gives_the_output():
    x = torch.randn(1, 4, 3, 3, dtype=D)
    scale = [group_norm(s * x, 2, eps=0.0) / (s * x - (s * x).unflatten(1, (2, 2)).mean((2, 3, 4), keepdim=True).expand(1, 2, 2, 3, 3).flatten(1, 2)) for s in (1.0, 7.0)]
    torch.testing.assert_close(scale[0], 7.0 * scale[1])


def test_half_precision_is_normalised_in_single():
    x = torch.tensor([[-300.0, 300.0]], dtype=torch.float16)
    assert group_norm(x, 1).tolist() == [[-1.0, 1.0]] and group_norm(x, 1).dtype == torch.float16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 6), "num_channels=6 is not a multiple of num_groups=4"),
        ((0, 6), "num_channels=6 is not a multiple of num_groups=0"),
        ((2, 0), "num_channels=0 is not a multiple of num_groups=2"),
        ((2, 6, -0.1), "eps=-0.1 is negative"),
        ((2, 6, float("nan")), "eps=nan is negative"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupNorm(*arguments)


def test_another_activation_is_refused():
    with pytest.raises(ValueError, match="activation='relu' is neither None nor 'silu'"):
        GroupNorm(1, 1, activation="relu")


def test_smallest_arguments_are_allowed():
    assert GroupNorm(1, 1, eps=0.0)(torch.tensor([[[1.0, 3.0]]])).flatten().tolist() == [-1.0, 1.0]
    assert GroupNorm(2, 2, eps=0.0)(torch.tensor([[1.0, 3.0]])).tolist() != [[-1.0, 1.0]] == GroupNorm(1, 2, eps=0.0)(torch.tensor([[1.0, 3.0]])).tolist()
    assert repr(GroupNorm(2, 6)) == "GroupNorm(2, 6, eps=1e-05, activation=None)"


def test_wrong_inputs_are_named():
    for shape in [(2, 5, 3, 3), (6,), ()]:
        with pytest.raises(ValueError, match=r"expected \(batch, num_channels=6, \.\.\.\)"):
            GroupNorm(2, 6)(torch.zeros(shape))
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        GroupNorm(2, 6)(torch.zeros(2, 6, dtype=torch.int64))


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_numpy_variant_agrees(agree, groups):
    x, weight, bias = torch.randn(2, 6, 2, 3, dtype=D), torch.randn(6, dtype=D), torch.randn(6, dtype=D)
    agree(numpy_variant.group_norm(x.numpy(), groups, weight.numpy(), bias.numpy(), 0.1), group_norm(x, groups, weight, bias, 0.1))


def test_numpy_variant_rejects_uneven_groups():
    with pytest.raises(ValueError, match="6 channels cannot form 4 equal groups"):
        numpy_variant.group_norm(np.zeros((1, 6, 2, 2)), 4)


def test_demo_turns_down_the_neighbour_of_the_loud_channel_and_no_other_image():
    shown = numpy_variant.show(loud=20.0, groups=4)[1]["series"]["GN"]
    assert shown[2] > 1.3 and shown[3] < 0.2 and 0.5 < shown[0] < 1.5
    assert numpy_variant.show(loud=20.0, groups=8)[1]["series"]["GN"][3] > 0.99
    assert "by 0.00 with GN" in numpy_variant.show()[-1]["caption"]


@pytest.mark.oracle("autograd through PyTorch's norms")
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_family_figure_shows_the_derivatives_that_autograd_finds(groups):
    x, at = torch.randn(3, 4, 4, 1, dtype=D), (1, 2, 0, 0)
    over_channels = lambda f: lambda x: f(x.movedim(1, -1)).movedim(-1, 1)  # noqa: E731
    theirs = {
        "batch": lambda x: F.batch_norm(x, None, None, training=True),
        "layer": over_channels(lambda x: F.layer_norm(x, (4,))),
        "RMS": over_channels(lambda x: F.rms_norm(x, (4,), eps=1e-6)),
        "group": lambda x: F.group_norm(x, groups),
        "instance": F.instance_norm,
    }
    for name, f in compared.norms(groups).items():
        expected = torch.autograd.functional.jacobian(theirs[name], x)[(..., *at)]
        np.testing.assert_allclose(compared.response(f, x.numpy(), at), expected, atol=1e-4)
        found = int((expected != 0).sum())
        assert found == {"batch": 12, "layer": 4, "RMS": 4, "group": 16 // groups, "instance": 4}[name]
