import itertools
import math

import numpy as np
import pytest
import torch

from snippets.ops import scan as loop_of_the_browser
from snippets.state_space.parallel_scan import blelloch, hillis_steele
from vocab.kernels.interpret import interpreting
from vocab.state_space.parallel_scan import associative_scan, compose, linear_scan

D = torch.float64
LENGTHS = [1, 2, 3, 5, 6, 7, 8, 13, 63, 64, 65, 1000]


def example():
    a, b = torch.rand(2, 3, 7, dtype=D), torch.randn(2, 3, 7, dtype=D)
    return linear_scan, (a, b, torch.randn(2, 3, dtype=D))


def loop(a, b, h, order=None):
    states = {}
    for t in order or range(a.shape[-1]):
        h = states[t] = a[..., t] * h + b[..., t]
    return torch.stack([states[t] for t in range(a.shape[-1])], -1)


def pairs(time, spread=1.0):
    return spread * torch.randn(2, 3, time, dtype=D), torch.randn(2, 3, time, dtype=D), torch.randn(2, 3, dtype=D)


@pytest.mark.oracle("a loop over time")
@pytest.mark.parametrize("time", LENGTHS)
def test_equals_the_loop_at_any_length(time):
    a, b, h0 = pairs(time, 0.7)
    torch.testing.assert_close(linear_scan(a, b, h0), loop(a, b, h0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(linear_scan(a, b), loop(a, b, 0 * h0), rtol=1e-12, atol=1e-12)
    backwards = loop(a, b, h0, range(time - 1, -1, -1))
    torch.testing.assert_close(linear_scan(a, b, h0, reverse=True), backwards, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("autograd through a loop over time")
@pytest.mark.parametrize("time", [1, 2, 7, 20])
def test_all_gradients_equal_those_of_the_loop(time):
    inputs = [x.requires_grad_() for x in pairs(time)]
    weight = torch.randn(2, 3, time, dtype=D)
    ours = torch.autograd.grad(linear_scan(*inputs), inputs, weight)
    torch.testing.assert_close(ours, torch.autograd.grad(loop(*inputs), inputs, weight), rtol=1e-10, atol=1e-10)


def test_the_gradient_of_a_scan_is_a_scan_in_reverse():
    a, b, h0 = (x.requires_grad_() for x in pairs(9))
    h, weight = linear_scan(a, b, h0), torch.randn(2, 3, 9, dtype=D)
    da, db, dh0 = torch.autograd.grad(h, (a, b, h0), weight)
    shifted = torch.cat([a[..., 1:], torch.zeros_like(a[..., :1])], -1)  # h_t reaches h_{t+1} through a_{t+1}
    g = linear_scan(shifted, weight, reverse=True)
    torch.testing.assert_close(db, g)
    torch.testing.assert_close(da, g * torch.cat([h0[..., None], h[..., :-1]], -1))
    torch.testing.assert_close(dh0, a[..., 0] * g[..., 0])


@pytest.mark.oracle("scipy.signal.lfilter")
def test_a_constant_decay_is_a_first_order_filter():
    signal = pytest.importorskip("scipy.signal")
    b = torch.randn(200, dtype=D)
    expected = signal.lfilter([1.0], [1.0, -0.93], b.numpy())
    np.testing.assert_allclose(linear_scan(torch.full_like(b, 0.93), b), expected, rtol=1e-10)


@pytest.mark.oracle("torch.cumsum and torch.cumprod")
def test_without_decay_it_is_a_sum_and_without_input_a_product():
    a, b, h0 = pairs(37)
    torch.testing.assert_close(linear_scan(torch.ones_like(a), b), b.cumsum(-1), rtol=1e-12, atol=1e-12)
    product = a.cumprod(-1) * h0[..., None]
    torch.testing.assert_close(linear_scan(a, torch.zeros_like(b), h0), product, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle("torch's associative_scan operator")
@pytest.mark.parametrize("time", [2, 7, 16])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_equals_the_operator_of_torch(time, axis):
    operators = pytest.importorskip("torch._higher_order_ops.associative_scan")
    a, b, _ = (x.movedim(-1, axis) for x in pairs(time))
    expected = operators.associative_scan(lambda x, y: compose(x, y), (a, b), dim=axis % 3, combine_mode="generic")
    torch.testing.assert_close(associative_scan(compose, (a, b), axis), tuple(expected))
    torch.testing.assert_close(linear_scan(a, b, axis=axis), expected[1])


def test_joining_steps_is_associative_and_has_an_order():
    steps = [(torch.randn(50, dtype=D), torch.randn(50, dtype=D)) for _ in range(3)]
    left = compose(compose(steps[0], steps[1]), steps[2])
    torch.testing.assert_close(left, compose(steps[0], compose(steps[1], steps[2])))
    h = torch.randn(50, dtype=D)
    end = h
    for a, b in steps:
        end = a * end + b
    torch.testing.assert_close(left[0] * h + left[1], end)
    assert not torch.allclose(compose(steps[0], steps[1])[1], compose(steps[1], steps[0])[1])


@pytest.mark.oracle("products of matrices, one after the other")
@pytest.mark.parametrize("time", LENGTHS[:-1])
def test_any_associative_operator_will_do_also_one_that_does_not_commute(time):
    turns = torch.linalg.qr(torch.randn(time, 3, 3, dtype=D))[0]
    expected = torch.stack(list(itertools.accumulate(turns, lambda x, y: y @ x)))
    (ours,) = associative_scan(lambda x, y: (y[0] @ x[0],), (turns,), 0)
    torch.testing.assert_close(ours, expected)
    x = torch.randn(4, time, dtype=D)
    torch.testing.assert_close(associative_scan(lambda x, y: (torch.maximum(x[0], y[0]),), (x,))[0], x.cummax(-1).values)


@pytest.mark.parametrize("time", [2, 8, 64, 1024])
def test_joins_are_fewer_than_two_a_step_and_rounds_grow_with_the_logarithm(time):
    joins = []

    def counted(x, y):
        joins.append(len(x[0]))
        return (x[0] + y[0],)

    (sums,) = associative_scan(counted, (torch.ones(time),))
    assert torch.equal(sums, torch.arange(1.0, time + 1))
    rounds = round(math.log2(time))
    assert sum(joins) == 2 * time - 2 - rounds and len(joins) == 2 * rounds - 1


def test_dividing_by_cumulative_products_underflows_and_joining_does_not():
    a, b = torch.full((400,), 0.1), torch.ones(400)
    products = a.cumprod(0)
    divided = products * (b / products).cumsum(0)  # the closed form as it is often written
    assert not divided.isfinite().all()
    torch.testing.assert_close(linear_scan(a, b)[-1].item(), 1 / 0.9, rtol=1e-6, atol=0)


def test_sixteen_bits_in_are_added_up_in_thirty_two():
    b = torch.ones(1000, dtype=torch.bfloat16)
    h = linear_scan(torch.ones_like(b), b)
    assert h.dtype == torch.bfloat16 and h[-1] == 1000
    naive = torch.zeros((), dtype=torch.bfloat16)
    for x in b:
        naive = naive + x
    assert naive == 256  # 256 + 1 is 256 in bfloat16
    assert linear_scan(b.float() * 0.5, b).dtype == torch.bfloat16 and linear_scan(b, b.float()).dtype == torch.float32


def test_another_order_of_joining_rounds_differently():
    a, b = torch.rand(4096), torch.randn(4096)
    ours, theirs = linear_scan(a, b), loop(a, b, torch.zeros(()))
    assert not torch.equal(ours, theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_numpy_variant_agrees(agree):
    for time in (1, 2, 6, 7, 12, 32, 100):
        a, b = torch.randn(time, 3, dtype=D), torch.randn(time, 3, dtype=D)
        h = linear_scan(a, b, axis=0)
        for tree in (hillis_steele, blelloch):
            rounds = tree(a.numpy(), b.numpy())
            agree(rounds[-1][1], h, atol=1e-10)
            agree(rounds[-1][0], a.cumprod(0), atol=1e-10)
        np.testing.assert_allclose(loop_of_the_browser(a.numpy(), b.numpy()), h, rtol=1e-9, atol=1e-9)
    assert len(hillis_steele(np.ones(32), np.ones(32))) - 1 == 5 and len(blelloch(np.ones(32), np.ones(32))) - 1 == 9


@pytest.mark.interp
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("start", [False, True])
def test_kernel_agrees(kernel_agrees, axis, reverse, start):
    a, b, h0 = pairs(9, 0.7)
    inputs = [a.movedim(-1, axis).requires_grad_(), b.movedim(-1, axis).requires_grad_(), *([h0.requires_grad_()] if start else [])]
    kernel_agrees("scan", lambda backend: linear_scan(*inputs, axis=axis, reverse=reverse, backend=backend), inputs, atol=1e-13)


@pytest.mark.interp
def test_kernel_takes_two_dtypes_and_answers_in_that_of_b():
    pytest.importorskip("triton")
    a, b = torch.rand(9), torch.randn(9).bfloat16()
    with interpreting():
        h = linear_scan(a, b, backend="triton")
    assert h.dtype == torch.bfloat16
    torch.testing.assert_close(h, linear_scan(a, b))


def test_wrong_shapes_and_axes_say_what_came_and_what_is_allowed():
    a = torch.ones(2, 3, 5)
    with pytest.raises(ValueError, match=r"b has shape \(2, 3, 4\), a has \(2, 3, 5\); they must be the same"):
        linear_scan(a, a[..., :4])
    with pytest.raises(ValueError, match=r"h0 has shape \(2, 5\); expected that of b without axis 2, \(2, 3\)"):
        linear_scan(a, a, a[:, 0])
    assert linear_scan(a, a, torch.ones(2, 5), axis=1).shape == (2, 3, 5)
    for axis in (3, -4):
        with pytest.raises(ValueError, match=rf"axis={axis} is none of the 3 axes of shape \(2, 3, 5\)"):
            linear_scan(a, a, axis=axis)
    with pytest.raises(ValueError, match=r"elems have lengths \[0, 0\] along axis 2; expected one length above 0"):
        linear_scan(a[..., :0], a[..., :0])
    with pytest.raises(ValueError, match=r"elems have lengths \[5, 4\] along axis -1"):
        associative_scan(compose, (a, a[..., :4]))
    with pytest.raises(ValueError, match="elems is empty"):
        associative_scan(compose, ())
    for name in ("a", "b", "h0"):
        with pytest.raises(TypeError, match=f"^{name} has dtype torch.int64"):
            linear_scan(**{"a": a, "b": a, "h0": a[..., 0], name: a.long()})
