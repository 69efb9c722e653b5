import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.pooling import max as numpy_variant
from vocab.pooling.max import MaxPool2d, max_unpool2d, out_size, windows

D = torch.float64
SETTINGS = [
    dict(kernel_size=2),
    dict(kernel_size=3, stride=2),
    dict(kernel_size=3, stride=2, padding=1),
    dict(kernel_size=2, stride=3),
    dict(kernel_size=2, stride=1, dilation=2),
    dict(kernel_size=3, stride=2, padding=1, dilation=2),
    dict(kernel_size=2, stride=2, ceil_mode=True),
    dict(kernel_size=3, stride=3, padding=1, ceil_mode=True),
    dict(kernel_size=1, stride=2, ceil_mode=True),
]


def example():
    return MaxPool2d(3, stride=2, padding=1, return_indices=True), (torch.randn(2, 2, 5, 6, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.max_pool2d, with indices and gradients")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("size", [(7, 6), (8, 9)])
def test_equals_torch_max_pool_with_indices_and_gradients(settings, size):
    x = torch.randn(2, 3, *size, dtype=D, requires_grad=True)
    values, indices = MaxPool2d(**settings, return_indices=True)(x)
    expected, where = F.max_pool2d(x, **settings, return_indices=True)
    torch.testing.assert_close(values, expected, rtol=0, atol=0)
    assert torch.equal(indices, where)
    grad = torch.randn_like(values)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, grad, retain_graph=True)[0] for y in (values, expected)))
    torch.testing.assert_close(MaxPool2d(**settings)(x), nn.MaxPool2d(**settings)(x), rtol=0, atol=0)


@pytest.mark.oracle("scipy.ndimage.maximum_filter sampled at the stride")
@pytest.mark.parametrize(("k", "s"), [(3, 1), (3, 2), (5, 3)])
def test_equals_a_maximum_filter_sampled_at_the_stride(k, s):
    ndimage = pytest.importorskip("scipy.ndimage")
    x = torch.randn(1, 1, 11, 12, dtype=D)
    expected = ndimage.maximum_filter(x[0, 0].numpy(), k, mode="constant", cval=-np.inf)[::s, ::s]
    np.testing.assert_array_equal(MaxPool2d(k, s, padding=k // 2)(x)[0, 0], expected)


def test_gradient_flows_to_the_winner_alone_and_to_the_first_of_equals():
    x = torch.tensor([[1.0, 5.0, 5.0, 0.0], [5.0, 2.0, 0.0, 0.0]], dtype=D).view(1, 1, 2, 4).requires_grad_()
    MaxPool2d(2)(x).backward(torch.tensor([[[[3.0, 7.0]]]], dtype=D))
    assert x.grad.view(2, 4).tolist() == [[0, 3, 7, 0], [0, 0, 0, 0]]


def test_padding_never_wins():
    y = MaxPool2d(3, 2, padding=1)(torch.full((1, 1, 4, 4), -5.0))
    assert torch.equal(y, torch.full((1, 1, 2, 2), -5.0))


@pytest.mark.oracle("min(x) = -max(-x), and commuting with increasing functions")
def test_it_commutes_with_every_increasing_function_and_turns_into_a_minimum_under_a_sign():
    pool, x = MaxPool2d(3, 2), torch.randn(2, 3, 9, 8, dtype=D)
    torch.testing.assert_close(pool(x.exp()), pool(x).exp())
    torch.testing.assert_close(pool(x.relu()), pool(x).relu())
    torch.testing.assert_close(-pool(-x), windows(x, 3, 2).amin((-2, -1)))
    assert (pool(x.square()) - pool(x).square()).abs().max() > 0.1


@pytest.mark.oracle("torch.nn.functional.max_unpool2d")
@pytest.mark.parametrize("size", [(6, 8), (7, 9)])
def test_unpooling_puts_every_number_back_where_it_was(size):
    x = torch.randn(2, 3, *size, dtype=D)
    y, indices = MaxPool2d(2, return_indices=True)(x)
    back = max_unpool2d(y, indices, size)
    torch.testing.assert_close(back, F.max_unpool2d(y, indices, 2, output_size=size))
    assert torch.equal(back[back != 0], x[back != 0]) and (back != 0).sum() == y.numel()
    assert torch.equal(MaxPool2d(2)(back.abs()), y.abs())


def test_a_shift_inside_a_window_does_not_show_and_one_across_does():
    pool, x = MaxPool2d(2), torch.zeros(1, 1, 4, 8)
    x[..., 1, 2] = 1.0
    assert torch.equal(pool(x), pool(x.roll(1, -1))) and not torch.equal(pool(x), pool(x.roll(2, -1)))
    assert torch.equal(pool(x.roll(2, -1)), pool(x).roll(1, -1)), "whole strides commute"


def test_odd_sizes_lose_the_last_row_and_column_unless_ceil_mode_keeps_them():
    x = torch.zeros(1, 1, 5, 5)
    x[..., 4, 4] = 9.0
    assert MaxPool2d(2)(x).max() == 0 and MaxPool2d(2, ceil_mode=True)(x).max() == 9


@pytest.mark.oracle("torch.nn.functional.max_pool2d")
def test_number_of_windows_is_that_of_torch_for_all_small_settings():
    for n in range(1, 9):
        for k in range(1, 5):
            for s in range(1, 5):
                for p in range(k // 2 + 1):
                    for r in (1, 2):
                        for ceil_mode in (False, True):
                            if n + 2 * p <= r * (k - 1):
                                with pytest.raises(ValueError, match=f"x has a side of {n}, with padding {n + 2 * p}; a window spans {r * (k - 1) + 1}"):
                                    out_size(n, k, s, p, r, ceil_mode)
                                continue
                            expected = F.max_pool2d(torch.zeros(1, n, n), k, s, p, r, ceil_mode).shape[-1]
                            assert out_size(n, k, s, p, r, ceil_mode) == expected
                            assert windows(torch.zeros(1, 1, n, n), k, s, p, r, ceil_mode).shape == (1, 1, expected, expected, k, k)


def test_dilation_and_padding_are_off_by_default():
    assert out_size(7, 3, 2) == 3 and out_size(7, 2, 2) == 3
    x = torch.randn(1, 1, 7, 7)
    torch.testing.assert_close(windows(x, 3, 2).amax((-2, -1)), F.max_pool2d(x, 3, 2))


def test_windows_are_a_view_where_nothing_is_padded_and_are_filled_with_zero():
    x = torch.randn(1, 1, 4, 4)
    assert windows(x, 2, 2).data_ptr() == x.data_ptr()
    assert windows(1 + x.abs(), 3, 2, padding=1)[0, 0, 0, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kernel_size=0), "kernel_size=0 is below 1"),
        (dict(kernel_size=2, stride=0), "stride=0 is below 1"),
        (dict(kernel_size=2, dilation=0), "dilation=0 is below 1"),
        (dict(kernel_size=2, padding=-1), "padding=-1 is negative"),
        (dict(kernel_size=3, padding=2), "padding=2 is more than half of kernel_size=3"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        MaxPool2d(**arguments)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"x has shape \(3, 8, 8\); expected \(batch, channels, height, width\)"):
        MaxPool2d(2)(torch.zeros(3, 8, 8))
    with pytest.raises(TypeError, match="x is a list"):
        MaxPool2d(2)([1.0])
    y, indices = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"indices has shape \(1, 1, 2, 1\)"):
        max_unpool2d(y, indices[..., :1], (4, 4))
    with pytest.raises(TypeError, match="y has dtype torch.int64"):
        max_unpool2d(indices, indices, (4, 4))
    for bad in (-1, 16):
        with pytest.raises(ValueError, match=r"indices go from .* output_size=\(4, 4\) has 0 to 15"):
            max_unpool2d(y, torch.tensor([0, 1, 2, bad]).view(1, 1, 2, 2), (4, 4))
    assert max_unpool2d(y + 1, torch.tensor([0, 1, 2, 15]).view(1, 1, 2, 2), (4, 4)).sum() == 4
    assert max_unpool2d(y[:0], indices[:0], (4, 4)).shape == (0, 1, 4, 4)


def test_shown_with_its_settings():
    assert repr(MaxPool2d(3, 2, 1)) == "MaxPool2d(3, stride=2, padding=1, dilation=1)"


@pytest.mark.parametrize(("k", "s", "p"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_numpy_variant_agrees(agree, k, s, p):
    x = torch.randn(1, 1, 7, 8, dtype=D)
    agree(numpy_variant.max_pool(x[0, 0].numpy(), k, s, p), MaxPool2d(k, s, p)(x)[0, 0])


@pytest.mark.oracle("autograd")
def test_the_winners_of_the_demo_are_the_gradient(agree):
    x = torch.randn(1, 1, 8, 8, dtype=D, requires_grad=True)
    MaxPool2d(3, 2)(x).sum().backward()
    agree(numpy_variant.winners(x.detach()[0, 0].numpy(), 3, 2), x.grad[0, 0])


def test_demo_shows_jumps_between_windows_and_none_inside():
    change = [y for _, y in numpy_variant.show(kernel=2, stride=2)[2]["series"]["max"]]
    assert min(change) < 0.35 * max(change)
    with pytest.raises(ValueError, match="stride"):
        numpy_variant.max_pool(np.zeros((2, 2)), 3, 1)
