import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.losses.perceptual import feature_distance, features, gabor_bank, pooled, style_distance
from snippets.losses.perceptual import gram as numpy_gram
from vocab.losses.perceptual import PerceptualLoss, gram, unit_length

X, Y = torch.rand(2, 3, 3, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
IDENTITY = nn.Sequential(nn.Identity())


def net(*, act=nn.Tanh, seed=3):
    """A small random network; double, so that gradients can be checked."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), act(), nn.Conv2d(4, 2, 2), act()).double()


def example():
    """For the contract suite: a small instance and its inputs."""
    return PerceptualLoss(net(), ["1", "3"], style_weight=2.0), (torch.rand(2, 3, 5, 4).double(), torch.rand(2, 3, 5, 4).double())


@torch.no_grad()
def maps(network, x):
    """The outputs of all layers, one after the other."""
    out = []
    for layer in network:
        x = layer(x)
        out.append(x)
    return out


def test_equal_images_cost_nothing():
    for options in ({}, {"style_weight": 3.0}, {"unit_channels": True}):
        x = X.clone().requires_grad_()
        loss = PerceptualLoss(net(), ["0", "3"], **options)(x, X)
        loss.backward()
        assert loss.item() == 0 and torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.oracle("torch.nn.functional.mse_loss, with the identity as network")
def test_with_the_identity_as_network_it_is_the_mean_squared_error():
    torch.testing.assert_close(PerceptualLoss(IDENTITY, ["0"])(X, Y), F.mse_loss(X, Y))
    torch.testing.assert_close(PerceptualLoss(IDENTITY, [0], reduction="sum")(X, Y), 3 * F.mse_loss(X, Y))
    each = torch.stack([F.mse_loss(x, y) for x, y in zip(X, Y)])
    torch.testing.assert_close(PerceptualLoss(IDENTITY, ["0"], reduction="none")(X, Y), each)


def test_layers_and_their_weights_add_up():
    a, b = maps(net(), X), maps(net(), Y)
    each = [F.mse_loss(p, q) for p, q in zip(a, b)]
    torch.testing.assert_close(PerceptualLoss(net(), ["0", "3"])(X, Y), each[0] + each[3])
    torch.testing.assert_close(PerceptualLoss(net(), ["3", "1"], [0.25, 3.0])(X, Y), 0.25 * each[3] + 3 * each[1])
    torch.testing.assert_close(PerceptualLoss(net(), [2], feature_weight=0.1)(X, Y), 0.1 * each[2])
    torch.testing.assert_close(PerceptualLoss(net(), [1, 1])(X, Y), 2 * each[1])


@pytest.mark.oracle("numpy.cov: second moments of the channels over all positions")
def test_gram_matrix_holds_the_second_moments_of_the_channels():
    f = maps(net(), X)[1]
    for image, matrix in zip(f, gram(f)):
        flat = image.flatten(1).numpy()
        moments = np.cov(flat, bias=True) + np.outer(flat.mean(1), flat.mean(1))
        np.testing.assert_allclose(matrix, moments / len(flat), rtol=1e-12)


def test_gram_matrix_is_blind_to_the_order_of_pixels():
    f = maps(net(), X)[1]
    shuffled = f.flatten(2)[..., torch.randperm(f.shape[2] * f.shape[3])].view_as(f)
    assert not torch.allclose(shuffled, f)
    torch.testing.assert_close(gram(shuffled), gram(f))


def test_style_is_blind_to_place_and_features_are_not():
    shuffled = X.flatten(2)[..., torch.randperm(30)].view_as(X)
    style = PerceptualLoss(IDENTITY, ["0"], style_weight=1.0, feature_weight=0.0)
    assert style(X, shuffled).item() < 1e-28 and style(X, Y).item() > 1e-6
    assert PerceptualLoss(IDENTITY, ["0"])(X, shuffled).item() > 0.01


@pytest.mark.oracle("squared Frobenius norm of the difference of Gram matrices, by numpy.linalg.norm")
def test_style_part_is_the_squared_frobenius_norm():
    a, b = maps(net(), X), maps(net(), Y)
    for weights in ([1.0, 1.0], [0.5, 4.0]):
        expected = [sum(w * np.linalg.norm((np.einsum("chw,dhw->cd", p, p) - np.einsum("chw,dhw->cd", q, q)) / p.numel()) ** 2
                        for w, p, q in zip(weights, (a[0][i], a[2][i]), (b[0][i], b[2][i]))) for i in range(3)]
        loss = PerceptualLoss(net(), ["0", "2"], weights, style_weight=7.0, feature_weight=0.0, reduction="none")
        torch.testing.assert_close(loss(X, Y), 7 * torch.tensor(expected, dtype=torch.float64))
    both = PerceptualLoss(net(), ["0", "2"], style_weight=7.0)(X, Y)
    alone = [PerceptualLoss(net(), ["0", "2"], **o)(X, Y) for o in ({}, {"style_weight": 7.0, "feature_weight": 0.0})]
    torch.testing.assert_close(both, sum(alone))


@pytest.mark.oracle("cosine distance (scipy): unit vectors differ by 2 - 2 cos, squared")
def test_unit_length_features_compare_directions():
    cosine = pytest.importorskip("scipy.spatial.distance").cosine
    a, b = maps(net(), X)[1], maps(net(), Y)[1]
    expected = np.mean([2 * cosine(a[i, :, r, c].numpy(), b[i, :, r, c].numpy())
                        for i in range(3) for r in range(a.shape[2]) for c in range(a.shape[3])])
    loss = PerceptualLoss(net(), ["1"], unit_channels=True)
    assert loss(X, Y).item() == pytest.approx(expected, rel=1e-7)
    torch.testing.assert_close(unit_length(5 * a), unit_length(a), rtol=1e-7, atol=0)


@pytest.mark.oracle("LPIPS worked by hand for two channels and two positions")
def test_lpips_by_hand():
    x, y = torch.tensor([[[[3.0, 1.0]], [[4.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]], [[2.0, 1.0]]]])
    # unit vectors (0.6, 0.8) and (0, 1), (1, 0) and (1, 1) / sqrt 2; weights 2 and 0.5; the mean of two places
    expected = ((2 * 0.36 + 0.5 * 0.04) + (2 * (1 - 0.5**0.5) ** 2 + 0.5 * 0.5)) / 2
    loss = PerceptualLoss(IDENTITY, ["0"], [torch.tensor([2.0, 0.5])], unit_channels=True)
    assert loss(x, y).item() == pytest.approx(expected, rel=1e-6)


def test_weights_of_channels_are_not_squared():
    """Erratum: the printed formula of LPIPS has the weights inside the square; the released weights are for the form without."""
    a, b = unit_length(maps(net(), X)[1]), unit_length(maps(net(), Y)[1])
    w = torch.tensor([0.1, 0.5, 2.0, 0.0], dtype=torch.float64)
    loss = PerceptualLoss(net(), ["1"], [w], unit_channels=True)(X, Y)
    printed = ((w.view(-1, 1, 1) * (a - b)) ** 2).sum(1).mean()
    torch.testing.assert_close(PerceptualLoss(net(), ["1"], [w**2], unit_channels=True)(X, Y), printed)
    assert abs(loss / printed - 1) > 0.1


def test_weights_of_channels_without_unit_length():
    a, b = maps(net(), X)[2], maps(net(), Y)[2]
    w = torch.tensor([3.0, 0.5])
    expected = (3 * F.mse_loss(a[:, 0], b[:, 0]) + 0.5 * F.mse_loss(a[:, 1], b[:, 1])) / 2
    loss = PerceptualLoss(net(), ["2"], [w])
    torch.testing.assert_close(loss(X, Y), expected)
    assert "weight_0" in loss.state_dict()


def test_a_position_without_any_response_has_a_finite_gradient():
    """The usual x / (root of the sum + eps) protects the quotient only: the root's slope at 0 is infinite."""
    x = torch.zeros(1, 2, 1, 1, requires_grad=True)
    y = torch.tensor([[[[3.0]], [[4.0]]]])
    PerceptualLoss(IDENTITY, ["0"], unit_channels=True)(x, y).backward()
    assert x.grad.isfinite().all() and x.grad.abs().sum() > 0
    again = torch.zeros(1, 2, 1, 1, requires_grad=True)
    usual = again / (again.square().sum(1, keepdim=True).sqrt() + 1e-10)
    (usual - unit_length(y)).square().sum().backward()
    assert again.grad.isnan().all()


def test_gradients_reach_the_images_and_not_the_network():
    mine = net()
    loss = PerceptualLoss(mine, ["0", "2"], style_weight=1.0)
    x = X.clone().requires_grad_()
    loss(x, Y).backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert all(p.requires_grad and p.grad is None for p in mine.parameters()), "the caller's network stays trainable"


def test_the_network_stays_in_eval_mode_and_the_callers_as_it_was():
    mine = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)).double()
    loss = PerceptualLoss(mine, ["2"])
    before = loss(X, Y)
    assert loss.train() is loss and loss.training and not any(m.training for m in loss.net.modules())
    assert loss(X, Y) == before and mine.training
    assert torch.equal(mine[1].running_mean, torch.zeros(4).double())
    assert not loss.eval().training


def test_in_place_activations_do_not_overwrite_a_layer():
    in_place = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 2)).double()
    expected = PerceptualLoss(in_place[:1], ["0"])(X, Y) + PerceptualLoss(in_place, ["2"])(X, Y)
    torch.testing.assert_close(PerceptualLoss(in_place, ["0", "2"])(X, Y), expected)
    assert in_place[1].inplace


def test_layers_after_the_last_are_not_run():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError

    loss = PerceptualLoss(nn.Sequential(nn.Identity(), Never()), ["0"])
    torch.testing.assert_close(loss(X, Y), F.mse_loss(X, Y))


@pytest.mark.parametrize(("build", "layers"), [(dict, ["half", "same"]), (lambda d: list(d.values()), [1, 0]), (lambda d: tuple(d.values()), [1, 0])])
def test_a_network_may_return_a_mapping_or_a_sequence(build, layers):
    class Two(nn.Module):
        def forward(self, x):
            return build({"same": x, "half": x[..., ::2]})

    expected = 0.5 * F.mse_loss(X[..., ::2], Y[..., ::2]) + F.mse_loss(X, Y)
    torch.testing.assert_close(PerceptualLoss(Two(), layers, [0.5, 1.0])(X, Y), expected)


def test_images_are_normalized_first():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    prepared = [torch.stack([(image[:, c] - mean[c]) / std[c] for c in range(3)], 1) for image in (X, Y)]
    loss = PerceptualLoss(net(), ["3"], mean=mean, std=std)
    torch.testing.assert_close(loss(X, Y), PerceptualLoss(net(), ["3"])(*prepared))
    assert loss(X, Y).item() != pytest.approx(PerceptualLoss(net(), ["3"])(X, Y).item(), rel=0.1)
    assert PerceptualLoss(net().float(), ["3"], mean=mean, std=std)(X.float(), Y.float()).dtype == torch.float32
    assert "mean" not in loss.state_dict()


def test_a_network_that_skips_pixels_cannot_see_a_checkerboard():
    """Features alone leave free what the network does not look at, and artifacts grow there."""
    blind = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2)).double()
    board = torch.ones(6, 5).double()
    board[::2, ::2] = 0
    x = (X + 5 * board).requires_grad_()
    loss = PerceptualLoss(blind, ["0"])(x, X)
    assert loss.item() < 1e-28 and F.mse_loss(x, X).item() > 10
    (slope,) = torch.autograd.grad(PerceptualLoss(blind, ["0"])(x, Y), x)
    assert not slope[..., board == 1].any() and slope[..., board == 0].any()


def test_no_images_cost_nothing():
    for options in ({}, {"style_weight": 1.0}, {"unit_channels": True}):
        assert PerceptualLoss(IDENTITY, ["0"], **options)(X[:0], Y[:0]).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_16_bits_are_widened(dtype):
    x, y = torch.full((1, 2, 64, 64), 300.0, dtype=dtype), torch.zeros(1, 2, 64, 64, dtype=dtype)
    loss = PerceptualLoss(IDENTITY, ["0"], style_weight=1.0)(x, y)
    assert loss.dtype == torch.float32  # squares of 90,000, Gram entries of 45,000, their squares of 2e9
    assert loss.item() == pytest.approx(300.0**2 + 4 * 45_000.0**2, rel=1e-2)


def test_second_derivatives():
    loss = PerceptualLoss(net(), ["1"], style_weight=1.0)
    x = X[:1].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: loss(x, Y[:1]), (x,), fast_mode=True)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((net(), ["4"]), {}, "layers names '4'; feature_net has 0, 1, 2, 3"),
        ((net(), []), {}, r"layers=\[\] is not a list of one layer or more"),
        ((net(), "13"), {}, "layers='13' is not a list"),
        ((net(), ["1"], [1.0, 2.0]), {}, "weights has 2 entries for 1 layers"),
        ((net(), ["1", "2"], [1.0, -2.0]), {}, r"weights\[1\] holds a number below 0: the loss could be negative"),
        ((net(), ["1"], [torch.tensor([1.0, -2.0])]), {}, r"weights\[0\] holds a number below 0"),
        ((net(), ["1"], [torch.ones(4, 1)]), {}, r"weights\[0\] has shape \(4, 1\); expected \(channels\)"),
        ((net(), ["1"], [torch.ones(4)]), dict(style_weight=1.0), "weights of channels are for features alone"),
        ((net(), ["1"]), dict(style_weight=-1.0), "style_weight=-1.0 is not 0 or more"),
        ((net(), ["1"]), dict(feature_weight=math.nan), "feature_weight=nan is not 0 or more"),
        ((net(), ["1"]), dict(mean=(0.5, 0.5, 0.5)), r"mean=\(0.5, 0.5, 0.5\) and std=None are not one number per channel each"),
        ((net(), ["1"]), dict(mean=(0.5,), std=(0.5, 0.5)), "are not one number per channel each"),
        ((net(), ["1"]), dict(reduction="avg"), "reduction='avg' is not 'mean', 'sum' or 'none'"),
    ],
)
def test_bad_options_say_which_and_why(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        PerceptualLoss(*arguments, **options)


def test_bad_images_and_networks_are_named():
    loss = PerceptualLoss(IDENTITY, ["0"])
    for x, y, message in [(X[0], Y[0], r"x has shape \(3, 6, 5\); expected \(batch, channels, height, width\)"),
                          (X, Y[:1], r"y has shape \(1, 3, 6, 5\); expected that of x, \(3, 3, 6, 5\)")]:
        with pytest.raises(ValueError, match=message):
            loss(x, y)
    with pytest.raises(ValueError, match=r"x has shape \(3, 1, 6, 5\); expected \(batch, channels=3, height, width\)"):
        PerceptualLoss(IDENTITY, ["0"], mean=(0.5,) * 3, std=(0.5,) * 3)(X[:, :1], Y[:, :1])
    with pytest.raises(ValueError, match=r"weights\[0\] has 2 channels; layer '1' has 4"):
        PerceptualLoss(net(), ["1"], [torch.ones(2)])(X, Y)
    with pytest.raises(ValueError, match="feature_net returned a Tensor; expected a mapping or a sequence of feature maps"):
        PerceptualLoss(nn.Identity(), ["0"])(X, Y)
    with pytest.raises(TypeError, match="y has dtype torch.int64; expected a floating-point dtype"):
        loss(X, Y.long())
    with pytest.raises(TypeError, match="feature_net is a list; expected a torch.nn.Module"):
        PerceptualLoss([nn.Identity()], ["0"])
    with pytest.raises(ValueError, match=r"features has shape \(3, 6, 5\)"):
        gram(X[0])


def test_numpy_variant_agrees(agree):
    bank = torch.from_numpy(gabor_bank())
    network = nn.Sequential(nn.Conv2d(1, 8, 9, bias=False), nn.ReLU(), nn.AvgPool2d(8)).double()
    network[0].weight.data.copy_(bank[:, None])
    x, y = torch.rand(2, 1, 1, 26, 24, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    f, g = (features(image[0, 0].numpy(), gabor_bank()) for image in (x, y))
    loss = PerceptualLoss(network, ["1", "2"], reduction="none")
    for ours, theirs in zip((f, pooled(f)), loss.features(x)):
        agree(ours, theirs[0], atol=1e-14)
    agree(feature_distance(pooled(f), pooled(g)), PerceptualLoss(network, ["2"])(x, y))
    agree(numpy_gram(f), gram(loss.features(x)[0])[0])
    agree(style_distance(f, g), PerceptualLoss(network, ["1"], style_weight=1.0, feature_weight=0.0)(x, y))
