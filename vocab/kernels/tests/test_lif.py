import math

import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.lif import SPEC, lif, reference, surrogate_derivative

NO_WAIT = torch.zeros(1, dtype=torch.int32)


def run(current, v0=None, **options):
    v0 = torch.zeros(current.shape[1], dtype=current.dtype) if v0 is None else v0
    wait = torch.zeros(current.shape[1], dtype=torch.int32)
    return lif(current, v0, wait, **{"decay": 0.5, "gain": 1.0, **options})


def test_a_trace_worked_out_by_hand():
    current = torch.tensor([[0.75], [0.75], [0.25], [0.5], [1.5]], dtype=torch.float64)
    spikes, v, wait = run(current, refractory=1)
    # 0.75; 0.375 + 0.75 = 1.125 spikes, resets; held; 0 + 0.5; 0.25 + 1.5 spikes
    assert v[:, 0].tolist() == [0.75, 0.0, 0.0, 0.5, 0.0]
    assert spikes[:, 0].tolist() == [0, 1, 0, 0, 1] and wait.tolist() == [1]
    spikes, v, _ = run(current, subtract=True)
    assert v[:, 0].tolist() == [0.75, 0.125, 0.3125, 0.65625, 0.828125]
    assert spikes[:, 0].tolist() == [0, 1, 0, 0, 1]


def test_decays_to_rest_and_resets_where_it_was_told():
    _, v, _ = run(torch.zeros(3, 1, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64), v_rest=0.25)
    assert v[:, 0].tolist() == [0.375, 0.3125, 0.28125]
    _, v, _ = run(torch.full((1, 1), 2.0), v_reset=-0.75)
    assert v.item() == -0.75
    _, v, _ = run(torch.full((1, 1), 2.0), v_reset=-0.75, subtract=True)
    assert v.item() == 0.25


@pytest.mark.parametrize(
    ("surrogate", "slope", "area", "smooth"),
    [
        ("fast_sigmoid", 25.0, 2 / 25, lambda x: x / (1 + 25 * abs(x))),
        ("atan", 2.0, 1.0, lambda x: math.atan(math.pi * x) / math.pi),
    ],
)
def test_surrogate_is_the_derivative_of_the_smooth_step_it_is_named_after(surrogate, slope, area, smooth):
    for x in (-0.7, -0.01, 0.2):
        numerical = (smooth(x + 1e-6) - smooth(x - 1e-6)) / 2e-6
        assert surrogate_derivative(torch.tensor(x, dtype=torch.float64), surrogate, slope).item() == pytest.approx(numerical, rel=1e-6)
    x = torch.linspace(-2000, 2000, 8_000_001, dtype=torch.float64)
    assert torch.trapezoid(surrogate_derivative(x, surrogate, slope), x).item() == pytest.approx(area, rel=2e-3)


def test_operators_on_a_cpu_without_interpreter_agree_with_autograd():
    for variant in SPEC.variants:
        current, v0, wait = SPEC.inputs({"steps": 9, "neurons": 6}, torch.float64, "cpu")
        options = {"decay": 0.9, "gain": 0.5, "v_rest": 0.0, "v_th": 1.0, "v_reset": 0.0, "refractory": 0, "subtract": False,
                   "surrogate": "fast_sigmoid", "slope": 25.0, **variant}  # fmt: skip
        expected = reference(current, v0, wait, **options)
        surrogate, slope = options.pop("surrogate"), options.pop("slope")
        spikes, v, held, after = torch.ops.vocab.lif_forward(current, v0, wait, *options.values())
        torch.testing.assert_close((spikes, v, after), expected)
        gradients = torch.randn_like(spikes), torch.randn_like(v)
        decay, gain, rest, threshold = (options[k] for k in ("decay", "gain", "v_rest", "v_th"))
        saved = (current, v, v0, spikes, held, decay, gain, rest, threshold)
        found = torch.ops.vocab.lif_backward(*gradients, *saved, options["subtract"], surrogate == "atan", slope)
        torch.testing.assert_close(found, torch.autograd.grad(expected[:2], (current, v0), gradients))


@pytest.mark.interp
@pytest.mark.parametrize("variant", SPEC.variants, ids=["zero", "subtract"])
def test_gradcheck_of_the_membrane(variant):
    """Between spikes the membrane is a straight line in its inputs; spikes have no derivative to check."""
    current, v0, wait = SPEC.inputs({"steps": 6, "neurons": 3}, torch.float64, "cpu")
    with interpreting():
        torch.autograd.gradcheck(lambda i, v: SPEC.run(i, v, wait, **variant, backend="triton")[1], (current, v0))


@pytest.mark.interp
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_sequence_in_two_pieces_is_the_whole_sequence(backend):
    torch.manual_seed(5)
    current, wait = torch.rand(20, 5, dtype=torch.float64) * 1.5, torch.zeros(5, dtype=torch.int32)
    options = dict(decay=0.9, gain=0.5, refractory=3, backend=backend)
    with interpreting():
        spikes, v, end = lif(current, torch.zeros(5, dtype=torch.float64), wait, **options)
        first = lif(current[:7], torch.zeros(5, dtype=torch.float64), wait, **options)
        second = lif(current[7:], first[1][-1], first[2], **options)
    assert first[2].any(), "the cut falls into a refractory period"
    assert torch.equal(torch.cat([first[0], second[0]]), spikes) and torch.equal(torch.cat([first[1], second[1]]), v)
    assert torch.equal(second[2], end)


@pytest.mark.interp
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_a_nan_stays_in_its_neuron(backend):
    current = torch.full((4, 3), 0.3)
    current[1, 2] = torch.nan
    with interpreting():
        _, v, _ = run(current, backend=backend)
    assert v[1:, 2].isnan().all() and not v[:, :2].isnan().any()


@pytest.mark.interp
def test_a_membrane_in_half_precision_is_refused():
    with interpreting(), pytest.raises(RuntimeError, match="membrane has dtype torch.float16"):
        lif(torch.zeros(2, 1).half(), torch.zeros(1).half(), NO_WAIT, decay=0.5, gain=1.0, backend="triton")
