import math

import numpy as np
import pytest
import torch

from snippets.losses import wasserstein as numpy_wasserstein
from vocab.losses.wasserstein import sinkhorn, wasserstein_1d


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(N=5, M=7, seed=0):
    """Masses and the squared distances of points in the plane."""
    a, b = (normal(n, seed=seed + n).softmax(0) for n in (N, M))
    return a, b, torch.cdist(normal(N, 2, seed=seed + 20), normal(M, 2, seed=seed + 21)).square()


def example():
    """For the contract suite: a small instance and its inputs."""
    a, b, cost = problem(3, 4)
    return sinkhorn, (a, b, cost, 0.5, 10)


def cheapest(a, b, cost):
    """The transport problem as a linear program: the exact optimum."""
    optimize = pytest.importorskip("scipy.optimize")
    N, M = cost.shape
    sums = np.concatenate([np.kron(np.eye(N), np.ones(M)), np.kron(np.ones(N), np.eye(M))])
    return optimize.linprog(cost.numpy().ravel(), A_eq=sums, b_eq=np.concatenate([a, b]), method="highs").fun


# On a line


@pytest.mark.oracle("scipy.stats.wasserstein_distance")
@pytest.mark.parametrize(("N", "M"), [(1, 1), (1, 5), (6, 6), (6, 4), (4, 6), (7, 3), (8, 13)])
def test_on_a_line_it_is_scipys_for_samples_of_any_size(N, M):
    stats = pytest.importorskip("scipy.stats")
    x, y = normal(N), 2 * normal(M, seed=1) + 0.5
    assert wasserstein_1d(x, y).item() == pytest.approx(stats.wasserstein_distance(x, y), rel=1e-12)
    torch.testing.assert_close(wasserstein_1d(x, y), wasserstein_1d(y, x))


@pytest.mark.oracle("mean distance of sorted values")
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_for_equal_sizes_sorted_values_are_matched(p):
    x, y = normal(2, 3, 9), normal(2, 3, 9, seed=1) + 1
    for i in range(2):
        for j in range(3):
            expected = (abs(np.sort(x[i, j]) - np.sort(y[i, j])) ** p).mean() ** (1 / p)
            assert wasserstein_1d(x, y, p)[i, j].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.oracle("scipy.optimize.linprog")
@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize(("N", "M"), [(4, 6), (5, 3)])
def test_no_plan_is_cheaper_than_the_one_that_keeps_the_order(N, M, p):
    x, y = normal(N), normal(M, seed=3)
    uniform = (torch.full((n,), 1 / n, dtype=torch.float64) for n in (N, M))
    expected = cheapest(*uniform, (x[:, None] - y).abs() ** p)
    assert (wasserstein_1d(x, y, p) ** p).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("closed form between Gaussians")
def test_between_gaussians_the_square_is_that_of_the_means_and_of_the_deviations():
    quantiles = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    x, y = 1.5 + 0.5 * quantiles, -0.5 + 2.0 * quantiles
    assert (wasserstein_1d(x, y, 2) ** 2).item() == pytest.approx(2.0**2 + 1.5**2, rel=1e-3)
    assert wasserstein_1d(x, 0.5 * quantiles, 1).item() == pytest.approx(1.5, rel=1e-9)


def test_of_larger_p_it_is_larger_and_scales_and_shifts_as_a_distance_does():
    x, y = normal(8), normal(5, seed=1)
    distances = torch.stack([wasserstein_1d(x, y, p) for p in (1, 2, 4)])
    assert (distances.diff() > 0).all()
    torch.testing.assert_close(torch.stack([wasserstein_1d(-3 * x + 7, -3 * y + 7, p) for p in (1, 2, 4)]), 3 * distances)


def test_repeating_every_value_changes_nothing():
    x, y = normal(4), normal(6, seed=1)
    torch.testing.assert_close(wasserstein_1d(x.repeat(3), y.repeat(2), 2), wasserstein_1d(x, y, 2))


def test_the_distance_grows_with_the_shift_where_jensen_shannon_stands_still():
    """The argument for Wasserstein GANs: only one of the two says that 1 is nearer than 5."""
    bins = torch.arange(12)

    def js(shift):
        p, q = ((bins >= s) & (bins < s + 3) for s in (0, shift))
        p, q = p.double() / 3, q.double() / 3
        m = (p + q) / 2
        return sum((r * (r / m).log()).nan_to_num(0).sum() for r in (p, q)).item() / 2

    x = torch.arange(3).double()
    for shift in (3, 5, 9):
        assert js(shift) == pytest.approx(math.log(2))
        assert wasserstein_1d(x, x + shift).item() == pytest.approx(shift)
    y = (x + 5).requires_grad_()
    wasserstein_1d(x, y).backward()
    torch.testing.assert_close(y.grad, torch.full((3,), 1 / 3).double())


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
def test_gradient_on_a_line(p):
    x, y = normal(2, 4).requires_grad_(), normal(2, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: wasserstein_1d(x, y, p), (x, y))
    if p > 1:
        assert torch.autograd.gradgradcheck(lambda x, y: wasserstein_1d(x, y, p), (x, y))


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_equal_samples_are_0_apart_and_have_no_nan_gradient(p):
    x = normal(5).requires_grad_()
    value = wasserstein_1d(x, x.detach().flip(0), p)
    value.backward()
    assert value == 0 and torch.equal(x.grad, torch.zeros(5).double())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_do_not_overflow(dtype):
    x, y = torch.full((100,), -1e4, dtype=dtype), torch.full((50,), 1e4, dtype=dtype, requires_grad=True)
    value = wasserstein_1d(x, y, 2)
    value.backward()
    assert value.dtype == torch.float32 and value.item() == pytest.approx(2e4, rel=5e-3)
    assert y.grad.float().sum().item() == pytest.approx(1, rel=1e-2)


def test_a_nan_stays_one():
    assert wasserstein_1d(torch.tensor([1.0, torch.nan]), torch.tensor([1.0])).isnan()


def test_functions_of_slope_one_never_exceed_it_and_one_reaches_it():
    x, y = normal(40) - 1, 3 * normal(30, seed=1)
    distance = wasserstein_1d(x, y).item()
    for f in (torch.abs, torch.sin, lambda v: v.clamp(-1, 1), lambda v: -v, torch.relu):
        assert abs(f(x).mean() - f(y).mean()).item() <= distance + 1e-12
    # The best critic rises where more of x lies to the left, and falls elsewhere.
    at = torch.cat([x, y]).sort().values
    left = lambda v: (v[:, None] <= at[:-1]).double().mean(0)  # noqa: E731
    heights = torch.cat([torch.zeros(1).double(), (torch.sign(left(y) - left(x)) * at.diff()).cumsum(0)])
    critic = lambda v: heights[torch.searchsorted(at, v)]  # noqa: E731
    assert (critic(x).mean() - critic(y).mean()).item() == pytest.approx(distance, rel=1e-12)


def test_without_a_lipschitz_constraint_the_critic_has_no_maximum():
    """Erratum: E f(x) - E f(y) alone, as a loss for the critic, is steeper critics all the way."""
    x, y = normal(64) + 1, normal(64, seed=1)
    critic = torch.nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(critic.parameters(), lr=1.0)
    gaps = []
    for _ in range(200):
        gap = critic(x[:, None]).mean() - critic(y[:, None]).mean()
        gaps.append(gap.item())
        optimizer.zero_grad()
        (-gap).backward()
        optimizer.step()
    distance = wasserstein_1d(x, y).item()
    assert gaps[-1] > 100 * distance and (np.diff(gaps) > 0).all()
    assert gaps[-1] / abs(critic.weight.item()) <= distance * 1.01


@pytest.mark.parametrize(("n", "apart"), [(1, 1.13), (16, 0.41), (64, 0.22), (256, 0.11)])
def test_batches_of_one_distribution_are_not_0_apart(n, apart):
    mean = wasserstein_1d(normal(2000, n, seed=1), normal(2000, n, seed=2)).mean().item()
    assert mean == pytest.approx(apart, rel=0.04)
    if n == 1:
        assert 2 / math.sqrt(math.pi) == pytest.approx(apart, abs=5e-3)


# Sinkhorn


@pytest.mark.oracle("scipy.optimize.linprog")
def test_as_eps_goes_to_0_the_plan_costs_what_the_linear_program_does():
    for seed in range(2):
        a, b, cost = problem(seed=seed)
        cost = cost / cost.max()
        best = cheapest(a, b, cost)
        above = [(sinkhorn(a, b, cost, eps, 2000)[0] - best).item() / best for eps in (1.0, 0.1, 0.01)]
        assert above[0] > above[1] > above[2] > -1e-6
        assert above[2] < 2e-3


def test_sums_of_the_plan_are_the_masses():
    a, b, cost = problem()
    for iters, close in ((1, 1.0), (2000, 1e-12)):
        distance, plan = sinkhorn(a, b, cost, 0.2, iters)
        torch.testing.assert_close(plan.sum(0), b, rtol=1e-12, atol=0)
        torch.testing.assert_close(plan.sum(1), a, rtol=close, atol=close)
        assert distance.item() == pytest.approx((plan * cost).sum().item(), rel=1e-12)
        assert (plan > 0).all()


@pytest.mark.oracle("optimality: the plan is a product but for the cost")
def test_log_of_the_plan_is_rows_plus_columns_minus_cost_over_eps():
    """Of all plans with these sums, the one of this form has the least cost minus eps times entropy."""
    a, b, cost = problem()
    plan = sinkhorn(a, b, cost, 0.3, 2000)[1]
    rest = plan.log() + cost / 0.3
    mixed = rest[1:, 1:] - rest[:1, 1:] - rest[1:, :1] + rest[:1, :1]
    torch.testing.assert_close(mixed, torch.zeros_like(mixed), rtol=0, atol=1e-10)

    def objective(plan):
        return ((plan * cost).sum() + 0.3 * (plan * plan.log()).sum()).item()

    turn, corner = torch.zeros_like(plan), torch.tensor([[1, -1], [-1, 1]])
    turn[:2, :2] = 0.1 * plan[:2, :2].min() * corner
    assert objective(plan) < min(objective(plan + turn), objective(plan - turn))


@pytest.mark.oracle("closed form for two places")
def test_two_places_have_a_closed_form():
    """Half the mass at each of two places at distance 1: a share 1 / (1 + exp(1 / eps)) moves."""
    half, cost = torch.full((2,), 0.5, dtype=torch.float64), 1 - torch.eye(2, dtype=torch.float64)
    for eps in (0.1, 0.5, 2.0):
        distance, _ = sinkhorn(half, half, cost, eps, 50)
        assert distance.item() == pytest.approx(1 / (1 + math.exp(1 / eps)), rel=1e-12)


def test_with_a_large_eps_everything_goes_everywhere():
    a, b, cost = problem()
    torch.testing.assert_close(sinkhorn(a, b, cost, 1e9, 5)[1], a[:, None] * b, rtol=1e-6, atol=0)


def test_on_a_line_it_tends_to_the_sorted_distance():
    x, y = normal(6), normal(6, seed=1)
    uniform = torch.full((6,), 1 / 6, dtype=torch.float64)
    distance, _ = sinkhorn(uniform, uniform, (x[:, None] - y).square(), 1e-3, 5000)
    assert distance.item() == pytest.approx(wasserstein_1d(x, y, 2).item() ** 2, rel=1e-3)


def test_small_eps_works_where_plain_products_underflow():
    a, b = (x.float() for x in problem()[:2])
    cost = problem()[2].float() * 100
    distance, plan = sinkhorn(a, b, cost, 0.05, 200)
    assert plan.isfinite().all() and distance.isfinite()
    _, plain = numpy_wasserstein.sinkhorn_plain(a.numpy(), b.numpy(), cost.numpy(), np.float32(0.05), 200)
    assert np.isnan(plain).any()


def test_a_distribution_is_not_0_from_itself_when_the_plan_is_blurred():
    """And the larger eps, the less: 0.36 would be all mass spread evenly over eleven places from 0 to 1."""
    at, uniform = torch.linspace(0, 1, 11).double(), torch.full((11,), 1 / 11).double()
    cost = (at[:, None] - at).abs()
    values = [sinkhorn(uniform, uniform, cost, eps, 500)[0].item() for eps in (1.0, 0.1, 0.01)]
    assert values == [pytest.approx(0.307, abs=1e-3), pytest.approx(0.073, abs=1e-3), pytest.approx(0, abs=1e-4)]
    assert cost.mean().item() == pytest.approx(0.36, abs=5e-3)


def test_stopped_too_early_it_may_cost_less_than_is_possible():
    a, b, cost = problem()
    assert sinkhorn(a, b, cost, 0.01, 1)[0].item() < cheapest(a, b, cost)


def test_with_distance_as_cost_and_one_beyond_the_other_all_plans_cost_the_same():
    x, y = torch.arange(4).double(), torch.arange(4).double() + 10
    uniform, cost = torch.full((4,), 0.25).double(), y - x[:, None]
    for eps in (10.0, 0.1):
        assert sinkhorn(uniform, uniform, cost, eps, 2)[0].item() == pytest.approx(10, rel=1e-12)
        torch.testing.assert_close(sinkhorn(uniform, uniform, cost, eps, 2)[1], torch.full((4, 4), 1 / 16).double())


def test_places_without_mass_take_no_part():
    a, b, cost = problem(3, 4)
    more_a, more_b = torch.cat([a, a.new_zeros(1)]).requires_grad_(), torch.cat([b.new_zeros(1), b]).requires_grad_()
    bigger = torch.ones(4, 5).double()
    bigger[:3, 1:] = cost
    bigger.requires_grad_()
    distance, plan = sinkhorn(more_a, more_b, bigger, 0.3, 20)
    expected, inner = sinkhorn(a, b, cost, 0.3, 20)
    torch.testing.assert_close(distance, expected)
    torch.testing.assert_close(plan[:3, 1:], inner)
    assert plan[3].abs().sum() == 0 == plan[:, 0].abs().sum()
    for slope in torch.autograd.grad(distance, (more_a, more_b, bigger)):
        assert slope.isfinite().all()


def test_batches_are_solved_one_by_one():
    (a, b, cost), (c, d, other) = problem(seed=1), problem(seed=2)
    distances, plans = sinkhorn(torch.stack([a, c]), torch.stack([b, d]), torch.stack([cost, other]), 0.3, 20)
    for i, single in enumerate([(a, b, cost), (c, d, other)]):
        distance, plan = sinkhorn(*single, 0.3, 20)
        torch.testing.assert_close(distances[i], distance)
        torch.testing.assert_close(plans[i], plan)


def test_masses_need_not_add_up_to_1_and_may_differ_by_rounding():
    a, b, cost = problem()
    distance, plan = sinkhorn(500 * a, 500.2 * b, cost, 0.3, 50)
    torch.testing.assert_close(plan.sum(0), 500.2 * b)
    assert distance.item() == pytest.approx(500.2 * sinkhorn(a, b, cost, 0.3, 50)[0].item(), rel=1e-9)


def test_a_hundred_rounds_by_default():
    a, b, cost = problem()
    torch.testing.assert_close(sinkhorn(a, b, cost, 0.01), sinkhorn(a, b, cost, 0.01, 100), rtol=0, atol=0)
    assert sinkhorn(a, b, cost, 0.01)[0] != sinkhorn(a, b, cost, 0.01, 101)[0]


def test_second_derivatives_by_the_cost():
    a, b, cost = problem(2, 3)
    assert torch.autograd.gradgradcheck(lambda c: sinkhorn(a, b, c, 0.5, 5)[0], (cost.requires_grad_(),))


def test_with_a_converged_plan_fixed_the_gradient_is_nearly_that_of_the_whole_iteration():
    a, b, cost = problem()
    cost.requires_grad_()
    distance, plan = sinkhorn(a, b, cost, 0.01, 2000)
    (whole,) = torch.autograd.grad(distance, cost)
    torch.testing.assert_close(whole, plan.detach(), rtol=0, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_costs_of_ten_thousand_stay_finite(dtype):
    a = torch.tensor([0.5, 0.5], dtype=dtype)
    cost = torch.tensor([[0, 1e4], [1e4, 0]], dtype=dtype, requires_grad=True)
    distance, plan = sinkhorn(a, a, cost, 1e-3, 5)
    distance.backward()
    assert plan.dtype == torch.float32 and torch.equal(plan, 0.5 * torch.eye(2)) and cost.grad.isfinite().all()


U, V = torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.25, 0.5])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: wasserstein_1d(U[:0], V), ValueError, "x has no value; expected one or more"),
        (lambda: wasserstein_1d(U, V[:0]), ValueError, "y has no value"),
        (lambda: wasserstein_1d(U, V, 0.5), ValueError, "p=0.5 is not a finite number of 1 or more"),
        (lambda: wasserstein_1d(U, V, math.nan), ValueError, "p=nan is not"),
        (lambda: wasserstein_1d(U, V, math.inf), ValueError, "p=inf is not"),
        (lambda: wasserstein_1d(U, V.expand(2, 3)), ValueError, r"y has shape \(2, 3\); expected \(\.\.\., m\) with the leading dimensions of x, \(\)"),
        (lambda: wasserstein_1d(U[0], V), ValueError, r"x has shape \(\); expected \(\.\.\., n\)"),
        (lambda: wasserstein_1d([0.5], V), TypeError, "x is a list"),
        (lambda: wasserstein_1d(U, V.long()), TypeError, "y has dtype torch.int64"),
        (lambda: sinkhorn(U, V, torch.zeros(3, 2), 1.0), ValueError, r"cost has shape \(3, 2\); expected \(2, 3\), from each place of a to each of b"),
        (lambda: sinkhorn(U, V.expand(2, 3), torch.zeros(2, 3), 1.0), ValueError, r"b has shape \(2, 3\); expected \(\.\.\., m\) with the leading"),
        (lambda: sinkhorn(U, V, torch.zeros(3), 1.0), ValueError, r"cost has shape \(3,\); expected \(\.\.\., n, m\)"),
        (lambda: sinkhorn(U, V, torch.zeros(2, 3), 0.0), ValueError, "eps=0.0 is not above 0; without blur, solve the linear program"),
        (lambda: sinkhorn(U, V, torch.zeros(2, 3), 1.0, 0), ValueError, "iters=0 is not 1 or more"),
        (lambda: sinkhorn(2 * U, V, torch.zeros(2, 3), 1.0), ValueError, "a sums to 2, b to 1; expected equal masses"),
        (lambda: sinkhorn(U, 0.99 * V, torch.zeros(2, 3), 1.0), ValueError, "a sums to 1, b to 0.99; expected equal masses"),
        (lambda: sinkhorn(0.02 * U, 0.01 * V, torch.zeros(2, 3), 1.0), ValueError, "a sums to 0.02, b to 0.01; expected equal masses"),
        (lambda: sinkhorn(torch.stack([U, U]), torch.stack([V, 2 * V]), torch.zeros(2, 2, 3), 1.0), ValueError, "a sums to 1, b to 2"),
        (lambda: sinkhorn(torch.tensor([1.5, -0.5]), V, torch.zeros(2, 3), 1.0), ValueError, "a holds -0.5; expected masses of 0 or more"),
        (lambda: sinkhorn(U, V * torch.nan, torch.zeros(2, 3), 1.0), ValueError, "b holds nan; expected masses"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("p", [1, 2])
def test_numpy_variant_agrees(agree, p):
    x, y = normal(6), normal(4, seed=1)
    agree(numpy_wasserstein.wasserstein_1d(x.numpy(), y.numpy(), p), wasserstein_1d(x, y, p))
    a, b, cost = problem()
    arrays = a.numpy(), b.numpy(), cost.numpy()
    for ours in (numpy_wasserstein.sinkhorn, numpy_wasserstein.sinkhorn_plain):
        for got, expected in zip(ours(*arrays, 0.3, 20 * p), sinkhorn(a, b, cost, 0.3, 20 * p)):
            agree(got, expected)


@pytest.mark.oracle("scipy.stats.wasserstein_distance (weighted)")
def test_the_demos_exact_distance_of_histograms_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for shift in (0.0, 0.7, 2.0, 5.0):
        a, b = numpy_wasserstein.pair(shift)
        places = numpy_wasserstein.PLACES
        assert numpy_wasserstein.wasserstein_1d(places, places, 1, a, b) == pytest.approx(stats.wasserstein_distance(places, places, a, b), rel=1e-10)
