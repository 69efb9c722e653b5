import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.pooling import compared
from snippets.pooling import generalized_mean as numpy_variant
from vocab.pooling.generalized_mean import GeMPool, lp_pool2d
from vocab.pooling.stochastic import StochasticPool2d

D = torch.float64


def example():
    return GeMPool(2.5, per_channel=3, eps=1e-3).double(), (torch.rand(2, 3, 3, 4, dtype=D) + 0.1,)


def gem(x, p, **named):
    module = GeMPool(p, **named).double()
    module.p.data.fill_(p)  # not rounded to float32
    return module(x)


@pytest.mark.oracle("torch.nn.functional.lp_pool2d over the whole map, by the number of pixels")
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, 7.5])
def test_equals_lp_pooling_of_the_whole_map_divided_by_the_root_of_its_size(p):
    x = torch.rand(2, 3, 4, 5, dtype=D, requires_grad=True)
    expected = F.lp_pool2d(x, p, (4, 5))[..., 0, 0] / 20 ** (1 / p)
    torch.testing.assert_close(gem(x, p), expected)
    grad = torch.randn(2, 3, dtype=D)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad)[0] for y in (gem(x, p), expected)))


@pytest.mark.oracle("average and maximum as limits")
def test_one_is_the_average_and_a_hundred_is_nearly_the_maximum():
    x = torch.rand(2, 3, 4, 5, dtype=D)
    torch.testing.assert_close(gem(x, 1.0), x.mean((2, 3)))
    torch.testing.assert_close(gem(x, 100.0), x.amax((2, 3)), rtol=0.05, atol=0)
    torch.testing.assert_close(gem(x, 1e5), x.amax((2, 3)), rtol=1e-4, atol=0)


@pytest.mark.oracle("scipy.stats.pmean")
@pytest.mark.parametrize("p", [0.5, 3.0])
def test_equals_the_power_mean_of_scipy(p):
    stats = pytest.importorskip("scipy.stats")
    x = torch.rand(2, 3, 4, 5, dtype=D) + 0.1
    np.testing.assert_allclose(gem(x, p).detach(), stats.pmean(x.flatten(2).numpy(), p, axis=-1))


@pytest.mark.oracle("the power-mean inequality")
def test_it_never_falls_as_p_grows():
    x = torch.rand(20, 3, 4, 5, dtype=D)
    values = torch.stack([gem(x, p) for p in (0.5, 1.0, 2.0, 3.0, 10.0, 50.0)])
    assert (values.diff(dim=0) > 0).all()


@pytest.mark.oracle("homogeneity")
def test_a_factor_comes_out_as_a_factor():
    x = torch.rand(2, 3, 4, 5, dtype=D) + 0.1
    torch.testing.assert_close(gem(7 * x, 3.0), 7 * gem(x, 3.0))


@pytest.mark.oracle("finite differences and the closed form")
def test_gradients_of_p_and_of_x():
    x = (torch.rand(1, 1, 4, 4, dtype=D) + 0.1).requires_grad_()
    module = GeMPool(3.0).double()
    y = module(x)
    y.backward()
    torch.testing.assert_close(module.p.grad, (gem(x, 3.0 + 1e-5) - gem(x, 3.0 - 1e-5)).detach()[0] / 2e-5, rtol=1e-6, atol=1e-9)
    assert module.p.grad.item() > 0
    torch.testing.assert_close(x.grad, (x / y.item()).detach() ** 2 / 16)


def test_each_channel_may_have_its_own_exponent():
    module, x = GeMPool(3.0, per_channel=3).double(), torch.rand(2, 3, 4, 5, dtype=D)
    torch.testing.assert_close(module(x), gem(x, 3.0))
    module.p.data = torch.tensor([1.0, 2.0, 9.0], dtype=D)
    torch.testing.assert_close(module(x), torch.cat([gem(x[:, c : c + 1], module.p[c].item()) for c in range(3)], 1))
    with pytest.raises(ValueError, match=r"x has shape \(2, 2, 4, 5\); expected \(batch, channels=3, height, width\)"):
        module(x[:, :2])


def test_learned_or_fixed():
    assert [n for n, _ in GeMPool().named_parameters()] == ["p"] and GeMPool().p.item() == 3.0
    fixed = GeMPool(learnable=False)
    assert not list(fixed.parameters()) and "p" in fixed.state_dict()


def test_zeros_and_negative_numbers_count_as_eps_and_give_no_nan():
    x = torch.tensor([-5.0, 0.0, 0.0, 4.0], dtype=D).view(1, 1, 2, 2).requires_grad_()
    y = gem(x, 3.0)
    assert y.item() == pytest.approx((4**3 / 4) ** (1 / 3), rel=1e-9)
    y.backward()
    assert x.grad.isfinite().all() and x.grad.flatten()[:3].tolist() == [0, 0, 0]
    zeros = torch.zeros(4, requires_grad=True)
    assert torch.autograd.grad(zeros.pow(3).mean().pow(1 / 3), zeros)[0].isnan().all(), "the formula as written"
    assert gem(torch.zeros(1, 1, 2, 2, dtype=D), 3.0).item() == pytest.approx(1e-6)
    assert gem(x.detach(), 3.0, eps=1.0).item() == pytest.approx(((4**3 + 3) / 4) ** (1 / 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_large_exponents_do_not_overflow(dtype):
    x = torch.tensor([300.0, 300.0, 100.0, 1.0], dtype=dtype).view(1, 1, 2, 2)
    assert x.pow(50).isinf().any(), "the formula as written"
    y = GeMPool(50.0)(x)
    assert y.dtype == dtype and y.item() == pytest.approx(300 * 0.5 ** (1 / 50), rel=1e-3)


@pytest.mark.oracle("torch.nn.functional.lp_pool2d")
@pytest.mark.parametrize(("k", "s"), [(2, None), (3, 2), (2, 1)])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5])
def test_lp_pooling_of_windows_equals_torch_on_positive_numbers(p, k, s):
    x = torch.rand(2, 3, 7, 8, dtype=D)
    torch.testing.assert_close(lp_pool2d(x, p, k, s), F.lp_pool2d(x, p, k, s))
    torch.testing.assert_close(lp_pool2d(-x, p, k, s), lp_pool2d(x, p, k, s))


def test_lp_pooling_sums_and_does_not_average_and_is_quiet_at_zero():
    assert lp_pool2d(torch.ones(1, 1, 2, 2), 2, 2).item() == 2.0
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    lp_pool2d(x, 2, 2).sum().backward()
    assert x.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(p=0.0), "p=0.0 is not positive"),
        (dict(p=float("nan")), "p=nan is not positive"),
        (dict(eps=0.0), "eps=0.0 is not positive"),
        (dict(per_channel=0), "per_channel=0 is no number of channels"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeMPool(**arguments)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\)"):
        GeMPool()(torch.zeros(3, 8, 8))
    for shape in [(1, 1, 0, 2), (1, 1, 2, 0)]:
        with pytest.raises(ValueError, match="there is no pixel to pool"):
            GeMPool()(torch.zeros(shape))
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ValueError, match="norm_type=0.5 is below 1"):
        lp_pool2d(x, 0.5, 2)
    with pytest.raises(ValueError, match="stride=0 is below 1"):
        lp_pool2d(x, 2, 2, 0)
    with pytest.raises(TypeError, match="x is a list"):
        lp_pool2d([1.0], 2, 2)
    assert repr(GeMPool()) == "GeMPool(p=3, eps=1e-06)"
    assert GeMPool(per_channel=1)(x + 1).item() == pytest.approx(1.0)


@pytest.mark.parametrize("p", [1.0, 3.0, 40.0])
def test_numpy_variant_agrees_with_gradient(agree, p):
    x = (torch.rand(1, 1, 4, 4, dtype=D) + 0.1).requires_grad_()
    module = GeMPool(p).double()
    y = module(x)
    agree(numpy_variant.gem(x.detach().flatten().numpy(), p), y[0, 0])
    agree(numpy_variant.gradient(x.detach().flatten().numpy(), p), torch.autograd.grad(y, x)[0].flatten())


def test_demo_climbs_from_the_mean_to_the_maximum():
    curve = [y for _, y in numpy_variant.show()[1]["series"]["pooled"]]
    assert np.all(np.diff(curve) > 0)
    assert len(numpy_variant.show(show_gradient=False)) == len(numpy_variant.show()) - 1


@pytest.mark.oracle("autograd")
@pytest.mark.parametrize("k", [2, 4])
def test_the_family_figure_shows_the_derivatives_that_autograd_finds(k):
    x = (torch.rand(1, 1, 8, 8, dtype=D) + 0.1).requires_grad_()
    theirs = {
        "max": lambda: F.max_pool2d(x, k),
        "average": lambda: F.avg_pool2d(x, k),
        "GeM p=3": lambda: F.lp_pool2d(x, 3.0, k) / k ** (2 / 3),
        "stochastic": lambda: StochasticPool2d(k).eval()(x),
    }
    for name, f in compared.poolings(k, 3.0).items():
        found = compared.influence(f, x.detach()[0, 0].numpy())
        np.testing.assert_allclose(found, torch.autograd.grad(theirs[name]().sum(), x)[0][0, 0], atol=1e-7)
