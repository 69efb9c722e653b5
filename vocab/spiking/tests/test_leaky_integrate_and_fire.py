import math

import numpy as np
import pytest
import torch

from snippets.spiking import leaky_integrate_and_fire as numpy_variant
from vocab.spiking.leaky_integrate_and_fire import LIF, firing_rate


def example():
    """The membrane alone: a spike's gradient is not its derivative by design, so there is nothing to check it against."""
    neuron = LIF(tau=5.0, R=3.0, t_ref=2.0)
    return lambda current: neuron(current)[1], (torch.rand(12, 2, 3, dtype=torch.float64),)


def constant(value, steps, dtype=torch.float64):
    return torch.full((steps, 1, 1), value, dtype=dtype)


def spike_steps(spikes):
    return spikes[:, 0, 0].nonzero()[:, 0]


@pytest.mark.oracle("closed form of the f-I curve")
@pytest.mark.parametrize("dt", [1.0, 0.125])
@pytest.mark.parametrize("t_ref", [0.0, 3.0])
@pytest.mark.parametrize(
    ("current", "constants"),
    [
        (1.05, {}),
        (1.5, {"tau": 7.0}),
        (0.4, {"R": 5.0, "v_rest": -0.3, "v_reset": -0.6}),
        (30.0, {"v_rest": -65.0, "v_th": -50.0, "v_reset": -70.0}),
    ],
)
def test_interval_between_spikes_is_the_closed_form_up_to_one_step(current, constants, t_ref, dt):
    spikes, _ = LIF(**constants, t_ref=t_ref, dt=dt)(constant(current, int(300 / dt)))
    intervals = spike_steps(spikes).diff() * dt
    period = 1 / firing_rate(torch.tensor(current, dtype=torch.float64), **constants, t_ref=t_ref).item()
    assert len(intervals) > 1 and (intervals == intervals[0]).all()
    assert period <= intervals[0].item() < period + dt


def test_closed_form_worked_out_for_one_neuron():
    assert firing_rate(torch.tensor(2.0, dtype=torch.float64), t_ref=2.0).item() == pytest.approx(1 / (2 + 20 * math.log(2)))
    found = firing_rate(torch.tensor(9.0), tau=5.0, v_rest=-3.0, v_th=1.0, v_reset=-1.0, R=0.5)
    assert found.item() == pytest.approx(1 / (5 * math.log(2.5 / 0.5)))


def test_below_the_rheobase_the_closed_form_is_zero():
    assert firing_rate(torch.tensor([-1.0, 0.5, 1.0])).tolist() == [0, 0, 0]
    assert firing_rate(torch.tensor([torch.nan])).isnan().all()


@pytest.mark.oracle("solution of the differential equation")
@pytest.mark.parametrize("dt", [0.1, 1.0, 50.0])
def test_below_the_rheobase_the_membrane_nears_its_limit_exponentially(dt):
    """Also with steps longer than tau, where Euler's method would overshoot."""
    neuron = LIF(tau=20.0, v_rest=-0.5, R=2.0, dt=dt)
    spikes, v = neuron(constant(0.7, 40))
    time = dt * torch.arange(1, 41, dtype=torch.float64)
    assert spikes.sum() == 0
    torch.testing.assert_close(v[:, 0, 0], 0.9 - 1.4 * torch.exp(-time / 20))


@pytest.mark.oracle("invariance to the length of the step")
def test_below_threshold_the_step_length_makes_no_difference():
    current = torch.rand(30, 2, 3, dtype=torch.float64) * 0.9
    _, coarse = LIF(dt=2.0)(current)
    _, fine = LIF(dt=0.25)(current.repeat_interleave(8, 0))
    torch.testing.assert_close(fine[7::8], coarse)


def test_eulers_method_is_unstable_where_the_exact_step_is_not():
    """From dt = tau on Euler overshoots, from 2 tau on it diverges."""
    def euler(dt):
        v = torch.zeros(60)
        for t in range(1, 60):
            v[t] = v[t - 1] + dt / 20 * (0.5 - v[t - 1])
        return v

    assert euler(15.0).max() <= 0.5 and euler(30.0).max() > 0.7 and euler(41.0).abs().max() > 5
    assert LIF(dt=41.0)(constant(0.5, 60))[1].max() <= 0.5


@pytest.mark.oracle("snntorch.Leaky with the reset in the same step")
def test_equals_snntorch_leaky_with_subtract_reset():
    snntorch = pytest.importorskip("snntorch")
    neuron = LIF(tau=9.0, reset="subtract", R=2.0)
    current = torch.rand(60, 4, 5) * 1.2
    leaky = snntorch.Leaky(beta=math.exp(-1 / 9.0), reset_mechanism="subtract", reset_delay=False)
    mem, expected = leaky.reset_mem(), []
    for drive in current:
        spike, mem = leaky((1 - math.exp(-1 / 9.0)) * 2.0 * drive, mem)
        expected.append((spike, mem))
    spikes, v = neuron(current)
    assert spikes.sum() > 50
    torch.testing.assert_close(spikes, torch.stack([s for s, _ in expected]))
    torch.testing.assert_close(v, torch.stack([m for _, m in expected]))


@pytest.mark.oracle("snntorch.Leaky, gradients through time")
@pytest.mark.parametrize("surrogate", ["fast_sigmoid", "atan"])
def test_gradients_equal_those_of_snntorch(surrogate):
    """snntorch resets one step late and without decay: the same neuron with v_reset = v_th - 1/beta."""
    snntorch = pytest.importorskip("snntorch")
    beta = math.exp(-1 / 5.0)
    smooth = getattr(pytest.importorskip("snntorch.surrogate"), surrogate)()
    leaky = snntorch.Leaky(beta=beta, reset_mechanism="subtract", spike_grad=smooth)
    ours = (torch.rand(40, 2, 3) * 1.5).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    mem, expected = leaky.reset_mem(), []
    for drive in theirs:
        spike, mem = leaky((1 - beta) * 3.0 * drive, mem)
        expected.append(spike)
    neuron = LIF(tau=5.0, R=3.0, reset="subtract", v_reset=1 - 1 / beta, surrogate=surrogate)
    spikes, _ = neuron(ours)
    expected = torch.stack(expected)
    torch.testing.assert_close(spikes, expected)
    weights = torch.randn_like(spikes)
    (spikes * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_slope_is_what_was_asked_for_and_has_a_default():
    """A single step from rest: the gradient is gain times the surrogate at the distance to the threshold."""
    def gradient(**arguments):
        current = constant(0.5, 1).requires_grad_()
        neuron = LIF(**arguments)
        neuron(current)[0].sum().backward()
        return current.grad.item() / neuron.gain, 0.5 * neuron.gain - 1

    found, distance = gradient()
    assert found == pytest.approx((1 + 25 * abs(distance)) ** -2)
    found, distance = gradient(slope=0.5)
    assert found == pytest.approx((1 + 0.5 * abs(distance)) ** -2)
    found, distance = gradient(surrogate="atan")
    assert found == pytest.approx(1 / (1 + (math.pi * distance) ** 2))
    found, distance = gradient(surrogate="atan", slope=5.0)
    assert found == pytest.approx(2.5 / (1 + (math.pi / 2 * 5 * distance) ** 2))


def test_reset_to_zero_forgets_the_overshoot_and_subtraction_keeps_it():
    current = constant(30.0, 1)
    _, v = LIF(v_reset=-0.2)(current)
    assert v.item() == -0.2
    _, v = LIF(v_reset=-0.2, reset="subtract")(current)
    assert v.item() == pytest.approx(30 * (1 - math.exp(-1 / 20)) - 1.2)


def test_subtraction_brings_the_rate_at_large_input_nearer_to_the_closed_form():
    """Ten times the rheobase and one millisecond a step: 2.1 ms by the formula, 3 by reset to zero."""
    true = firing_rate(torch.tensor(10.0)).item()
    zero, subtract = (LIF(reset=r)(constant(10.0, 3000))[0].mean().item() for r in ("zero", "subtract"))
    assert 1 / true == pytest.approx(2.107, abs=1e-3) and zero == pytest.approx(1 / 3, abs=1e-3)
    assert abs(subtract - true) < abs(zero - true) / 5


def test_spike_at_the_threshold_itself_and_not_below():
    neuron = LIF(R=1.0)
    neuron.decay, neuron.gain = 0.5, 1.0
    spikes, _ = neuron(torch.tensor([[[1.0, 1.0 - 1e-12]]], dtype=torch.float64))
    assert spikes[0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("t_ref", "dt", "steps"), [(0.3, 0.1, 3), (0.25, 0.1, 3), (2.0, 1.0, 2), (0.0, 1.0, 0)])
def test_refractory_period_holds_the_membrane_for_whole_steps(t_ref, dt, steps):
    spikes, v = LIF(t_ref=t_ref, dt=dt, v_reset=0.1)(constant(2000.0, 10))
    assert spike_steps(spikes).diff().unique().tolist() == [steps + 1]
    assert (v == 0.1).all()


def test_erratum_resistance_and_refractory_period_are_part_of_the_model():
    """Twice the resistance is twice the current, and the wait between spikes grows by exactly the refractory period."""
    current = torch.rand(50, 1, 4, dtype=torch.float64) * 2
    torch.testing.assert_close(LIF(R=2.0)(current), LIF()(2.0 * current))
    plain, waiting = (spike_steps(LIF(t_ref=t)(constant(1.5, 200))[0]).diff()[0].item() for t in (0.0, 4.0))
    assert waiting == plain + 4


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_sequence_in_two_pieces_is_the_whole_sequence(reset):
    neuron, current = LIF(tau=5.0, R=3.0, t_ref=4.0, reset=reset), torch.rand(40, 2, 3, dtype=torch.float64)
    spikes, v = neuron(current)
    cut = int(spikes.any(2).any(1).nonzero()[0]) + 2
    first, second_half = neuron(current[:cut], return_state=True), current[cut:]
    assert first[2][1].any(), "the cut falls into a refractory period"
    rest = neuron(second_half, first[2])
    assert torch.equal(torch.cat([first[0], rest[0]]), spikes) and torch.equal(torch.cat([first[1], rest[1]]), v)


def test_membrane_starts_at_rest():
    assert LIF(v_rest=-0.4)(constant(0.0, 3))[1].unique().item() == -0.4


def test_half_precision_input_has_a_single_precision_membrane():
    spikes, v = LIF()(constant(1.5, 30, torch.float16))
    assert spikes.dtype == torch.float16 and v.dtype == torch.float32
    torch.testing.assert_close(v, LIF()(constant(1.5, 30, torch.float32))[1])


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_numpy_variant_agrees(agree, reset):
    current = torch.rand(60, 2, 3, dtype=torch.float64) * 2
    constants = dict(tau=7.0, v_rest=-0.1, v_reset=-0.3, R=1.7, dt=0.5, t_ref=1.2)
    spikes, v = LIF(**constants, reset=reset)(current)
    found = numpy_variant.lif(current.numpy(), **constants, subtract=reset == "subtract")
    assert spikes.sum() > 10
    agree(found[0], spikes)
    agree(found[1], v, atol=1e-12)
    inputs = torch.linspace(0, 3, 7, dtype=torch.float64)
    agree(numpy_variant.firing_rate(inputs.numpy(), t_ref=2.0), firing_rate(inputs, t_ref=2.0), atol=1e-12)


@pytest.mark.interp
@pytest.mark.parametrize(
    "constants", [dict(t_ref=2.0, v_rest=-0.1, v_reset=-0.2), dict(reset="subtract", surrogate="atan")], ids=["zero", "subtract"]
)
def test_kernel_agrees(kernel_agrees, constants):
    current, neuron = torch.rand(25, 2, 3, dtype=torch.float64).requires_grad_(), LIF(tau=5.0, R=3.0, **constants)
    spikes, *_ = kernel_agrees("lif", lambda _: neuron(current, return_state=True), (current,), module=neuron, atol=1e-12)
    assert spikes.sum() > 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(tau=0.0), "tau=0.0 is not a positive time"),
        (dict(tau=math.inf), "tau=inf is not a positive time"),
        (dict(dt=-1.0), "dt=-1.0 is not a positive time"),
        (dict(dt=math.nan), "dt=nan"),
        (dict(t_ref=-1.0), "t_ref=-1.0 is not a time of zero or more"),
        (dict(t_ref=math.inf), "t_ref=inf"),
        (dict(v_reset=1.0), r"v_reset=1.0 is not below v_th=1.0"),
        (dict(reset="soft"), "reset='soft'; expected 'zero' or 'subtract'"),
        (dict(surrogate="sigmoid"), "surrogate='sigmoid'; expected 'fast_sigmoid' or 'atan'"),
        (dict(slope=0.0), "slope=0.0 is not positive"),
        (dict(slope=math.inf), "slope=inf"),
    ],
)
def test_bad_constants_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LIF(**arguments)


@pytest.mark.parametrize(
    ("current", "state", "error", "message"),
    [
        (torch.zeros(5, 2), None, ValueError, r"current has shape \(5, 2\); expected \(time, batch, neurons\)"),
        (torch.zeros(0, 2, 3), None, ValueError, r"current has shape \(0, 2, 3\); expected at least one time step"),
        (torch.zeros(5, 2, 3), (torch.zeros(3, 2), torch.zeros(2, 3).int()), ValueError, r"state\[0\] has shape \(3, 2\); expected \(batch=2, neurons=3\)"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 3), torch.zeros(3, 2).int()), ValueError, r"state\[1\] has shape \(3, 2\)"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 3), torch.zeros(2, 3)), TypeError, r"state\[1\] has dtype torch.float32"),
        (torch.zeros(5, 2, 3), (torch.zeros(2, 3).double(), torch.zeros(2, 3).int()), ValueError, r"state\[0\] has dtype torch.float64; expected torch.float32"),
    ],
)
def test_wrong_input_and_state_are_named(current, state, error, message):
    with pytest.raises(error, match=message):
        LIF()(current, state)


def test_rate_of_something_else_than_numbers_is_refused():
    with pytest.raises(TypeError, match="current has dtype torch.int64"):
        firing_rate(torch.tensor([1]))


def test_demo_is_silent_below_the_rheobase_and_counts_above_it():
    assert numpy_variant.show(current=0.9)[-1]["caption"].startswith("Silent: the membrane ends at 0.900")
    figures = numpy_variant.show(current=3.0, t_ref=10)
    simulated, closed = (np.array(figures[1]["series"][k], float) for k in ("simulated", "closed form"))
    expected = np.interp(simulated[:, 0], closed[:, 0], closed[:, 1])
    clear = simulated[:, 0] > 1.15
    assert (simulated[clear, 1] <= expected[clear] + 0.2).all() and (simulated[clear, 1] > 0.9 * expected[clear]).all()
