import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.layers.bilinear import additive, low_rank, unit
from snippets.layers.bilinear import bilinear as numpy_bilinear
from vocab.layers.bilinear import Bilinear

D = torch.float64


def example():
    return Bilinear(4, 3, 2, rank=5).double(), (torch.randn(2, 5, 4, dtype=D), torch.randn(2, 5, 3, dtype=D))


def inputs(m=4, n=3, rows=(6,)):
    return torch.randn(*rows, m, dtype=D), torch.randn(*rows, n, dtype=D)


@pytest.mark.oracle("torch.nn.functional.bilinear")
@pytest.mark.parametrize("rows", [(), (7,), (2, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_pytorch(rows, bias):
    layer, (x1, x2) = Bilinear(4, 3, 5, bias).double(), inputs(rows=rows)
    if bias:
        layer.bias.data.normal_()
    torch.testing.assert_close(layer(x1, x2), F.bilinear(x1, x2, layer.weight, layer.bias))
    torch.testing.assert_close(layer.full_weight(), layer.weight)


@pytest.mark.oracle("torch.nn.functional.bilinear with the product of the factors")
def test_low_rank_equals_the_matrices_that_its_factors_make():
    layer, (x1, x2) = Bilinear(4, 3, 5, rank=2).double(), inputs()
    layer.bias.data.normal_()
    weight = torch.stack([layer.u.weight.T @ row.diag() @ layer.v.weight for row in layer.p.weight])
    torch.testing.assert_close(layer(x1, x2), F.bilinear(x1, x2, weight, layer.bias))
    torch.testing.assert_close(layer.full_weight(), weight)
    assert (torch.linalg.matrix_rank(weight) == 2).all()
    full = Bilinear(4, 3, 5).double()
    full.weight.data, full.bias.data = weight.detach(), layer.bias.data
    torch.testing.assert_close(full(x1, x2), layer(x1, x2))


@pytest.mark.parametrize("rank", [None, 2])
def test_is_linear_in_each_input(rank):
    layer, (x1, x2), (z1, z2) = Bilinear(4, 3, 5, rank=rank).double(), inputs(), inputs()
    layer.bias.data.normal_()

    def f(a, b):
        return layer(a, b) - layer.bias

    torch.testing.assert_close(f(2 * x1 - 3 * z1, x2), 2 * f(x1, x2) - 3 * f(z1, x2))
    torch.testing.assert_close(f(x1, 2 * x2 - 3 * z2), 2 * f(x1, x2) - 3 * f(x1, z2))
    torch.testing.assert_close(f(10 * x1, 10 * x2), 100 * f(x1, x2))


def test_the_identity_gives_the_dot_product_and_swapping_transposes():
    layer, (x1, x2) = Bilinear(4, 4, 1, bias=False).double(), inputs(n=4)
    layer.weight.data[0] = torch.eye(4)
    torch.testing.assert_close(layer(x1, x2)[:, 0], (x1 * x2).sum(-1))
    layer, (x1, x2), swapped = Bilinear(4, 3, 5).double(), inputs(), Bilinear(3, 4, 5).double()
    swapped.weight.data = layer.weight.data.transpose(1, 2)
    torch.testing.assert_close(swapped(x2, x1), layer(x1, x2))


@pytest.mark.oracle("scaled dot-product attention's scores")
def test_attention_scores_are_a_bilinear_form_of_low_rank():
    w_q, w_k, (x, z) = torch.randn(2, 6, dtype=D), torch.randn(2, 6, dtype=D), inputs(6, 6)
    layer = Bilinear(6, 6, 1, bias=False, rank=2).double()
    layer.u.weight.data, layer.v.weight.data, layer.p.weight.data = w_q, w_k, torch.ones(1, 2, dtype=D)
    torch.testing.assert_close(layer(x, z)[:, 0], ((x @ w_q.T) * (z @ w_k.T)).sum(-1))
    torch.testing.assert_close(layer.full_weight()[0].detach(), w_q.T @ w_k)


def test_the_weight_has_the_outputs_first():
    """A widely copied definition gives the tensor as m by n by k; with m = n = k it is accepted and silently permuted."""
    layer, theirs = Bilinear(4, 4, 4, bias=False).double(), nn.Bilinear(4, 4, 4, bias=False).double()
    assert layer.weight.shape == Bilinear(4, 4, 4).weight.shape and Bilinear(2, 3, 5).weight.shape == (5, 2, 3)
    layer.load_state_dict(theirs.state_dict())
    x1, x2 = inputs(n=4)
    torch.testing.assert_close(layer(x1, x2), theirs(x1, x2))
    as_copied = torch.einsum("...m, mnk, ...n -> ...k", x1, theirs.weight, x2)
    assert not torch.allclose(as_copied, theirs(x1, x2), rtol=0.1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Bilinear(2, 3, 5).load_state_dict({"weight": torch.zeros(2, 3, 5), "bias": torch.zeros(5)})


def test_sizes_grow_as_a_product_unless_there_is_a_rank():
    with torch.device("meta"):
        sizes = [sum(p.numel() for p in layer.parameters()) for layer in
                 (Bilinear(128, 128, 64, bias=False), Bilinear(128, 128, 64, bias=False, rank=100), Bilinear(1024, 1024, 1024, bias=False))]
    assert sizes == [1_048_576, 100 * (128 + 128 + 64), 1024**3]
    assert Bilinear(2, 2, 3).bias.tolist() == [0, 0, 0] and Bilinear(2, 2, 3, bias=False).bias is None


def test_starts_with_outputs_of_the_size_of_one():
    layer, (x1, x2) = Bilinear(40, 60, 50, bias=False).double(), inputs(40, 60, (2000,))
    assert layer.weight.abs().max() <= 2400**-0.5 and layer.weight.min() < -0.99 * 2400**-0.5
    assert layer(x1, x2).square().mean().item() == pytest.approx(1 / 3, rel=0.05)


def test_no_additive_layer_can_say_same_direction():
    angles = np.arange(0, 360, 15)
    a1, a2 = np.meshgrid(angles, angles, indexing="ij")
    y = numpy_bilinear(unit(a1), unit(a2), np.eye(2)[None])[..., 0]
    np.testing.assert_allclose(y, np.cos(np.deg2rad(a1 - a2)), atol=1e-12)
    design = np.hstack([unit(a1.ravel()), unit(a2.ravel())])
    best = np.linalg.lstsq(design, y.ravel(), rcond=None)[0]
    np.testing.assert_allclose(additive(unit(a1), unit(a2), best[:2], best[2:]), 0, atol=1e-12)  # the best one is zero


def test_numpy_variant_agrees(agree):
    x1, x2 = inputs()
    full, low = Bilinear(4, 3, 5).double(), Bilinear(4, 3, 5, bias=False, rank=2).double()
    full.bias.data.normal_()
    agree(numpy_bilinear(x1.numpy(), x2.numpy(), full.weight.detach().numpy(), full.bias.detach().numpy()), full(x1, x2))
    agree(low_rank(x1.numpy(), x2.numpy(), *(p.detach().numpy() for p in low.parameters())), low(x1, x2))


def test_bad_settings_and_shapes_say_which_and_why():
    for sizes, message in [((0, 3, 2), "in1_features=0"), ((4, 0, 2), "in2_features=0"), ((4, 3, 0), "out_features=0")]:
        with pytest.raises(ValueError, match=f"{message} is below 1"):
            Bilinear(*sizes)
    with pytest.raises(ValueError, match="rank=0 is below 1"):
        Bilinear(4, 3, 2, rank=0)
    layer = Bilinear(4, 3, 2)
    with pytest.raises(ValueError, match=r"x1 has shape \(2, 5\); expected \(\.\.\., in1_features=4\)"):
        layer(torch.zeros(2, 5), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"x2 has shape \(2, 5\); expected \(\.\.\., in2_features=3\)"):
        layer(torch.zeros(2, 4), torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"x1 has rows \(2,\) and x2 \(1,\); expected the same"):
        layer(torch.zeros(2, 4), torch.zeros(1, 3))
