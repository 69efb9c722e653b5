import math

import numpy as np
import pytest
import torch

from snippets.schedulers.arena import expected_loss
from snippets.schedulers.inverse_sqrt import inverse_sqrt, noam
from vocab.schedulers.inverse_sqrt import InverseSqrt, noam_scale
from vocab.schedulers.tests.test_one_cycle import path, sgd
from vocab.schedulers.warmup_linear_decay import WarmupLinearDecay


def example():
    """For the contract suite: builds a scheduler for a given optimizer."""
    return (lambda optimizer: InverseSqrt(optimizer, warmup_steps=3)), ()


def rates(scheduler, calls):
    return path(scheduler, calls)[:, 0, 0]


@pytest.mark.oracle("transformers.get_inverse_sqrt_schedule")
@pytest.mark.parametrize("warmup", [1, 10, 77])
def test_equals_transformers_at_every_step(warmup):
    transformers = pytest.importorskip("transformers")
    theirs = path(transformers.get_inverse_sqrt_schedule(sgd(2), warmup), 200)
    np.testing.assert_allclose(path(InverseSqrt(sgd(2), warmup), 200), theirs, rtol=1e-12)


@pytest.mark.oracle("formula of Vaswani et al., equation 3")
@pytest.mark.parametrize(("d_model", "warmup"), [(512, 40), (128, 7), (1024, 1)])
def test_with_noams_scale_it_is_the_transformers_absolute_rate(d_model, warmup):
    found = rates(InverseSqrt(sgd(lr=1.0), warmup, noam_scale(d_model, warmup), first_step=1), 199)
    by_hand = [d_model**-0.5 * min(t**-0.5, t * warmup**-1.5) for t in range(1, 201)]
    np.testing.assert_allclose(found, by_hand, rtol=1e-12)


@pytest.mark.oracle("published number: peak of the base Transformer")
def test_the_base_transformer_peaks_at_7e_4():
    scheduler = InverseSqrt(sgd(lr=1.0), 4000, noam_scale(512, 4000), first_step=1)
    assert scheduler.rate(1.0, 3999) == pytest.approx(6.99e-4, abs=5e-7)
    both = 512**-0.5 * 4000**-0.5, 512**-0.5 * 4000 * 4000**-1.5
    assert both[0] == pytest.approx(both[1]) == pytest.approx(scheduler.rate(1.0, 3999)), "the branches meet at the peak"
    around = [scheduler.rate(1.0, t) for t in (3998, 3999, 4000)]
    assert max(around) == around[1]


@pytest.mark.oracle("transformers.Adafactor._get_lr (relative step, with and without warmup_init)")
@pytest.mark.parametrize("ramp", [False, True])
def test_adafactors_relative_step_is_a_setting_of_it(ramp):
    adafactor = pytest.importorskip("transformers.optimization").Adafactor
    group = {"lr": None, "relative_step": True, "warmup_init": ramp, "scale_parameter": False}
    scheduler = InverseSqrt(sgd(lr=1.0), 10_000, 1e-2, start_factor=0.0 if ramp else 1.0, first_step=1)
    for t in (1, 2, 500, 9999, 10_000, 10_001, 40_000, 10**6):
        theirs = adafactor._get_lr(group, {"step": t})
        assert scheduler.rate(1.0, t - 1) == pytest.approx(theirs, rel=1e-12)


def test_t5s_rate_is_constant_for_ten_thousand_steps():
    scheduler = InverseSqrt(sgd(lr=1.0), 10_000, 1e-2, start_factor=1.0, first_step=1)
    for t in (1, 10_000, 10_001, 2**19):
        assert scheduler.rate(1.0, t - 1) == pytest.approx(1 / math.sqrt(max(t, 10_000)), rel=1e-12)


def test_four_times_the_steps_halve_the_rate_and_the_slope_is_minus_one_half():
    scheduler = InverseSqrt(sgd(lr=3.0), 100)
    assert scheduler.rate(3.0, 100) == 3.0 and scheduler.rate(3.0, 400) == pytest.approx(1.5) and scheduler.rate(3.0, 1600) == pytest.approx(0.75)
    t = np.array([100, 1000, 10_000, 100_000])
    slopes = np.diff(np.log([scheduler.rate(3.0, int(s)) for s in t])) / np.diff(np.log(t))
    np.testing.assert_allclose(slopes, -0.5, rtol=1e-12)


def test_noams_formula_is_absolute_so_another_base_rate_multiplies_it():
    """Pitfall: lr=1e-3 in the optimizer and Noam's formula give a thousandth of the rate."""
    wrong = InverseSqrt(sgd(lr=1e-3), 4000, noam_scale(512, 4000), first_step=1)
    assert wrong.base_lrs == [1e-3] and wrong.rate(1e-3, 3999) == pytest.approx(6.99e-7, abs=5e-10)


def test_without_a_cool_down_the_loss_stays_above_that_of_a_line_to_zero():
    tops, losses = np.geomspace(0.05, 1.8, 12), {}
    for name, scheduler in (("root", InverseSqrt(sgd(), 30)), ("line", WarmupLinearDecay(sgd(), 30, 600))):
        share = np.array([scheduler.factor(t) for t in range(600)])
        losses[name] = min(expected_loss(top * share)[-1] for top in tops)
    assert losses["root"] > 1.05 * losses["line"], "each at its own best peak"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(warmup_steps=0), "warmup_steps=0 is not a whole number of at least 1"),
        (dict(warmup_steps=1.5), "warmup_steps=1.5 is not a whole number"),
        (dict(scale=0.0), "scale=0.0 is not above 0"),
        (dict(scale=float("nan")), "scale=nan"),
        (dict(first_step=-1), "first_step=-1 is not a whole number of at least 0"),
        (dict(start_factor=2.0), "start_factor=2.0 is not between 0 and 1"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        InverseSqrt(sgd(), **{"warmup_steps": 10, **options})


def test_bad_widths_say_which_and_why():
    with pytest.raises(ValueError, match="d_model=0 is not a whole number of at least 1"):
        noam_scale(0, 10)
    with pytest.raises(ValueError, match="warmup_steps=0 is not a whole number of at least 1"):
        noam_scale(512, 0)
    assert noam_scale(1, 1) == 1.0


def test_a_run_can_be_resumed_by_its_step_number():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=7.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    assert InverseSqrt(optimizer, 10, 3.0, last_epoch=39).get_last_lr() == [pytest.approx(1.5)], "step 40 is next"


def test_numpy_variant_agrees(agree):
    t = np.arange(200)
    agree(inverse_sqrt(t, 30, 0.4), rates(InverseSqrt(sgd(lr=0.4), 30), 199))
    agree(noam(t, 512, 30), rates(InverseSqrt(sgd(lr=1.0), 30, noam_scale(512, 30), first_step=1), 199))
    assert inverse_sqrt(120, 30, 0.4) == pytest.approx(0.2)
