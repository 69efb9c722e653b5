import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snippets.losses.fused_linear_cross_entropy import chunked, numbers_held, running_logsumexp
from vocab.losses.fused_linear_cross_entropy import linear_cross_entropy

N, D, V = 11, 4, 7
draw = torch.Generator().manual_seed(1)
HIDDEN, WEIGHT, BIAS = (torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in ((N, D), (V, D), (V,)))
TARGET = torch.tensor([0, 6, 2, -100, 3, 3, 1, 5, -100, 4, 6])


def example():
    """For the contract suite: a small instance and its inputs."""
    return lambda hidden, weight, target: linear_cross_entropy(hidden, weight, target, chunk=2), (
        torch.randn(5, 3).double(), torch.randn(4, 3).double(), torch.tensor([0, 3, -100, 1, 2]))


def gradients(function, *inputs, factor=1.0):
    inputs = [x.detach().clone().requires_grad_() for x in inputs]
    value = function(*inputs)
    return (value, *torch.autograd.grad(factor * value, inputs))


class Sizes(TorchDispatchMode):
    """Records how many numbers the largest tensor has that any operation makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.largest = max([self.largest] + [x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor)])
        return result


@pytest.mark.oracle("F.cross_entropy(F.linear(hidden, weight, bias), target)")
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 11, 1024])
@pytest.mark.parametrize("ignore_index", [-100, 3])
def test_value_and_gradients_equal_the_two_steps(chunk, ignore_index):
    target = torch.where(TARGET == -100, ignore_index, TARGET)
    got = gradients(lambda h, w, b: linear_cross_entropy(h, w, target, bias=b, ignore_index=ignore_index, chunk=chunk), HIDDEN, WEIGHT, BIAS)
    expected = gradients(lambda h, w, b: F.cross_entropy(F.linear(h, w, b), target, ignore_index=ignore_index), HIDDEN, WEIGHT, BIAS)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.oracle("torch.nn.LinearCrossEntropyLoss")
def test_equals_pytorchs_fused_loss():
    head = getattr(torch.nn, "LinearCrossEntropyLoss", None)
    if head is None:
        pytest.skip("this PyTorch has none")
    head = head(D, V, bias=True, ignore_index=-100, dtype=torch.float64)
    theirs = head(HIDDEN, TARGET)
    weight, bias = sorted(head.parameters(), key=lambda p: -p.ndim)
    got = gradients(lambda w, b: linear_cross_entropy(HIDDEN, w, TARGET, bias=b, chunk=4), weight, bias)
    torch.testing.assert_close(got, (theirs, *torch.autograd.grad(theirs, (weight, bias))))


def test_a_factor_behind_the_loss_scales_the_stored_gradients():
    fused = lambda h, w: linear_cross_entropy(h, w, TARGET, chunk=3)  # noqa: E731
    once, scaled = gradients(fused, HIDDEN, WEIGHT), gradients(fused, HIDDEN, WEIGHT, factor=-2.5)
    for a, b in zip(once[1:], scaled[1:]):
        torch.testing.assert_close(-2.5 * a, b)


def test_bfloat16_is_as_good_as_the_two_steps():
    h, w = (torch.randn(300, 16, generator=draw), torch.randn(50, 16, generator=draw))
    target = torch.arange(300) % 50
    exact = gradients(lambda h, w: F.cross_entropy(F.linear(h, w), target), h.bfloat16().double(), w.bfloat16().double())
    fused = gradients(lambda h, w: linear_cross_entropy(h, w, target, chunk=1), h.bfloat16(), w.bfloat16())
    assert fused[0].dtype == torch.float32 and fused[1].dtype == fused[2].dtype == torch.bfloat16
    for got, wanted in zip(fused, exact):
        error = (got.double() - wanted).norm() / wanted.norm()
        assert error < 6e-3  # a rounding of bfloat16 is at most 4e-3


def test_a_sum_over_chunks_in_16_bits_loses_what_it_adds():
    """Why the gradient of the weights is summed in 32 bits."""
    parts = torch.full((4096,), 1 / 4096).bfloat16()
    narrow = torch.zeros((), dtype=torch.bfloat16)
    for part in parts:
        narrow += part
    assert narrow.item() == 0.0625  # one sixteenth of the sum, which is 1
    h = torch.ones(4096, 1, dtype=torch.bfloat16)
    w = torch.zeros(2, 1, dtype=torch.bfloat16)
    grad = gradients(lambda w: linear_cross_entropy(h, w, torch.zeros(4096).long(), chunk=1), w)[1]
    torch.testing.assert_close(grad, torch.tensor([[-0.5], [0.5]], dtype=torch.bfloat16))


@pytest.mark.oracle("size of every tensor that is made, forward and backward")
def test_no_tensor_is_larger_than_the_logits_of_a_chunk_or_the_weights():
    n, d, v = 64, 3, 200
    h, w, target = torch.randn(n, d), torch.randn(v, d), torch.arange(n)

    def largest(function):
        with Sizes() as sizes:
            gradients(function, h, w)
        return sizes.largest

    assert largest(lambda h, w: F.cross_entropy(F.linear(h, w), target)) == n * v
    assert largest(lambda h, w: linear_cross_entropy(h, w, target, chunk=16)) == 16 * v
    assert largest(lambda h, w: linear_cross_entropy(h, w, target, chunk=1)) == v * d
    assert largest(lambda h, w: linear_cross_entropy(h, w, target)) == n * v  # the default chunk is 1,024 tokens


def test_only_what_is_asked_for_gets_a_gradient():
    h = HIDDEN.clone().requires_grad_()
    linear_cross_entropy(h, WEIGHT, TARGET, bias=BIAS, chunk=4).backward()
    reference = gradients(lambda h: F.cross_entropy(F.linear(h, WEIGHT, BIAS), TARGET), HIDDEN)[1]
    torch.testing.assert_close(h.grad, reference)
    b = BIAS.clone().requires_grad_()
    linear_cross_entropy(HIDDEN, WEIGHT, TARGET, bias=b, chunk=4).backward()
    torch.testing.assert_close(b.grad, gradients(lambda b: F.cross_entropy(F.linear(HIDDEN, WEIGHT, b), TARGET), BIAS)[1])
    w = WEIGHT.clone().requires_grad_()
    linear_cross_entropy(HIDDEN, w, TARGET, bias=BIAS, chunk=4).backward()
    torch.testing.assert_close(w.grad, gradients(lambda w: F.cross_entropy(F.linear(HIDDEN, w, BIAS), TARGET), WEIGHT)[1])
    with torch.no_grad():
        assert not linear_cross_entropy(h, WEIGHT, TARGET).requires_grad


def test_there_is_no_second_derivative_and_it_says_so():
    h = HIDDEN.clone().requires_grad_()
    with pytest.raises(RuntimeError, match="linear_cross_entropy has no second derivative"):
        torch.autograd.grad(linear_cross_entropy(h, WEIGHT, TARGET), h, create_graph=True)


def test_a_small_gradient_survives_half_precision():
    """Of 64 rows each pulls with 6e-6, below what float16 holds once it is divided by 64; a loss scale of 1,024 cannot bring it back."""
    h, w = torch.ones(64, 1, dtype=torch.float16), torch.tensor([[12.0], [0.0]], dtype=torch.float16)
    _, grad = gradients(lambda w: linear_cross_entropy(h, w, torch.zeros(64).long(), chunk=16), w, factor=2.0**10)
    assert grad[1].item() == pytest.approx(2**10 / (1 + math.exp(12)), rel=0.02)


@pytest.mark.interp
@pytest.mark.parametrize("chunk", [2, 1024])
def test_kernel_agrees(chunk, kernel_agrees):
    h, w, b = (x.clone().requires_grad_() for x in (HIDDEN, WEIGHT, BIAS))
    kernel_agrees("linear_cross_entropy", lambda backend: -2.5 * linear_cross_entropy(h, w, TARGET, bias=b, chunk=chunk, backend=backend), (h, w, b))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_logits_of_ten_thousand(dtype):
    h = torch.tensor([[1e4], [1e4]], dtype=dtype, requires_grad=True)
    value = linear_cross_entropy(h, torch.tensor([[1.0], [-1.0]], dtype=dtype), torch.tensor([0, 1]), chunk=1)
    value.backward()
    assert value.item() == pytest.approx(1e4, rel=1e-3)
    torch.testing.assert_close(h.grad, torch.tensor([[0.0], [1.0]], dtype=dtype))


def test_nothing_to_learn_from_costs_nothing():
    value, *grads = gradients(lambda h, w: linear_cross_entropy(h, w, torch.full((N,), -100), chunk=4), HIDDEN, WEIGHT)
    assert value.item() == 0 and all(torch.equal(g, torch.zeros_like(g)) for g in grads)
    assert linear_cross_entropy(HIDDEN[:0], WEIGHT, TARGET[:0]).item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(weight=WEIGHT[:, :3]), r"weight has shape \(7, 3\); expected \(vocabulary, dim=4\)"),
        (dict(hidden=HIDDEN[None]), r"hidden has shape \(1, 11, 4\); expected \(tokens, dim\)"),
        (dict(target=TARGET[:3]), r"target has shape \(3,\); expected \(11,\)"),
        (dict(target=TARGET + 1), "target holds 7; expected 0 to 6, or -100 for none"),
        (dict(bias=BIAS[:3]), r"bias has shape \(3,\); expected \(vocabulary=7\)"),
        (dict(chunk=0), "chunk=0 is below 1"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {**dict(hidden=HIDDEN, weight=WEIGHT, target=TARGET.clamp(min=0)), **change}
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(arguments.pop("hidden"), arguments.pop("weight"), arguments.pop("target"), **arguments)


def test_numpy_variant_agrees(agree):
    target = TARGET.clamp(min=0)
    value, for_hidden, for_weight = gradients(lambda h, w: linear_cross_entropy(h, w, target, chunk=4), HIDDEN, WEIGHT)
    for chunk in (1, 3, 11):
        loss, grad_hidden, grad_weight = chunked(HIDDEN.numpy(), WEIGHT.numpy(), target.numpy(), chunk)
        agree(loss, value)
        agree(grad_hidden, for_hidden)
        agree(grad_weight, for_weight)
    agree(running_logsumexp(HIDDEN.numpy(), WEIGHT.numpy(), 3)[-1], (HIDDEN @ WEIGHT.T).logsumexp(1))
    held = numbers_held(8192, 128_000, chunk=1024, block=512)
    assert held["all logits"] * 4 / 2 == pytest.approx(4.2e9, rel=2e-3)  # 8,192 x 128,000 of 32 bits, and as much for the gradient
    assert held["all logits"] / held["chunk of tokens"] == 16 and held["block of both"] == 512 * 512
    assert math.log2(held["all logits"]) == pytest.approx(math.log2(2 * 8192 * 128_000))
