import math

import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.lif import SPEC, TAU_20, _backward_plain, lif, reference, surrogate_derivative
from vocab.kernels.tests.harness import DTYPES, free_memory_or_skip, relative

NO_WAIT = torch.zeros(1, dtype=torch.int32)

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask": ("tl.load(v0 + cols, inside, other=0.0)\n    left", "tl.load(v0 + cols)\n    left"),
    "a store past the row": ("tl.store(v + step + cols, membrane, inside)", "tl.store(v + step + cols, membrane)"),
    "decay to zero instead of rest": ("before_reset = v_rest + decay * (membrane - v_rest) + gain * drive\n        fires", "before_reset = decay * membrane + gain * drive\n        fires"),
    "no gain": ("+ gain * drive\n        fires", "+ drive\n        fires"),
    "refractory one step too long": ("left = tl.where(fires, refractory,", "left = tl.where(fires, refractory + 1,"),
    "subtracts the threshold alone": ("before_reset - (v_th - v_reset), before_reset)", "before_reset - v_th - 0.01, before_reset)"),
    "spikes while it waits": ("fires = fires & (left == 0)", "fires = fires | (left < 0)"),
    "the membrane one step late": ("tl.load(v + step - M + cols, inside & (step > 0)", "tl.load(v + step + cols, inside & (step > 0)"),
    "the reset lets the gradient through": ("grad = tl.where(fired, 0.0, carried)", "grad = carried"),
    "no decay through time": ("carried = decay * grad\n        tl.store", "carried = grad\n        tl.store"),
    "held steps decay": ("tl.where(waiting, carried, decay * grad)", "decay * tl.where(waiting, carried, grad)"),
    "held steps take input": ("grad = tl.where(waiting, 0.0, grad)", "grad = tl.where(waiting, grad, grad)"),
    "fast sigmoid not squared": ("1.0 / (root * root)", "1.0 / root"),
    "arctangent without its half": ("slope * 0.5 /", "slope /"),
    "one step too few": ("for _ in tl.range(T, num_stages=STAGES):\n        if dv", "for _ in tl.range(T - 1, num_stages=STAGES):\n        if dv"),
}
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("both", "tl.load(wait0 + cols, inside, other=0)", "tl.load(wait0 + cols)")


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


@pytest.mark.gpu
@DTYPES
@pytest.mark.parametrize("variant", SPEC.variants, ids=["zero", "subtract"])
@pytest.mark.parametrize("sizes", SPEC.gpu)
def test_takes_every_step_as_float64_would_from_where_it_stands(sizes, variant, dtype):
    """Two roundings of one membrane may differ by a spike and then by everything, so each step is judged alone."""
    current, v0, wait = SPEC.inputs(sizes, dtype, "cuda")
    options = {"v_rest": 0.0, "v_th": 1.0, "v_reset": 0.0, "refractory": 0, "subtract": False, **TAU_20, **variant}
    surrogate, slope = options.pop("surrogate", "fast_sigmoid"), options.pop("slope", 25.0)
    order = ("decay", "gain", "v_rest", "v_th", "v_reset", "refractory", "subtract")
    spikes, v, held, _ = torch.ops.vocab.lif_forward(current.detach(), v0.detach(), wait, *(options[k] for k in order))
    before = torch.cat([v0.detach()[None], v[:-1]]).double()
    free = options["v_rest"] + options["decay"] * (before - options["v_rest"]) + options["gain"] * current.detach().double()
    waiting = held.bool() if held.numel() else torch.zeros_like(free, dtype=torch.bool)
    clear = (free - options["v_th"]).abs() > 1e-5
    assert torch.equal((spikes > 0)[clear], ((free >= options["v_th"]) & ~waiting)[clear])
    after = free - (options["v_th"] - options["v_reset"]) if options["subtract"] else torch.full_like(free, options["v_reset"])
    expected = torch.where(waiting, before, torch.where(spikes > 0, after, free))
    torch.testing.assert_close(v.double(), expected, rtol=1e-5, atol=1e-5)

    torch.manual_seed(1)
    gradients = [torch.randn(spikes.shape).to(spikes), torch.randn(v.shape).to(v)]
    saved = (current.detach(), v, v0.detach(), spikes, held)
    constants = (*(options[k] for k in order[:4]), options["subtract"], surrogate == "atan", slope)
    found = torch.ops.vocab.lif_backward(*gradients, *saved, *constants)
    wide = [x.double() if x.is_floating_point() else x for x in (*gradients, *saved)]
    for ours, truth in zip(found, _backward_plain(*wide, *constants), strict=True):
        assert relative(ours.double(), truth) <= {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(40)
    steps, neurons = 5, 2**29
    current = torch.zeros(steps, neurons, dtype=torch.float16, device="cuda")
    current[-1, -1] = 2.0
    state = torch.zeros(neurons, device="cuda"), torch.zeros(neurons, dtype=torch.int32, device="cuda")
    spikes, v, _ = lif(current, *state, decay=0.5, gain=1.0, backend="triton")
    assert spikes.count_nonzero() == 1 and spikes[-1, -1] == 1 and v.count_nonzero() == 0
