"""The common grounds of optimizers, schedules and losses: their mathematics, against finite differences, simulation and closed forms."""

import numpy as np
import pytest

from snippets.losses.arena import slope, value_and_gradient
from snippets.optimizers import arena
from snippets.optimizers.sgd import sgd_step
from snippets.schedulers.arena import beside, expected_loss


@pytest.mark.parametrize("name", arena.NAMES)
def test_a_surface_has_its_gradient_and_its_lowest_point(name):
    ground = arena.surface(name)
    for point in np.random.default_rng(0).uniform(-1, 1, (20, 2)):
        found = [(ground.value(point + h) - ground.value(point - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        np.testing.assert_allclose(ground.gradient(point), found, rtol=1e-5, atol=1e-6)
    (x0, x1), (y0, y1) = ground.box
    grid = np.stack(np.meshgrid(np.linspace(x0, x1, 200), np.linspace(y0, y1, 200)), -1)
    assert arena.loss(grid, ground).min() >= 0 and np.abs(ground.gradient(np.array(ground.goal))).max() < 1e-12
    for (a, b), values in zip(ground.box, zip(ground.start, ground.goal)):
        assert all(a < value < b for value in values), "start and lowest point are drawn"


@pytest.mark.parametrize("condition", [1.0, 20.0, 100.0])
def test_bowls_have_the_curvatures_that_they_claim(condition):
    for name in ("bowl", "turned bowl"):
        ground = arena.surface(name, condition)
        hessian = np.stack([ground.gradient(e) for e in np.eye(2)])
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [1.0, condition])
    with pytest.raises(ValueError, match="surface name='hill' is not one of"):
        arena.surface("hill")


def test_a_path_follows_the_closed_form_and_stops_where_it_leaves():
    ground = arena.surface("bowl")
    path = arena.descend(lambda *a: sgd_step(*a, lr=0.05), ground, 30)
    np.testing.assert_allclose(path[30], np.array(ground.start) * (1 - 0.05 * np.array([1.0, 20.0])) ** 30, atol=1e-12)
    away = arena.descend(lambda *a: sgd_step(*a, lr=1.0), ground, 30)
    assert np.isfinite(away[0]).all() and np.isnan(away[-1]).all()


def test_noise_has_the_stated_deviation_and_is_the_same_for_all():
    ground = arena.surface("noisy bowl", noise=0.5)
    seen = []
    arena.descend(lambda w, g, state, t: seen.append(g - ground.gradient(w)) or w, ground, 4000)
    np.testing.assert_allclose(np.std(seen, axis=0), 0.5, rtol=0.03)
    again = []
    arena.descend(lambda w, g, state, t: again.append(g - ground.gradient(w)) or w, ground, 4000)
    np.testing.assert_array_equal(seen, again)


def test_the_best_rate_is_the_best():
    ground = arena.surface("bowl", condition=20.0)
    best = arena.best_rate(sgd_step, ground, 40)
    end = {lr: arena.loss(arena.descend(lambda *a: sgd_step(*a, lr=lr), ground, 40), ground)[-4:].mean() for lr in arena.RATES}
    assert end[best] == np.nanmin(list(end.values()))
    assert 0.3 * 2 / 21 < best < 2 / 20, "near 2 / (1 + condition), the optimum in theory, and below what diverges"


def test_a_race_draws_every_path_once_and_names_the_rates():
    ground = arena.surface("saddle")
    paths, losses = arena.race({"SGD": arena.descend(lambda *a: sgd_step(*a, lr=0.3), ground)}, ground)
    assert list(paths["lines"]) == ["SGD", "AdamW"] and "AdamW at its best rate" in losses["caption"]
    assert "SGD at its best rate" not in losses["caption"]


def test_the_expected_loss_is_the_mean_of_many_runs():
    rates, curvatures = np.linspace(0.5, 0.05, 40), np.array([0.1, 1.0])
    rng = np.random.default_rng(0)
    w = np.full((20_000, 2), 3.0)
    for t, lr in enumerate(rates):
        if t in (1, 10, 39):
            np.testing.assert_allclose((curvatures * w**2).sum(1).mean() / 2, expected_loss(rates, 0.7, curvatures)[t], rtol=0.02)
        w = w - lr * (curvatures * w + 0.7 * rng.standard_normal(w.shape))


def test_a_constant_rate_settles_where_noise_and_pull_balance():
    for lr in (0.1, 0.5):
        level = lr * 4.0 / (2 - lr * 0.3) / 2  # lr noise^2 / (2 - lr h) / 2
        np.testing.assert_allclose(expected_loss([lr] * 3000, 2.0, np.array([0.3]))[-1], level, rtol=1e-9)


def test_a_schedule_is_drawn_beside_constant_and_cosine():
    rates, losses = beside({"mine": np.full(50, 0.4)})
    assert list(rates["series"]) == ["mine", "constant", "cosine"] and rates["dashed"] == ["constant", "cosine"]
    assert losses["series"]["mine"] == losses["series"]["constant"]


def test_slopes_are_derivatives():
    at = np.linspace(-2, 2, 9)
    np.testing.assert_allclose(slope(np.square, at), 2 * at, atol=1e-9)
    value, gradient = value_and_gradient({"square": np.square}, at, x="error")
    assert value["series"]["square"] == [[x, x * x] for x in at.tolist()]
    np.testing.assert_allclose([y for _, y in gradient["series"]["square"]], 2 * at, atol=1e-9)
