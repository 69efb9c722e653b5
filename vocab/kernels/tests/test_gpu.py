"""The compiled kernels on a GPU, against float64 and against themselves."""

import pytest
import torch

from vocab.kernels import lif, nearest_row, rms_norm
from vocab.kernels.tests.harness import SPECS, relative, results

pytestmark = pytest.mark.gpu
NAMES = sorted(SPECS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=["fp32", "fp16", "bf16"])
# Sizes that together use every stored configuration, and rows or neurons that fill no block.
RMS = [(rows, columns) for columns in (1, 200, 500, 1000, 2000, 4096, 8191, 16_384) for rows in (1, 63, 300)]
LIF = [(1, 65), (63, 65), (17, 2**14 + 1), (9, 2**17 + 3)]
NEAREST = [(1, 1, 1), (63, 65, 3), (500, 1000, 128), (257, 129, 70)]


def free_memory_or_skip(gigabytes):
    if torch.cuda.mem_get_info()[0] < gigabytes * 2**30:
        pytest.skip(f"needs CUDA with {gigabytes} GiB free")


@DTYPES
@pytest.mark.parametrize(("rows", "columns"), RMS)
def test_rms_norm_is_at_most_twice_as_wrong_as_torch_in_the_same_dtype(rows, columns, dtype):
    spec = SPECS["rms_norm"]
    if columns > rms_norm.MOST_COLUMNS[dtype]:
        pytest.skip("needs CUDA registers that a row this wide does not fit in this dtype")
    inputs = spec.inputs({"rows": rows, "columns": columns}, dtype, "cuda")
    exact = results(spec, [x.detach().double().requires_grad_() for x in inputs], {}, "torch")
    kernel, plain = (results(spec, inputs, {}, backend) for backend in ("triton", "torch"))
    for i, (ours, theirs, truth) in enumerate(zip(kernel, plain, exact, strict=True)):
        allowed = (2 if i < 2 else 3) * relative(theirs.double(), truth) + torch.finfo(dtype).eps / 4
        assert relative(ours.double(), truth) <= allowed, i


@DTYPES
@pytest.mark.parametrize("variant", lif.SPEC.variants, ids=["zero", "subtract"])
@pytest.mark.parametrize(("steps", "neurons"), LIF)
def test_lif_takes_every_step_as_float64_would_from_where_it_stands(steps, neurons, variant, dtype):
    """Two roundings of one membrane may differ by a spike and then by everything, so each step is judged alone."""
    current, v0, wait = lif.SPEC.inputs({"steps": steps, "neurons": neurons}, dtype, "cuda")
    options = {"v_rest": 0.0, "v_th": 1.0, "v_reset": 0.0, "refractory": 0, "subtract": False, **lif.TAU_20, **variant}
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
    for ours, truth in zip(found, lif._backward_plain(*wide, *constants), strict=True):
        assert relative(ours.double(), truth) <= {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]


@DTYPES
@pytest.mark.parametrize(("inputs", "rows", "columns"), NEAREST)
def test_nearest_row_finds_the_smallest_distance(inputs, rows, columns, dtype):
    """Distances are compared, not indices: of two rows that close either is right."""
    x, table = nearest_row.SPEC.inputs({"inputs": inputs, "rows": rows, "columns": columns}, dtype, "cuda")
    index, squared = nearest_row.nearest_row(x, table, backend="triton")
    _, smallest = nearest_row.reference(x.double(), table.double())
    torch.testing.assert_close((x.double() - table[index].double()).square().sum(1), smallest, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(squared.double(), smallest, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_equal_to_the_bit(name):
    spec = SPECS[name]
    sizes = {"rows": 777, "columns": 5000, "steps": 33, "neurons": 3001, "inputs": 3001}
    inputs = spec.inputs({k: sizes[k] for k in spec.tails[0]}, torch.bfloat16, "cuda")
    for a, b in zip(*(results(spec, inputs, spec.variants[0], "triton") for _ in range(2)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_inductor_compiles_it_into_one_graph(name):
    spec = SPECS[name]
    torch._dynamo.reset()
    inputs = spec.inputs(spec.tails[1], torch.float32, "cuda")
    compiled = torch.compile(lambda *x: spec.run(*x, backend="triton"), fullgraph=True)
    for a, b in zip(compiled(*inputs), spec.run(*inputs, backend="triton"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_auto_takes_the_kernel_where_it_pays(name):
    from vocab.kernels.dispatch import watch

    spec = SPECS[name]
    large = next(iter(spec.shapes.values()))
    with watch() as seen, torch.no_grad():
        spec.run(*spec.inputs(large, torch.bfloat16, "cuda"))
    assert seen == [f"{name}:triton"]


def test_rms_norm_past_two_to_the_31_numbers():
    free_memory_or_skip(30)
    columns = 8192
    rows = 2**31 // columns + 3
    x = torch.ones(rows, columns, dtype=torch.bfloat16, device="cuda").requires_grad_()
    with torch.no_grad():
        x[-2:] = torch.arange(1, columns + 1, device="cuda") / columns
    y = rms_norm.rms_norm(x, backend="triton")
    torch.testing.assert_close(y[-2:], rms_norm.reference(x[-2:])[0])
    y.backward(torch.ones_like(y))
    last = x.detach()[-2:].clone().requires_grad_()
    rms_norm.reference(last)[0].backward(torch.ones_like(last))
    torch.testing.assert_close(x.grad[-2:], last.grad)


def test_lif_past_two_to_the_31_numbers():
    free_memory_or_skip(40)
    steps, neurons = 5, 2**29
    current = torch.zeros(steps, neurons, dtype=torch.float16, device="cuda")
    current[-1, -1] = 2.0
    state = torch.zeros(neurons, device="cuda"), torch.zeros(neurons, dtype=torch.int32, device="cuda")
    spikes, v, _ = lif.lif(current, *state, decay=0.5, gain=1.0, backend="triton")
    assert spikes.count_nonzero() == 1 and spikes[-1, -1] == 1 and v.count_nonzero() == 0


def test_nearest_row_past_two_to_the_31_numbers():
    free_memory_or_skip(20)
    columns = 64
    x = torch.zeros(2**31 // columns + 5, columns, dtype=torch.bfloat16, device="cuda")
    x[-1] = 1.0
    rows = torch.stack([torch.zeros(columns), torch.ones(columns)]).to(x)
    index, squared = nearest_row.nearest_row(x, rows, backend="triton")
    assert index[-1] == 1 and index.sum() == 1 and squared.max() == 0
