"""The trainings behind the guide to loss curves show what its text says."""

import numpy as np
import pytest

from snippets.guides import gpu_kernels as counted
from snippets.guides import reading_a_loss_curve as guide


def test_the_gradients_are_those_of_the_loss():
    rng = np.random.default_rng(0)
    w = [rng.normal(size=p.shape) for p in guide.start(5)]
    x, y = guide.moons(12, rng)
    for part, found in zip(w, guide.gradients(w, x, y)):
        for i in np.ndindex(part.shape):
            kept = part[i]
            values = []
            for h in (1e-6, -1e-6):
                part[i] = kept + h
                values.append(guide.loss(w, x, y))
            part[i] = kept
            assert found[i] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("shape", guide.SHAPES)
def test_what_is_mended_ends_lower(shape):
    runs, _, _, said = guide.SHAPES[shape](1.0)
    worst, best = runs["as it is"][1], runs["mended"][1]
    tail = slice(-20, None)
    assert not worst[tail].mean() < 1.05 * best[tail].mean(), "the mended run gains at least a twentieth"
    assert np.isfinite(best).all() and len(said) > 80


def test_a_plateau_stands_at_guessing_while_the_gradient_grows():
    runs, *_ = guide.plateau(1.0)
    batch_loss, _, norm = runs["as it is"]
    waits = int(np.argmax(batch_loss < 0.66))
    assert waits > 20 and np.abs(batch_loss[:waits] - np.log(2)).max() < 0.04
    assert norm[waits] > 2 * norm[:5].mean()
    assert runs["mended"][0][waits] < 0.5


def test_a_spike_shows_in_the_gradient_before_the_held_out_loss():
    runs, *_ = guide.spike(1.0)
    _, held_out, norm = runs["as it is"]
    assert norm[100] > 10 * norm[90:100].max()
    assert held_out[100] < 1.2 * held_out[90:100].max() and held_out[101:115].max() > 5 * held_out[100]
    _, clipped, _ = runs["mended"]
    assert clipped[101:115].max() < 2 * clipped[100]


def test_a_gap_grows_after_the_turn_while_training_loss_falls():
    runs, *_ = guide.gap(1.0)
    training, held_out, _ = runs["as it is"]
    turn = int(held_out.argmin())
    assert 5 < turn < 150 and held_out[-1] > 1.5 * held_out[turn] and training[-1] < 0.3 * training[turn]


def test_teeth_are_as_long_as_the_sorted_parts():
    runs, *_ = guide.sawtooth(1.0)
    strength = [np.abs(np.fft.rfft(runs[name][0][-192:] - runs[name][0][-192:].mean())) for name in ("as it is", "mended")]
    assert strength[0].argmax() in (8, 16), "192 steps hold eight passes of 24"
    assert strength[0].max() > 3 * strength[1].max()


def test_an_explosion_is_a_straight_line_with_the_slope_of_theory():
    runs, *_ = guide.explosion(1.0)
    value = runs["as it is"][0]
    last = int(np.argmax(~np.isfinite(value)))
    assert value[5] < value[0], "at first it falls"
    slope = np.diff(np.log(value[last - 40 : last - 10]))
    assert slope == pytest.approx(2 * np.log(2.0 * 1.4 - 1), rel=1e-3)


def test_the_second_descent_has_its_peak_at_as_many_features_as_points():
    runs, *_ = guide.double_descent(1.0)
    error, _, norm = runs["as it is"]
    counts = np.arange(2, 81, 2)
    assert 16 <= counts[error.argmax()] <= 24 and 16 <= counts[norm.argmax()] <= 24
    assert error[-1] < 0.2 * error.max() and error[:6].min() < 0.2 * error.max()
    assert runs["mended"][0].max() < 0.3 * error.max()


@pytest.mark.parametrize("name", counted.OPERATIONS)
def test_large_tables_gain_the_ratio_of_bytes_and_small_ones_that_of_launches(name):
    tables, alone, steps = counted.OPERATIONS[name]
    plain, fused = counted.compare(name, np.array([1.0, 1e15]), 5, 25, 4e6)
    assert plain[0] / fused[0] == pytest.approx(len(tables) * steps * 5 / 25)
    assert plain[1] / fused[1] == pytest.approx(sum(tables) / alone)


def test_a_launch_hides_behind_the_bytes_of_the_step_before_and_not_the_other_way():
    # 1e6 numbers of 16 bits at 1e6 bytes a microsecond: 2 microseconds a table
    assert counted.microseconds(1e6, [3, 1], 1, 5, 1e6) == 6 + 5
    assert counted.microseconds(1e6, [3], 1000, 5, 1e6) == 5000
