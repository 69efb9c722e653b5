import copy
import math

import numpy as np
import pytest
import torch

from snippets.optimizers.hill_climbing import climb_step
from vocab.optimizers.hill_climbing import HillClimber, flip_bits

# No example(): a step takes a loss to evaluate and no gradients, which the contract of optimizers does not know.


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sphere(w):
    return lambda: w.square().sum().item()


def test_the_loss_never_rises():
    w = torch.randn(5, dtype=torch.float64)
    climber, last = HillClimber([w], sigma=0.5, adapt=None, generator=seeded()), math.inf
    for _ in range(300):
        loss = climber.step(lambda: (w.sin().sum() + w.square().sum()).item())
        assert loss <= last and loss == pytest.approx((w.sin().sum() + w.square().sum()).item())
        last = loss


@pytest.mark.oracle("theory of the sphere: the logarithm of the distance falls by 0.1/n to 0.21/n an evaluation")
@pytest.mark.parametrize("n", [10, 30])
def test_on_the_sphere_it_converges_at_the_known_rate(n):
    rates = []
    for seed in range(3):
        w = torch.ones(n, dtype=torch.float64)
        climber, steps = HillClimber([w], sigma=1.0, generator=seeded(seed)), 150 * n
        for _ in range(20 * n):
            climber.step(sphere(w))
        start = w.norm().item()
        for _ in range(steps):
            climber.step(sphere(w))
        rates.append(-math.log(w.norm().item() / start) / steps * n)
    assert 0.1 < sum(rates) / 3 < 0.21


def test_without_adaptation_it_stops_at_the_size_of_its_steps():
    ends = []
    for adapt in (None, "one-fifth"):
        w = torch.ones(10, dtype=torch.float64)
        climber = HillClimber([w], sigma=0.1, adapt=adapt, generator=seeded())
        for _ in range(3000):
            climber.step(sphere(w))
        ends.append(w.norm().item())
    assert ends[0] > 1e-3 and ends[1] < 1e-12


@pytest.mark.oracle("balance of the rule: one success in five, less what sigma's own shrinking takes")
def test_the_share_of_successes_is_a_fifth_less_the_rate_of_shrinking():
    w, n = torch.ones(20, dtype=torch.float64), 20
    climber, successes, last = HillClimber([w], sigma=1.0, generator=seeded()), 0, None
    for _ in range(4000):
        loss = climber.step(sphere(w))
        successes += loss != last
        last = loss
    assert successes / 4000 == pytest.approx(0.2 + (1 + n / 2) * math.log(climber.sigma) / 4000, abs=1e-3)
    # sigma keeps its ratio to the distance, which falls by about 0.15 / n a step
    assert successes / 4000 == pytest.approx(0.2 - (1 + n / 2) * 0.15 / n, abs=0.03)
    assert 0.3 < climber.sigma * n / w.norm().item() < 4


@pytest.mark.oracle("closed form of the step size after successes and failures")
def test_step_sizes_follow_the_rule():
    w = torch.zeros(4)
    climber = HillClimber([w], sigma=1.0)
    for loss in (3.0, 2.0, 2.5, 2.0):  # the parent, then a success, a failure and an equal one
        values = iter([3.0, loss] if climber.loss is None else [loss])
        climber.step(lambda: next(values))
    assert climber.sigma == pytest.approx(math.exp((3 * 0.8 - 0.2) / 3))


@pytest.mark.oracle("published bound: e·n·ln n evaluations of OneMax")
def test_onemax_takes_about_e_n_log_n_evaluations():
    n, counts = 40, []
    for seed in range(20):
        bits, generator = torch.zeros(n), seeded(seed)
        climber, count = HillClimber([bits], adapt=None, mutate=flip_bits, generator=generator), 0
        while climber.step(lambda: -bits.sum().item()) > -n:
            count += 1
        counts.append(count)
    assert 0.45 < sum(counts) / 20 / (math.e * n * math.log(n)) < 1.1


def test_plateaus_are_crossed_by_accepting_equal_values():
    """Pitfall: strict improvement stays where it is."""
    w = torch.tensor([0.0])
    climber = HillClimber([w], sigma=1.0, adapt=None, generator=seeded())
    for _ in range(300):
        climber.step(lambda: 0.0 if abs(w.item()) < 8 else -1.0)
    assert climber.loss == -1.0


def test_a_lucky_parent_stays_for_ever_unless_it_is_measured_again():
    """Pitfall: noise."""
    ends = {}
    for again in (False, True):
        w, generator = torch.tensor([3.0]), seeded()
        climber, first = HillClimber([w], sigma=0.5, adapt=None, reevaluate=again, generator=generator), [-100.0]
        for _ in range(300):
            climber.step(lambda: first.pop() if first else w.square().item())
        ends[again] = abs(w.item())
    assert ends[False] == 3.0 and ends[True] < 0.3


def test_stops_at_the_first_local_optimum():
    w = torch.tensor([2.0])
    climber = HillClimber([w], sigma=0.05, adapt=None, generator=seeded())
    for _ in range(500):
        climber.step(lambda: (w.square() * 0.1 - (4 * w).cos()).item())
    assert abs(w.item() - 1.55) < 0.1, "the valley beside the start, not the lowest one at 0"


@pytest.mark.oracle("flips: binomial with mean 1")
def test_bits_flip_with_the_probability_of_one_in_n():
    generator = seeded()
    counts = torch.tensor([flip_bits(torch.ones(50), 0.0, generator).eq(0).sum().item() for _ in range(4000)], dtype=torch.float64)
    assert counts.mean().item() == pytest.approx(1.0, abs=0.06)
    assert counts.var().item() == pytest.approx(0.98, abs=0.1)


def test_all_parameters_are_one_point_and_no_gradients_are_needed():
    model = torch.nn.Linear(3, 2)
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(5, 3)
    climber = HillClimber(model.parameters(), sigma=0.1, generator=seeded())
    assert climber.damping == 1 + 8 / 2
    losses = [climber.step(lambda: model(x).square().sum().item()) for _ in range(300)]
    assert losses[-1] < 0.1 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_resumes_where_it_stopped():
    ends = []
    for interrupted in (False, True):
        w = torch.ones(4, dtype=torch.float64)
        climber = HillClimber([w], generator=seeded())
        for t in range(60):
            if interrupted and t == 30:
                saved = copy.deepcopy(climber.state_dict())
                climber = HillClimber([w], sigma=7.0, generator=seeded(5))
                climber.load_state_dict(saved)
            climber.step(sphere(w))
        ends.append(w)
    assert torch.equal(*ends)
    plain = HillClimber([torch.ones(1)])
    plain.load_state_dict(HillClimber([torch.ones(1)], sigma=3.0).state_dict())
    assert plain.sigma == 3.0


def test_nan_is_never_kept():
    w = torch.tensor([1.0])
    climber = HillClimber([w], sigma=1.0, generator=seeded())
    climber.step(lambda: 5.0)
    assert climber.step(lambda: math.nan) == 5.0
    start = HillClimber([w], sigma=1.0, generator=seeded())
    values = iter([math.nan, 3.0])
    assert start.step(lambda: next(values)) == 3.0


@pytest.mark.parametrize(
    ("params", "options", "message"),
    [([], {}, "params is empty"), (None, dict(sigma=0.0), "sigma=0.0 is not above 0"), (None, dict(adapt="1/5"), "adapt='1/5' is not 'one-fifth' or None")],
)
def test_bad_options_are_named(params, options, message):
    with pytest.raises(ValueError, match=message):
        HillClimber([torch.ones(2)] if params is None else params, **options)


def test_defaults_are_the_documented_ones():
    climber = HillClimber([torch.ones(2)])
    assert (climber.sigma, climber.adapt, climber.reevaluate, climber.mutate) == (0.1, "one-fifth", False, None)


@pytest.mark.parametrize("adapt", [True, False])
def test_numpy_variant_agrees(agree, adapt):
    changes = torch.randn(200, 5, dtype=torch.float64)
    w = torch.ones(5, dtype=torch.float64)
    moves = iter(changes)
    climber = HillClimber([w], sigma=0.4, adapt="one-fifth" if adapt else None, mutate=lambda p, sigma, generator: p + sigma * next(moves))
    found, state = np.ones(5), {"sigma": 0.4}
    for t, change in enumerate(changes.numpy(), 1):
        climber.step(lambda: (w.square() * torch.arange(1, 6)).sum().item())
        found = climb_step(found, lambda x: (x**2 * np.arange(1, 6)).sum(), change, state, adapt)
    agree(found, w)
    agree(state["sigma"], climber.sigma)
