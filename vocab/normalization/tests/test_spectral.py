import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from snippets.normalization import spectral as numpy_variant
from vocab.normalization.spectral import conv_spectral_norm, power_iteration, spectral_norm

D = torch.float64


def example():
    return power_iteration, (torch.randn(4, 3, dtype=D), torch.randn(4, dtype=D))


def with_values(*values, rows=5):
    """A matrix with these singular values, and its singular vectors."""
    u = torch.linalg.qr(torch.randn(rows, len(values), dtype=D))[0]
    v = torch.linalg.qr(torch.randn(len(values), len(values), dtype=D))[0]
    return u @ torch.diag(torch.tensor(values, dtype=D)) @ v.T, u, v


@pytest.mark.oracle("numpy.linalg.svd")
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (1, 5), (5, 1)])
def test_many_iterations_give_the_largest_singular_value_and_its_vectors(shape):
    W = torch.randn(shape, dtype=D)
    sigma, u, v = power_iteration(W, torch.randn(shape[0], dtype=D), n=2000)
    U, S, V = np.linalg.svd(W.numpy())
    assert sigma.item() == pytest.approx(S[0])
    np.testing.assert_allclose(torch.outer(u, v), np.outer(U[:, 0], V[0]), atol=1e-9)


@pytest.mark.oracle("torch.nn.utils.parametrizations.spectral_norm with the same vectors")
@pytest.mark.parametrize(("build", "dim"), [(lambda: nn.Linear(3, 4), 0), (lambda: nn.Conv2d(3, 4, 2), 0), (lambda: nn.ConvTranspose2d(3, 4, 2), 1)])
@pytest.mark.parametrize("n", [1, 3])
def test_equals_that_of_torch_through_training_and_evaluation(build, dim, n):
    ours, x = build().double(), torch.randn(2, 3, *[5] * (build().weight.ndim - 2), dtype=D)
    theirs = copy.deepcopy(ours)
    spectral_norm(ours, n_power_iterations=n, dim=dim), parametrizations.spectral_norm(theirs, n_power_iterations=n, dim=dim)
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        y, z = ours(x), theirs(x)
        torch.testing.assert_close(y, z)
        grad = torch.randn_like(y)
        for module, out in ((ours, y), (theirs, z)):
            module.zero_grad()
            out.backward(grad)
        found, expected = (m.parametrizations.weight.original for m in (ours, theirs))
        torch.testing.assert_close(found.grad, expected.grad)
        with torch.no_grad():
            found -= 0.3 * found.grad
            expected -= 0.3 * expected.grad
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.oracle("numpy.linalg.svd")
def test_the_normalised_weight_has_norm_one_after_convergence():
    layer = spectral_norm(nn.Linear(6, 5).double())
    for _ in range(500):
        layer(torch.zeros(1, 6, dtype=D))
    assert np.linalg.svd(layer.weight.detach().numpy())[1][0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.oracle("Lipschitz constant 1 on pairs of points")
def test_a_normalised_linear_map_brings_no_two_points_further_apart():
    layer = spectral_norm(nn.Linear(6, 5).double(), n_power_iterations=300)
    x, y = torch.randn(2, 500, 6, dtype=D)
    before, after = (x - y).norm(dim=1), (layer(x) - layer(y)).norm(dim=1)
    assert (after <= before * (1 + 1e-9)).all() and (after / before).max() > 0.8


@pytest.mark.oracle("numpy.linalg.svd")
def test_an_estimate_is_never_above_the_truth_and_never_falls():
    for _ in range(20):
        W, u, last = torch.randn(5, 4, dtype=D), torch.randn(5, dtype=D), 0.0
        true = np.linalg.svd(W.numpy())[1][0]
        for _ in range(6):
            sigma, u, _ = power_iteration(W, u)
            assert last <= sigma.item() <= true * (1 + 1e-12)
            last = sigma.item()


@pytest.mark.oracle("closed form: the error shrinks by (s2/s1)⁴ per step")
@pytest.mark.parametrize("ratio", [0.9, 0.7, 0.5])
def test_the_error_shrinks_by_the_fourth_power_of_the_ratio_of_singular_values(ratio):
    W, left, _ = with_values(1.0, ratio, 0.1)
    u, errors = left[:, 0] + 0.1 * left[:, 1], []
    for _ in range(4):
        sigma, u, _ = power_iteration(W, u)
        errors.append(1 - sigma.item())
    assert errors[3] / errors[2] == pytest.approx(ratio**4, rel=0.02)


def test_a_start_at_right_angles_never_arrives():
    W, left, right = with_values(3.0, 1.0)
    sigma, _, _ = power_iteration(W, left[:, 1], n=1)
    assert sigma.item() == pytest.approx(1.0)


@pytest.mark.oracle("the gradient of a singular value: its vectors' outer product")
def test_gradient_of_the_norm_is_the_outer_product_of_its_vectors():
    layer = spectral_norm(nn.Linear(4, 3, bias=False).double(), n_power_iterations=500)
    weight, upstream = layer.parametrizations.weight.original, torch.randn(3, 4, dtype=D)
    U, S, V = torch.linalg.svd(weight.detach())
    (found,) = torch.autograd.grad(layer.weight, weight, upstream)
    expected = upstream / S[0] - (upstream * weight.detach()).sum() / S[0] ** 2 * torch.outer(U[:, 0], V[0])
    torch.testing.assert_close(found, expected)


def test_evaluation_uses_stored_vectors_and_training_moves_them():
    layer = spectral_norm(nn.Linear(4, 3).double())
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.randn(3, 4, dtype=D))
    layer.eval()
    stale = layer.weight
    torch.testing.assert_close(layer.weight, stale, rtol=0, atol=0)
    assert torch.linalg.matrix_norm(stale, 2).item() > 1.001, "a weight loaded without its vectors is not normalised"
    layer.train()
    assert (layer.weight - stale).abs().max() > 1e-3


@pytest.mark.oracle("torch.nn.utils.parametrizations.spectral_norm from the same seed")
def test_it_starts_with_fifteen_iterations_from_random_vectors():
    ours = nn.Linear(30, 20)
    theirs = copy.deepcopy(ours)
    torch.manual_seed(1), spectral_norm(ours)
    torch.manual_seed(1), parametrizations.spectral_norm(theirs)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert torch.linalg.matrix_norm(ours.eval().weight, 2).item() < 1.05, "nearly there before the first step"


def test_two_passes_before_one_backward_pass():
    layer, x = spectral_norm(nn.Linear(4, 3).double()), torch.randn(2, 4, dtype=D)
    (layer(x).sum() - layer(2 * x).sum()).backward()
    assert layer.parametrizations.weight.original.grad.abs().sum() > 0


def circulant(kernel, height, width):
    """The matrix of the convolution, column by column."""
    C = kernel.shape[1]
    basis = torch.eye(C * height * width, dtype=D).view(-1, C, height, width)
    k = kernel.shape[2:]
    return F.conv2d(F.pad(basis, (0, k[1] - 1, 0, k[0] - 1), mode="circular"), kernel).flatten(1).T


@pytest.mark.oracle("singular values of the explicit doubly block-circulant matrix")
@pytest.mark.parametrize(("kernel", "hw"), [((3, 2, 3, 3), (5, 4)), ((1, 1, 2, 3), (4, 6)), ((2, 4, 1, 1), (3, 3)), ((2, 2, 3, 3), (3, 3))])
def test_norm_of_a_convolution_is_that_of_its_matrix(kernel, hw):
    kernel = torch.randn(kernel, dtype=D)
    expected = np.linalg.svd(circulant(kernel, *hw).numpy())[1][0]
    assert conv_spectral_norm(kernel, hw).item() == pytest.approx(expected)


@pytest.mark.oracle("bounds: between the reshaped matrix's norm and k times it")
def test_erratum_for_a_convolution_the_reshaped_matrix_is_a_surrogate():
    """A widely copied text presents it as a Lipschitz constraint of the layer; a convolution may stretch by up to k."""
    for _ in range(10):
        kernel = torch.randn(4, 3, 3, 3, dtype=D)
        surrogate, exact = torch.linalg.matrix_norm(kernel.flatten(1), 2).item(), conv_spectral_norm(kernel, (8, 8)).item()
        assert surrogate < exact < 3 * surrogate
    flat = torch.ones(1, 1, 3, 3, dtype=D)
    assert conv_spectral_norm(flat, (6, 6)).item() == pytest.approx(3 * torch.linalg.matrix_norm(flat.flatten(1), 2).item())
    layer = spectral_norm(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False).double())
    layer.parametrizations.weight.original.data.fill_(1.0)
    bright = torch.ones(1, 1, 6, 6, dtype=D)
    layer(bright)
    assert (layer(bright) / bright).max().item() == pytest.approx(3.0)


@pytest.mark.oracle("the map x -> tanh(W x) and its iterates")
def test_erratum_a_spectral_radius_below_one_is_no_contraction():
    """A widely copied condition for equilibrium models; the radius rules the far future near a fixed point, a norm every step."""
    W = torch.tensor([[0.0, 10.0], [0.0, 0.0]], dtype=D)
    assert torch.linalg.eigvals(W).abs().max().item() == 0.0
    x, y = torch.tensor([[0.0, 0.01], [0.0, -0.01]], dtype=D)
    assert (torch.tanh(W @ x) - torch.tanh(W @ y)).norm() > 9 * (x - y).norm()
    sigma, _, _ = power_iteration(W, torch.ones(2, dtype=D), n=3)
    assert (torch.tanh(W / sigma @ x) - torch.tanh(W / sigma @ y)).norm() <= (x - y).norm()


def test_a_residual_sum_of_a_normalised_layer_stretches_by_up_to_two():
    layer = spectral_norm(nn.Linear(3, 3, bias=False).double())
    layer.parametrizations.weight.original.data.copy_(5 * torch.eye(3, dtype=D))
    x = torch.randn(4, 3, dtype=D)
    torch.testing.assert_close(x + layer(x), 2 * x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(name="wheight"), "module Linear has no parameter name='wheight'"),
        (dict(name="bias"), r"bias has shape \(4,\); a spectral norm needs two or more dimensions"),
        (dict(dim=2), r"dim=2 is no dimension of weight with shape \(4, 3\)"),
        (dict(dim=-3), r"dim=-3 is no dimension of weight"),
        (dict(n_power_iterations=0), "n_power_iterations=0 is below 1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        spectral_norm(nn.Linear(3, 4), **arguments)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"W has shape \(3,\); expected \(rows, columns\)"):
        power_iteration(torch.ones(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"u has shape \(4,\); expected \(rows=3\)"):
        power_iteration(torch.ones(3, 4), torch.ones(4))
    with pytest.raises(ValueError, match="n=0 is below 1"):
        power_iteration(torch.ones(3, 4), torch.ones(3), 0)
    with pytest.raises(ValueError, match=r"kernel has shape \(3, 3\); expected \(out_channels, in_channels, height, width\)"):
        conv_spectral_norm(torch.ones(3, 3), (5, 5))
    tall = torch.ones(1, 1, 2, 3, dtype=D)
    assert conv_spectral_norm(tall, (2, 3)).item() == pytest.approx(6.0)
    with pytest.raises(ValueError, match="larger than input_hw"):
        conv_spectral_norm(tall, (3, 2))
    for hw in [(2, 5), (5, 2)]:
        with pytest.raises(ValueError, match=r"kernel is \(3, 3\) and larger than input_hw=" + f"\\({hw[0]}, {hw[1]}\\)"):
            conv_spectral_norm(torch.ones(1, 1, 3, 3), hw)


def test_a_zero_matrix_has_norm_zero_and_a_negative_dimension_counts_from_the_end():
    sigma, u, v = power_iteration(torch.zeros(3, 2, dtype=D), torch.ones(3, dtype=D))
    assert sigma.item() == 0.0 and u.isfinite().all() and v.isfinite().all()
    for shape in [(1, 3), (3, 1)]:
        one = spectral_norm(nn.Linear(*shape).double(), n_power_iterations=5)
        assert one.weight.norm().item() == pytest.approx(1.0)
    layer = spectral_norm(nn.Linear(4, 3).double(), dim=-2, n_power_iterations=300)
    assert torch.linalg.matrix_norm(layer.weight, 2).item() == pytest.approx(1.0)


@pytest.mark.parametrize("n", [1, 5])
def test_numpy_variant_agrees(agree, n):
    W, u = torch.randn(4, 3, dtype=D), torch.randn(4, dtype=D)
    for ours, theirs in zip(numpy_variant.power_iteration(W.numpy(), u.numpy(), n), power_iteration(W, u, n)):
        agree(ours, theirs)
    kernel = torch.randn(3, 2, 3, 3, dtype=D)
    agree(numpy_variant.conv_spectral_norm(kernel.numpy(), 6, 5), conv_spectral_norm(kernel, (6, 5)))


def test_demo_never_finds_the_long_axis_from_a_right_angle():
    stuck = numpy_variant.show(angle=90, steps=5)[1]["series"]["estimate"]
    assert stuck[5][1] == pytest.approx(2.0, abs=1e-6)
    found = numpy_variant.show(angle=50, steps=20)[1]["series"]["estimate"]
    assert found[-1][1] == pytest.approx(3.0, abs=1e-6)
