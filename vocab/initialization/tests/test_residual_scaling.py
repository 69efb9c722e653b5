import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.initialization import residual_scaling as numpy_variant
from vocab.blocks.residual import Residual, ResidualBlock
from vocab.initialization.residual_scaling import LayerScale, ReZero, deepnorm_constants, scale_residual_

D = torch.float64


class Behind(nn.Module):
    """A linear branch and its factors, in a block."""

    def __init__(self):
        super().__init__()
        self.block = Residual(nn.Sequential(nn.Linear(3, 3), LayerScale(3, init=0.5)))

    def forward(self, x):
        return self.block(x)


def example():
    """For the contract suite: a residual block with LayerScale, and its input."""
    return Behind().double(), (torch.randn(2, 3, dtype=D),)


def stack(depth, width, matrices=2, seed=0, bias=False, std=1.0):
    """Residual blocks whose branches return the size of what they get, times std."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for _ in range(depth):
        parts = []
        for i in range(matrices):
            layer = nn.Linear(width, width, bias=bias, dtype=D)
            nn.init.normal_(layer.weight, 0, (1.0 if i == 0 else 2.0**0.5) * (std if i == matrices - 1 else 1) / width**0.5, generator=generator)
            parts += [layer, nn.ReLU()]
        blocks.append(Residual(nn.Sequential(*parts[:-1])))
    return nn.Sequential(*blocks)


def mean_square(model, width, n=30):
    x = torch.randn(n, width, dtype=D)
    return (model(x).square().mean() / x.square().mean()).item()


@pytest.mark.oracle("closed form (1 + s²)^L")
@pytest.mark.parametrize("s", [0.3, 1.0])
def test_a_stack_without_norm_multiplies_by_one_plus_s_squared_per_branch(s):
    assert mean_square(stack(12, 500, std=s), 500) == pytest.approx((1 + s * s) ** 12, rel=0.3)


@pytest.mark.oracle("limit e of (1 + 1/L)^L")
def test_gpt2s_factor_makes_it_e():
    model = scale_residual_(stack(60, 300), "gpt2")
    assert mean_square(model, 300) == pytest.approx(math.e, rel=0.1)
    fresh, depth9 = stack(4, 20), scale_residual_(stack(4, 20), "gpt2", depth=9)
    for old, new in zip(fresh, depth9):
        torch.testing.assert_close(new.branch[2].weight, old.branch[2].weight / 3)
        torch.testing.assert_close(new.branch[0].weight, old.branch[0].weight)


@pytest.mark.parametrize("rule", ["zero", "fixup"])
def test_a_net_with_branches_at_zero_is_the_identity_exactly(rule):
    model, x = scale_residual_(stack(7, 10, matrices=3, bias=True), rule), torch.randn(4, 10, dtype=D)
    assert torch.equal(model(x), x)


def test_fixup_scales_what_stands_before_the_last_matrix():
    old, new = stack(16, 5, matrices=3, bias=True), scale_residual_(stack(16, 5, matrices=3, bias=True), "fixup")
    for i in (0, 2):
        torch.testing.assert_close(new[3].branch[i].weight, old[3].branch[i].weight / 2)  # 16^(-1/4)
        assert new[3].branch[i].bias.count_nonzero() == 0
    assert new[3].branch[4].weight.count_nonzero() == new[3].branch[4].bias.count_nonzero() == 0


def change_of_one_step(rule, depth, width=24, rate=1e-3):
    torch.manual_seed(5)
    model = scale_residual_(stack(depth, width, seed=depth), rule)
    x, target = torch.randn(2, 40, width, dtype=D)
    y = model(x)
    (y * target).mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            p -= rate * p.grad
    return (model(x) - y).square().mean().sqrt().item() / rate


def slope(rule):
    depths = [4, 8, 16, 32, 64]
    return np.polyfit(np.log(depths), np.log([change_of_one_step(rule, L) for L in depths]), 1)[0]


@pytest.mark.oracle("slope of log change against log depth")
def test_one_step_under_fixup_changes_the_function_alike_at_every_depth():
    assert abs(slope("fixup")) < 0.1
    assert slope("zero") == pytest.approx(1, abs=0.15)
    assert slope("gpt2") > 0.7


@pytest.mark.oracle("formulas of the paper: (2N)^(1/4), (8N)^(-1/4)")
@pytest.mark.parametrize(("n", "alpha", "beta"), [(8, 2.0, 0.35355339), (500, 5.62341325, 0.12574334), (0.5, 1.0, 0.70710678)])
def test_deepnorm_constants(n, alpha, beta):
    assert deepnorm_constants(n) == pytest.approx((alpha, beta), rel=1e-7)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        return self.out(self.v_proj(x)) + 0 * self.q_proj(x) * self.k_proj(x)


def test_deepnorm_scales_matrices_and_the_way_around_but_not_queries_and_keys():
    block = Residual(Attention())
    old = {name: p.detach().clone() for name, p in block.branch.named_parameters()}
    scale_residual_(block, "deepnorm", depth=16)
    for name, p in block.branch.named_parameters():
        factor = 8**-0.5 if name in ("v_proj.weight", "out.weight") else 1.0
        torch.testing.assert_close(p, old[name] * factor)
    x = torch.randn(3, 4)
    torch.testing.assert_close(block(x), 2 * x + block.branch(x))
    around = scale_residual_(Residual(nn.Linear(4, 4), nn.Linear(4, 4)), "deepnorm", depth=16)
    torch.testing.assert_close(around(x), around.branch(x) + 2 * around.shortcut[0](x))


def test_deepnorm_without_its_norm_explodes():
    assert mean_square(scale_residual_(stack(32, 40), "deepnorm"), 40) > 1e10


@pytest.mark.parametrize(("depth", "init"), [(36, 0.1), (37, 1e-5), (48, 1e-5), (49, 1e-6)])
def test_layerscale_starts_where_cait_does(depth, init):
    model = scale_residual_(stack(2, 6), "layerscale", depth=depth)
    x = torch.randn(3, 6, dtype=D)
    scale = model[0].branch[1]
    assert scale.gamma.shape == (6,) and scale.gamma.dtype == D and scale.gamma.requires_grad
    torch.testing.assert_close(scale.gamma, torch.full((6,), init, dtype=D))
    torch.testing.assert_close(model[0](x), x + init * model[0].branch[0](x))
    assert (LayerScale(3).gamma == 1e-5).all()


def test_the_zero_scale_is_that_of_the_norm_if_the_branch_ends_with_one():
    block = ResidualBlock(4, zero_init=False)
    kept = block.sum.branch[3].weight.detach().clone()
    scale_residual_(block, "zero")
    assert block.sum.branch[4].weight.count_nonzero() == 0 and torch.equal(block.sum.branch[3].weight, kept)
    assert torch.equal(block.sum.branch[4].weight, ResidualBlock(4, zero_init=True).sum.branch[4].weight)


def test_rezero_starts_as_identity_and_only_its_factor_learns_at_first():
    block, x = ReZero(nn.Linear(5, 5)).double(), torch.randn(3, 5, dtype=D)
    assert torch.equal(block(x), x) and block.alpha.shape == ()
    block(x).square().sum().backward()
    assert block.branch.weight.grad.count_nonzero() == 0 and block.alpha.grad != 0
    with torch.no_grad():
        block.alpha -= 0.5
    torch.testing.assert_close(block(x), x - 0.5 * block.branch(x))


def test_two_zero_factors_never_move():
    x = torch.randn(4, 3)
    for zeros, moves in ((1, True), (2, False)):
        block = ReZero(nn.Linear(3, 3, bias=False))
        if zeros == 2:
            nn.init.zeros_(block.branch.weight)
        for _ in range(5):
            optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
            optimizer.zero_grad()
            (block(x) - 1).square().mean().backward()
            optimizer.step()
        assert (block.alpha != 0).item() is moves


def test_weight_decay_pulls_rezeros_factor_back_so_it_needs_a_group_without():
    found = []
    for decay in (0.0, 0.5):
        torch.manual_seed(0)
        block, x = ReZero(nn.Linear(3, 3)), torch.randn(40, 3)
        optimizer = torch.optim.AdamW([{"params": [block.alpha], "weight_decay": decay}, {"params": block.branch.parameters(), "weight_decay": 0}], lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            (block(x) - 3 * x).square().mean().backward()
            optimizer.step()
        found.append(block.alpha.abs().item())
    assert found[1] < 0.9 * found[0]


def test_each_rule_has_its_number():
    """Erratum: "shrink the residual branch" without a rule or a number; these are five."""
    depth, x, shares = 64, torch.randn(200, 30, dtype=D), {}
    for rule in ("gpt2", "zero", "fixup", "layerscale", "deepnorm"):
        block = scale_residual_(stack(1, 30), rule, depth=depth)[0]
        around = x if block.shortcut is None else block.shortcut(x)
        shares[rule] = (block.branch(x).square().mean() / around.square().mean()).item() ** 0.5
    plain = mean_square(nn.Sequential(stack(1, 30)[0].branch), 30) ** 0.5
    beta = (4 * depth) ** -0.25
    expected = {"gpt2": plain / 8, "zero": 0, "fixup": 0, "layerscale": 1e-6 * plain, "deepnorm": plain * beta**2 / depth**0.25}
    assert shares == pytest.approx(expected, rel=0.15)


def test_bad_values_are_named():
    for call, message in [
        (lambda: scale_residual_(stack(1, 2), "half"), "rule='half' is not one of gpt2, zero, fixup, layerscale, deepnorm"),
        (lambda: scale_residual_(nn.Linear(2, 2), "zero"), "model has no Residual block"),
        (lambda: scale_residual_(stack(1, 2), "gpt2", depth=0), "depth=0 is below 1"),
        (lambda: scale_residual_(Residual(nn.ReLU()), "gpt2"), "a branch has no matrix to scale"),
        (lambda: scale_residual_(Residual(nn.ReLU()), "zero"), "a branch has no scale to set to zero"),
        (lambda: scale_residual_(Residual(nn.Conv2d(2, 2, 1)), "layerscale"), "layerscale needs channels last"),
        (lambda: deepnorm_constants(0), "n_layers=0 is not above 0"),
        (lambda: LayerScale(0), "dim=0 is below 1"),
        (lambda: LayerScale(3)(torch.ones(2, 4)), r"x has shape \(2, 4\); expected \(..., dim=3\)"),
        (lambda: ReZero(nn.Linear(3, 2))(torch.ones(1, 3)), r"the branch gives \(1, 2\), x is \(1, 3\); they must agree"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        ReZero(nn.ReLU())(torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(("ours", "theirs"), [("GPT-2", "gpt2"), ("Fixup", "fixup"), ("none", None)])
def test_numpy_variant_agrees(agree, ours, theirs):
    model, x, target = stack(6, 8), torch.randn(5, 8, dtype=D), torch.randn(5, 8, dtype=D)
    w1, w2 = (np.stack([b.branch[i].weight.detach().numpy() for b in model]) for i in (0, 2))
    one, two, *_ = numpy_variant.RULES[ours](6)
    net = (one * w1, two * w2, np.ones(6))
    stream, kept = numpy_variant.forward(x.numpy(), net, ours)
    d1, d2, _ = numpy_variant.gradients(target.numpy(), stream, kept, net, ours)
    if theirs:
        scale_residual_(model, theirs)
    y = model(x)
    (y * target).sum().backward()
    agree(stream[-1], y)
    agree(d1, torch.stack([b.branch[0].weight.grad for b in model]), atol=1e-12)
    agree(d2, torch.stack([b.branch[2].weight.grad for b in model]), atol=1e-12)


def test_numpy_deepnorm_and_rezero_have_the_right_gradients():
    rng = np.random.default_rng(0)
    x, g = rng.normal(size=(2, 4, 6))
    for rule in ("DeepNorm", "ReZero"):
        net = numpy_variant.start(6, 3, rule)
        net[2][:] = 0.3
        stream, kept = numpy_variant.forward(x, net, rule)
        found = numpy_variant.gradients(g, stream, kept, net, rule)
        for which in (0, 1) if rule == "DeepNorm" else (0, 1, 2):
            way = rng.normal(size=net[which].shape)
            value = lambda h: np.sum(g * numpy_variant.forward(x, [w + h * way if i == which else w for i, w in enumerate(net)], rule)[0][-1])  # noqa: E731
            assert np.sum(found[which] * way) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=1e-6)
