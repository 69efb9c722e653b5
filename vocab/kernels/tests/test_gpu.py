"""The compiled kernels on a GPU, against float64 and against themselves: what holds for all of them."""

import pytest
import torch

from vocab.kernels.tests.harness import DTYPES, SPECS, outputs, relative, results, unless_refused

pytestmark = pytest.mark.gpu
NAMES = sorted(SPECS)
SMOOTH = [(name, sizes) for name in NAMES if SPECS[name].smooth for sizes in SPECS[name].gpu]


@DTYPES
@pytest.mark.parametrize(("name", "sizes"), SMOOTH)
def test_at_most_twice_as_wrong_as_torch_in_the_same_dtype(name, sizes, dtype):
    """Three times for gradients, which are sums of more terms."""
    spec, compared = SPECS[name], 0
    for variant in spec.variants:
        inputs = spec.inputs(sizes, dtype, "cuda")
        wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in inputs]
        kernel = None
        with unless_refused():
            kernel = results(spec, inputs, variant, "triton")
        if kernel is None:
            continue
        compared += 1
        exact = results(spec, wide, variant, "torch")
        plain = results(spec, inputs, variant, "torch")
        forward = len(outputs(spec, inputs, **variant, backend="torch"))
        for i, (ours, theirs, truth) in enumerate(zip(kernel, plain, exact, strict=True)):
            if not truth.is_floating_point():
                assert torch.equal(ours, truth), i
                continue
            allowed = (2 if i < forward else 3) * relative(theirs.double(), truth) + torch.finfo(dtype).eps / 4
            assert relative(ours.double(), truth) <= allowed, (i, variant)
    if not compared:
        pytest.skip("needs CUDA registers or shared memory that this size and dtype do not fit")


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_equal_to_the_bit(name):
    spec = SPECS[name]
    inputs = spec.inputs(spec.gpu[-1], torch.bfloat16, "cuda")
    for a, b in zip(*(results(spec, inputs, spec.variants[0], "triton") for _ in range(2)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_inductor_compiles_it_into_one_graph(name):
    spec = SPECS[name]
    torch._dynamo.reset()
    inputs = spec.inputs(spec.tails[1], torch.float32, "cuda")
    compiled = torch.compile(lambda *x: outputs(spec, x, backend="triton"), fullgraph=True)
    for a, b in zip(compiled(*inputs), outputs(spec, inputs, backend="triton"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_auto_takes_the_kernel_where_it_pays(name):
    from vocab.kernels.dispatch import watch

    spec = SPECS[name]
    large = next(iter(spec.shapes.values()))
    with watch() as seen, torch.no_grad():
        spec.run(*spec.inputs(large, torch.bfloat16, "cuda"))
    assert seen and set(seen) == {f"{name}:triton"}
