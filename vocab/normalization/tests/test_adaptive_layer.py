import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.normalization import adaptive_layer as numpy_variant
from vocab.normalization.adaptive_layer import AdaLayerNorm, film

D = torch.float64


def example():
    return AdaLayerNorm(6, 4, zero_init=False, eps=0.01).double(), (torch.randn(2, 3, 6, dtype=D), torch.randn(2, 4, dtype=D))


def parts(module, cond):
    """Shift, scale and gate, by the definition."""
    return (torch.sigmoid(cond) * cond @ module.modulation.weight.T + module.modulation.bias).split(module.d_model, 1)


@pytest.mark.oracle("torch.nn.functional.layer_norm without affine, times 1 + scale, plus shift")
def test_equals_layer_norm_with_gain_and_shift_from_the_condition():
    module, (x, cond) = example()
    shift, scale, gate = parts(module, cond)
    y, found = module(x, cond)
    torch.testing.assert_close(y, F.layer_norm(x, (6,), eps=0.01) * (1 + scale[:, None]) + shift[:, None])
    torch.testing.assert_close(found, gate[:, None])


@pytest.mark.oracle("torch.nn.functional.layer_norm with a constant gain and shift")
def test_a_constant_condition_is_an_ordinary_layer_norm():
    module, (x, cond) = example()
    cond = cond[:1].expand(2, 4)
    shift, scale, _ = parts(module, cond)
    torch.testing.assert_close(module(x, cond)[0], F.layer_norm(x, (6,), 1 + scale[0], shift[0], 0.01))


@pytest.mark.oracle("the identity")
def test_a_fresh_gated_block_is_exactly_the_identity_for_every_condition():
    module, f = AdaLayerNorm(6, 4).double(), nn.Linear(6, 6).double()
    x = torch.randn(3, 5, 6, dtype=D)
    for size in (0.0, 1.0, 1e6):
        y, gate = module(x, size * torch.randn(3, 4, dtype=D))
        assert torch.equal(x + gate * f(y), x)
        torch.testing.assert_close(y, F.layer_norm(x, (6,), eps=1e-6))


def test_the_gate_learns_first_and_only_then_the_block():
    module, f = AdaLayerNorm(6, 4).double(), nn.Linear(6, 6).double()
    x, cond = torch.randn(2, 5, 6, dtype=D), torch.randn(2, 4, dtype=D)
    y, gate = module(x, cond)
    (x + gate * f(y)).square().sum().backward()
    rows = module.modulation.weight.grad.view(3, 6, 4).abs().sum((1, 2))
    assert rows[0] == rows[1] == 0.0 and rows[2] > 0, "shift, scale, gate"
    assert f.weight.grad.abs().sum() == 0


@pytest.mark.oracle("the sum over tokens")
def test_gradient_of_the_condition_is_the_sum_of_those_of_its_tokens():
    module, (x, cond) = example()
    upstream, parts_ = torch.randn(2, 3, 6, dtype=D), []
    for t in range(3):
        c = cond.clone().requires_grad_()
        module(x[:, t : t + 1], c)[0].backward(upstream[:, t : t + 1])
        parts_.append(c.grad)
    c = cond.clone().requires_grad_()
    module(x, c)[0].backward(upstream)
    torch.testing.assert_close(c.grad, sum(parts_))


def test_scale_instead_of_one_plus_scale_would_start_with_silence():
    x = torch.randn(2, 5, 6, dtype=D)
    y, _ = AdaLayerNorm(6, 4).double()(x, torch.randn(2, 4, dtype=D))
    assert y.std() > 0.9
    assert film(F.layer_norm(x, (6,)), torch.zeros(2, 6, dtype=D), torch.zeros(2, 6, dtype=D), dim=-1).abs().max() == 0


def test_without_a_gate_there_are_two_vectors_and_one_result():
    module = AdaLayerNorm(6, 4, zero_init=False, gate=False).double()
    x, cond = torch.randn(2, 3, 6, dtype=D), torch.randn(2, 4, dtype=D)
    shift, scale = parts(module, cond)
    torch.testing.assert_close(module(x, cond), F.layer_norm(x, (6,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None])
    assert sum(p.numel() for p in module.parameters()) == 2 * 6 * (4 + 1)
    assert sum(p.numel() for p in AdaLayerNorm(6, 4).parameters()) == 3 * 6 * (4 + 1)


@pytest.mark.oracle("closed form 6 D² of 18 D²: a third of a DiT block")
def test_in_a_dit_block_the_projections_of_the_condition_are_a_third_of_the_parameters():
    D = 96
    block = nn.ModuleList([nn.Linear(D, 3 * D), nn.Linear(D, D), nn.Linear(D, 4 * D), nn.Linear(4 * D, D)])
    norms = nn.ModuleList([AdaLayerNorm(D, D), AdaLayerNorm(D, D)])
    count = lambda m: sum(p.numel() for p in m.parameters())  # noqa: E731
    assert count(norms) / (count(norms) + count(block)) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.oracle("the formula, one number at a time")
@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 4, 5), 1), ((2, 4, 3), -1), ((2, 4, 3), 2), ((2, 3), 1), ((2, 3), -1)])
def test_film_has_one_gain_and_shift_per_example_and_feature(shape, dim):
    x, gamma, beta = torch.randn(shape, dtype=D), torch.randn(2, 3, dtype=D), torch.randn(2, 3, dtype=D)
    y = film(x, gamma, beta, dim=dim).movedim(dim, 1)
    for i in range(2):
        for c in range(3):
            torch.testing.assert_close(y[i, c], gamma[i, c] * x.movedim(dim, 1)[i, c] + beta[i, c])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d_model=0, d_cond=1), "d_model=0 is below 1"),
        (dict(d_model=1, d_cond=0), "d_cond=0 is below 1"),
        (dict(d_model=1, d_cond=1, eps=-0.1), "eps=-0.1 is negative"),
        (dict(d_model=1, d_cond=1, eps=float("nan")), "eps=nan"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaLayerNorm(**arguments)


def test_wrong_inputs_are_named():
    module, (x, cond) = example()
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 5\); expected \(batch, time, d_model=6\)"):
        module(x[..., :5], cond)
    with pytest.raises(ValueError, match=r"cond has shape \(1, 4\); expected \(batch=2, d_cond=4\)"):
        module(x, cond[:1])
    with pytest.raises(ValueError, match=r"cond has shape \(2, 3\); expected \(batch=2, d_cond=4\)"):
        module(x, cond[:, :3])
    ok = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"gamma has shape \(2, 4\); expected \(batch=2, features=3\)"):
        film(torch.zeros(2, 3, 5), torch.zeros(2, 4), ok)
    with pytest.raises(ValueError, match=r"beta has shape \(1, 3\); expected \(batch=2, features=3\)"):
        film(torch.zeros(2, 3, 5), ok, ok[:1])
    for dim in (0, -3, 3, -4):
        with pytest.raises(ValueError, match=f"dim={dim} is no feature dimension of x with shape"):
            film(torch.zeros(2, 3, 5), ok, ok, dim=dim)
    with pytest.raises(TypeError, match="x is a list"):
        film([1.0], ok, ok)
    film(torch.zeros(2, 3, 5), ok, ok, dim=-2)


def test_smallest_arguments_are_allowed():
    y, gate = AdaLayerNorm(1, 1, eps=0.5)(torch.tensor([[[3.0]]]), torch.ones(1, 1))
    assert y.item() == 0.0 and gate.item() == 0.0
    assert AdaLayerNorm(2, 1, eps=0.0)(torch.tensor([[[1.0, 3.0]]]), torch.ones(1, 1))[0].flatten().tolist() == [-1.0, 1.0]


def test_numpy_variant_agrees(agree):
    module, (x, cond) = example()
    W, b = module.modulation.weight.detach().numpy().T, module.modulation.bias.detach().numpy()
    y, gate = module(x, cond)
    for i in range(2):
        ours = numpy_variant.ada_layer_norm(x[i].numpy(), cond[i].numpy(), W, b, 0.01)
        agree(ours[0], y[i])
        agree(ours[1], gate[i, 0])


def test_demo_draws_the_family_and_one_curve_without_modulation():
    assert float(numpy_variant.show(condition=0.5)[-1]["caption"].split("curve by ")[1].split(" ")[0]) < 0.1
    assert "moves by up to 0.00" in numpy_variant.show(scale=0.0, shift=0.0)[-1]["caption"]
    closed = np.array(numpy_variant.show(gate=0.0)[0]["series"]["output at c"])
    np.testing.assert_allclose(closed[:, 1], np.sin(closed[:, 0]), atol=1e-12)
