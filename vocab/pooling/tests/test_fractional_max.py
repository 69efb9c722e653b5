import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.pooling import fractional_max as numpy_variant
from vocab.pooling.fractional_max import FractionalMaxPool2d, pooling_sequence

D = torch.float64


def example():
    return FractionalMaxPool2d(2, output_ratio=0.6), (torch.randn(2, 2, 7, 6, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.fractional_max_pool2d with the same samples")
@pytest.mark.parametrize(("size", "out", "k"), [((10, 13), (6, 9), 2), ((9, 9), (5, 7), 3), ((7, 8), (1, 1), 2), ((5, 6), (5, 6), 1), ((6, 6), (5, 3), 2)])
def test_equals_torch_with_indices_and_gradients(size, out, k):
    x, u = torch.randn(2, 3, *size, dtype=D, requires_grad=True), torch.rand(2, 3, 2, dtype=D)
    y, where = FractionalMaxPool2d(k, output_size=out, random_samples=u, return_indices=True)(x)
    expected, there = F.fractional_max_pool2d(x, k, output_size=out, _random_samples=u, return_indices=True)
    assert torch.equal(y, expected) and torch.equal(where, there)
    grad = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad(v, x, grad)[0] for v in (y, expected)))


@pytest.mark.oracle("torch.nn.FractionalMaxPool2d")
@pytest.mark.parametrize("ratio", [0.5, 0.7, 0.93])
def test_a_ratio_gives_the_size_rounded_down(ratio):
    x, u = torch.randn(2, 3, 25, 30, dtype=D), torch.rand(2, 3, 2, dtype=D)
    theirs = nn.FractionalMaxPool2d(2, output_ratio=ratio, _random_samples=u)
    torch.testing.assert_close(FractionalMaxPool2d(output_ratio=ratio, random_samples=u)(x), theirs(x))
    assert FractionalMaxPool2d(output_ratio=ratio)(x).shape[2:] == (int(25 * ratio), int(30 * ratio))


def test_sequences_start_at_zero_end_at_the_end_and_step_by_one_or_two():
    u = torch.rand(200, dtype=D)
    for n_in in range(8, 40):
        for n_out in range(n_in // 2 + 1, n_in - 1):
            starts = pooling_sequence(n_in, n_out, 2, u)
            assert (starts[:, 0] == 0).all() and (starts[:, -1] == n_in - 2).all()
            assert set(starts.diff(dim=-1).unique().tolist()) <= {1, 2}


@pytest.mark.oracle("2×2 max pooling")
def test_erratum_half_of_an_even_size_is_ordinary_pooling_and_nothing_is_fractional():
    """A widely copied example has output_ratio=0.5, the one ratio in the usual range at which nothing is random."""
    x = torch.randn(2, 3, 12, 8, dtype=D)
    for _ in range(5):
        torch.testing.assert_close(FractionalMaxPool2d(2, output_ratio=0.5)(x), F.max_pool2d(x, 2))


def test_other_samples_give_other_steps_and_the_same_ones_repeat():
    x = torch.randn(1, 4, 20, 20, dtype=D)
    module = FractionalMaxPool2d(2, output_ratio=0.7)
    assert not torch.equal(module(x), module(x)), "also without a seed"
    assert not torch.equal(module.eval()(x), module.eval()(x)), "and in evaluation"
    fixed = FractionalMaxPool2d(2, output_ratio=0.7, random_samples=torch.rand(1, 4, 2, dtype=D))
    assert torch.equal(fixed(x), fixed(x)) and not fixed.state_dict()
    starts = pooling_sequence(20, 14, 2, torch.tensor([0.0, 0.5], dtype=D))
    assert (starts[0] != starts[1]).any()


def test_every_channel_and_axis_has_steps_of_its_own():
    ramp = torch.arange(20.0, dtype=D).expand(1, 2, 20, 20)
    u = torch.tensor([[[0.1, 0.6], [0.8, 0.3]]], dtype=D)
    y = FractionalMaxPool2d(2, output_size=14, random_samples=u)(ramp)
    for c in range(2):
        torch.testing.assert_close(y[0, c, 0], pooling_sequence(20, 14, 2, u[0, c, 0]).double() + 1)
    y = FractionalMaxPool2d(2, output_size=14, random_samples=u)(ramp.mT)
    torch.testing.assert_close(y[0, 0, :, 0], pooling_sequence(20, 14, 2, u[0, 0, 1]).double() + 1)


def test_every_output_is_the_number_at_its_index_and_no_smaller_than_its_neighbours():
    x = torch.randn(2, 3, 11, 9, dtype=D)
    y, where = FractionalMaxPool2d(2, output_ratio=0.8, return_indices=True)(x)
    torch.testing.assert_close(x.flatten(2).gather(2, where.flatten(2)).view_as(y), y)
    assert (y.amax((2, 3)) == x.amax((2, 3))).all(), "windows of two at steps of one or two leave nothing out"


def test_a_shift_of_the_input_is_no_shift_of_the_output():
    x = torch.randn(1, 1, 20, 20, dtype=D)
    fixed = FractionalMaxPool2d(2, output_ratio=0.7, random_samples=torch.tensor([[[0.3, 0.3]]], dtype=D))
    a, b = fixed(x), fixed(x.roll((3, 3), (2, 3)))
    assert all(not torch.equal(a.roll((s, s), (2, 3))[..., 4:-4, 4:-4], b[..., 4:-4, 4:-4]) for s in range(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "output_size=None and output_ratio=None: give exactly one of them"),
        (dict(output_size=3, output_ratio=0.5), "output_size=3 and output_ratio=0.5: give exactly one of them"),
        (dict(output_ratio=0.0), "output_ratio=0.0 is not between 0 and 1"),
        (dict(output_ratio=1.0), "output_ratio=1.0 is not between 0 and 1"),
        (dict(kernel_size=0, output_size=3), "kernel_size=0 is below 1"),
        (dict(output_size=3, random_samples=torch.zeros(2, 3)), r"random_samples has shape \(2, 3\); expected \(batch, channels, axes=2\)"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FractionalMaxPool2d(**arguments)


def test_wrong_inputs_are_named():
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\)"):
        FractionalMaxPool2d(output_ratio=0.7)(x[0])
    for shape in [(1, 3, 2), (2, 1, 2)]:
        with pytest.raises(ValueError, match=r"random_samples has shape .*; expected \(2, 3, 2\) for x of shape"):
            FractionalMaxPool2d(output_ratio=0.7, random_samples=torch.zeros(shape))(x)
    with pytest.raises(ValueError, match="n_out=8 windows of kernel_size=2 have 7 places in n_in=8"):
        FractionalMaxPool2d(output_size=8)(x)
    with pytest.raises(ValueError, match="n_out=0 windows"):
        FractionalMaxPool2d(output_ratio=0.1)(x)
    assert FractionalMaxPool2d(output_size=7)(x).shape == (2, 3, 7, 7)
    with pytest.raises(TypeError, match="u is a float"):
        pooling_sequence(8, 4, 2, 0.5)


@pytest.mark.parametrize(("out", "k"), [((6, 9), 2), ((5, 7), 3), ((1, 4), 2)])
def test_numpy_variant_agrees(agree, out, k):
    x, u = torch.randn(1, 1, 10, 13, dtype=D), torch.rand(1, 1, 2, dtype=D)
    ours = numpy_variant.fractional_max_pool(x[0, 0].numpy(), out, k, (u[0, 0, 1].item(), u[0, 0, 0].item()))
    agree(ours, FractionalMaxPool2d(k, output_size=out, random_samples=u)(x)[0, 0])


def test_demo_has_nothing_random_at_one_half_and_says_what_does_not_fit():
    assert np.array_equal(numpy_variant.show(ratio=0.5, u=0.1)[1]["values"], numpy_variant.show(ratio=0.5, u=0.9)[1]["values"])
    assert not np.array_equal(numpy_variant.show(u=0.1)[1]["values"], numpy_variant.show(u=0.9)[1]["values"])
    assert "6 layers from 64 to 1" in numpy_variant.show(ratio=0.5)[-1]["caption"]
    with pytest.raises(ValueError, match="15 windows of width 3 have only 14 places in 16"):
        numpy_variant.show(ratio=0.95, kernel=3)
