import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.attention import performer as numpy_variant
from vocab.attention.multi_head import merge_heads, split_heads
from vocab.attention.performer import PerformerAttention, random_directions, softmax_features

D = torch.float64


def example():
    return PerformerAttention(8, 2, n_features=6, causal=True).double(), (torch.randn(2, 7, 8, dtype=D),)


@pytest.mark.oracle("statistics: the mean over 20,000 draws is exp(q.k), within 4 standard errors")
@pytest.mark.parametrize("orthogonal", [False, True])
def test_products_of_features_are_unbiased(orthogonal):
    q, k = torch.randn(2, 4, dtype=D) * 0.7
    draws = torch.stack([random_directions(4, 4, orthogonal=orthogonal).double() for _ in range(20_000)])
    products = torch.stack([softmax_features(q[None], omega)[0] @ softmax_features(k[None], omega)[0] for omega in draws[:4000]])
    error = products.std() / len(products) ** 0.5
    assert abs(products.mean() - (q @ k).exp()) < 4 * error
    assert abs(draws.mean()) < 4 / draws.numel() ** 0.5 and abs(draws.var() - 1) < 0.02


def test_features_are_positive_and_as_defined():
    x, omega = torch.randn(3, 5, 4, dtype=D), torch.randn(6, 4, dtype=D)
    phi = softmax_features(x, omega)
    assert (phi > 0).all()
    expected = torch.tensor([[[math.exp(float(w @ y) - float(y @ y) / 2) / math.sqrt(6) for w in omega] for y in row] for row in x], dtype=D)
    torch.testing.assert_close(phi, expected)


def squared_errors(m, tries=400):
    q, k = torch.tensor([[0.5, -0.3, 0.4, 0.2], [0.6, 0.1, -0.2, 0.5]], dtype=D)
    found = []
    for _ in range(tries):
        omega = random_directions(m, 4, orthogonal=False).double()
        found.append((softmax_features(q[None], omega)[0] @ softmax_features(k[None], omega)[0] - (q @ k).exp()) ** 2)
    return torch.stack(found).mean().item()


@pytest.mark.oracle("statistics: the error falls like 1/√m")
def test_the_error_falls_with_the_root_of_the_number_of_features():
    sizes = [8, 32, 128, 512]
    slope = np.polyfit(np.log(sizes), [0.5 * math.log(squared_errors(m)) for m in sizes], 1)[0]
    assert -0.6 < slope < -0.4


@pytest.mark.oracle("statistics: lower mean squared error than independent directions, over 60,000 draws")
def test_orthogonal_directions_are_better():
    q = torch.tensor([0.125**0.5, 0, 0, 0], dtype=D)  # k = q; theorem 2 of the paper promises about 7 % less here
    errors = []
    for orthogonal in (True, False):
        omega = random_directions(4 * 60_000, 4, orthogonal=orthogonal).double().view(60_000, 4, 4)
        products = (2 * omega @ q - q @ q).exp().mean(1)
        errors.append((products - (q @ q).exp()).square().mean())
    assert errors[0] < 0.98 * errors[1]
    omega = random_directions(10, 4).double()
    for group in omega.split(4):
        directions = F.normalize(group, dim=1)
        torch.testing.assert_close(directions @ directions.T, torch.eye(len(group), dtype=D), rtol=0, atol=1e-6)


@pytest.mark.oracle("torch.nn.functional.scaled_dot_product_attention, in the limit of many features")
@pytest.mark.parametrize("causal", [False, True])
def test_converges_to_softmax_attention(causal):
    module, x = PerformerAttention(8, 2, n_features=100_000, causal=causal).double(), 0.5 * torch.randn(2, 7, 8, dtype=D)
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    exact = module.o_proj(merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=causal)))
    torch.testing.assert_close(module(x), exact, rtol=0, atol=0.01)


@pytest.mark.oracle("explicit weights from the features, causal ones by a mask")
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_weights_of_the_features_written_out(causal):
    module, (x,) = PerformerAttention(8, 2, n_features=6, causal=causal).double(), example()[1]
    q, k, v = (split_heads(p(x), 4) for p in (module.q_proj, module.k_proj, module.v_proj))
    weights = softmax_features(q / 2**0.5, module.omega) @ softmax_features(k / 2**0.5, module.omega).mT
    if causal:
        weights = weights.tril()
    out = module.o_proj(merge_heads(weights / weights.sum(-1, keepdim=True) @ v))
    torch.testing.assert_close(module(x), out, rtol=1e-6, atol=1e-7)


def test_it_is_not_the_kernel_of_the_linear_transformer():
    """A widely copied note cites this paper for elu(x) + 1; its features are random exponentials."""
    q, k = torch.randn(2, 4, dtype=D)
    omega = random_directions(50_000, 4).double()
    ours = softmax_features(q[None], omega)[0] @ softmax_features(k[None], omega)[0]
    assert abs(ours / (q @ k).exp() - 1) < 0.2
    assert abs((F.elu(q) + 1) @ (F.elu(k) + 1) / (q @ k).exp() - 1) > 0.5


def test_large_logits_do_not_overflow():
    module, x = PerformerAttention(8, 2, n_features=16), 60 * torch.randn(1, 5, 8)
    assert softmax_features(split_heads(module.q_proj(x), 4), 30 * module.omega).isinf().any()
    ours = module(x)
    torch.testing.assert_close(ours, module.double()(x.double()).float(), rtol=1e-3, atol=1e-3)
    assert ours.std(1).max() > 0.1, "underflow to nothing would give the same output for all tokens"


def test_the_variance_explodes_with_the_norms():
    """exp(|q + k|²): for long vectors m features say nothing."""
    q = torch.ones(4, dtype=D)
    errors = []
    for size in (0.3, 1.2):
        products = torch.stack([softmax_features(size * q[None], w)[0].square().sum() for w in torch.randn(300, 16, 4, dtype=D)])
        errors.append((products / math.exp(4 * size**2) - 1).square().mean().sqrt())
    assert errors[1] > 5 * errors[0]


def test_directions_are_drawn_again_in_training_only():
    module, (x,) = PerformerAttention(8, 2, redraw_interval=2).double(), example()[1]
    seen = [module.omega.clone()]
    for _ in range(4):
        module(x)
        seen.append(module.omega.clone())
    assert [not torch.equal(a, b) for a, b in zip(seen, seen[1:])] == [False, True, False, True]
    module.eval()(x), module(x)
    assert torch.equal(module.omega, seen[-1])
    fixed = PerformerAttention(8, 2).double()
    before = fixed.omega.clone()
    fixed(x)
    assert torch.equal(fixed.omega, before) and "omega" in fixed.state_dict()
    assert fixed.redraw_interval is None and not fixed.causal and fixed.orthogonal


def test_settings():
    assert PerformerAttention(8, 2).omega.shape == (math.ceil(4 * math.log(4)), 4)
    assert PerformerAttention(8, 8).omega.shape == (1, 1)
    assert PerformerAttention(8, 2, bias=False).q_proj.bias is None
    assert PerformerAttention(8, 2, redraw_interval=1).redraw_interval == 1
    for given, message in [(dict(n_features=0), "n_features=0 is not positive"), (dict(redraw_interval=0), "redraw_interval=0 is not positive")]:
        with pytest.raises(ValueError, match=message):
            PerformerAttention(8, 2, **given)
    with pytest.raises(ValueError, match=r"x has shape .* d_model=8"):
        example()[0](torch.zeros(2, 7, 7, dtype=D))
    with pytest.raises(ValueError, match=r"omega has shape \(6, 3\); expected \(features, width=4\)"):
        softmax_features(torch.zeros(2, 4), torch.zeros(6, 3))
    with pytest.raises(ValueError, match="x has shape"):
        softmax_features(torch.tensor(1.0), torch.zeros(6, 3))


def test_numpy_variant_agrees(agree):
    module, x = PerformerAttention(8, 1, n_features=6, bias=False).double(), torch.randn(1, 5, 8, dtype=D)
    q, k, v = (p(x)[0].detach().numpy() for p in (module.q_proj, module.k_proj, module.v_proj))
    module.o_proj = torch.nn.Identity()
    agree(numpy_variant.performer_attention(q, k, v, module.omega.numpy()), module(x)[0])
    agree(numpy_variant.positive_features(q, module.omega.numpy()), softmax_features(torch.tensor(q), module.omega))


@pytest.mark.oracle("statistics: trigonometric features are unbiased too")
def test_numpy_features_are_unbiased():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 4)) * 0.5
    omega = rng.normal(size=(200_000, 4))
    for features in (numpy_variant.positive_features, numpy_variant.trigonometric_features):
        assert (features(q, omega) @ features(k, omega).T).item() == pytest.approx(math.exp((q @ k.T).item()), rel=0.03)
    orthogonal = numpy_variant.directions(8, 8, True, rng)
    unit = orthogonal / np.linalg.norm(orthogonal, axis=1, keepdims=True)
    np.testing.assert_allclose(unit @ unit.T, np.eye(8), atol=1e-12)
