import pytest
import torch
from torch.nn import functional as F

from vocab.kernels.interpret import interpreting
from vocab.kernels.linear_cross_entropy import linear_cross_entropy, reference

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "the last chunk is left out": ("for start in range(0, len(hidden), chunk):", "for start in range(0, len(hidden) - chunk, chunk):"),
    "every chunk has the targets of the first": ("hidden[start : start + chunk], target[start : start + chunk]", "hidden[start : start + chunk], target[:chunk]"),
    "every chunk costs as the first": ("aims, loss[start:], log_z", "aims, loss, log_z"),
    "no bias": ("logits += bias", "logits += 0 * bias"),
    "the gradient of the last chunk only": ("sum_weight += logits.T @ part", "sum_weight.copy_(logits.T @ part)"),
    "no cap": ("ignore_index, 0.0, softcap)\n    constants", "ignore_index, 0.0, 2 * softcap)\n    constants"),
    "the gradient in other rows": ("out=dhidden[start : start + n]", "out=dhidden[:n]"),
    "the mean over all rows": ("return loss.sum() / count", "return loss.sum() / len(target)"),
    "the gradient of the sum": ("(upstream / count * g)", "(upstream * g)"),
    "what comes from behind is forgotten": ("(upstream / count * g)", "(1 / count * g)"),
}
SANITIZED = None  # its kernels are those of cross_entropy


def example(n=5, d=3, v=7):
    target = torch.randint(v, (n,))
    target[1] = -100
    return [torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((n, d), (v, d), (v,))], target


def test_reference_is_a_linear_layer_and_torchs_cross_entropy():
    (hidden, weight, bias), target = example()
    expected = F.cross_entropy(F.linear(hidden, weight, bias), target)
    torch.testing.assert_close(reference(hidden, weight, target, bias=bias), expected)
    capped = 2 * torch.tanh(F.linear(hidden, weight) / 2)
    torch.testing.assert_close(reference(hidden, weight, target, softcap=2.0), F.cross_entropy(capped, target))


def test_operator_on_a_cpu_without_interpreter_is_the_closed_form():
    (hidden, weight, bias), target = example()
    loss, *gradients = torch.ops.vocab.linear_cross_entropy(hidden, weight, bias, target, -100, 3.0, 2, False, True, True, True)
    expected = F.cross_entropy(3 * torch.tanh(F.linear(hidden, weight, bias) / 3), target, reduction="none")
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(tuple(gradients), torch.autograd.grad(expected.sum(), (hidden, weight, bias)))


@pytest.mark.interp
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_gradcheck(chunk):
    (hidden, weight, bias), target = example(3, 2, 4)
    with interpreting():
        torch.autograd.gradcheck(
            lambda h, w, b: linear_cross_entropy(h, w, target, bias=b, softcap=2.0, chunk=chunk, backend="triton"), (hidden, weight, bias)
        )


@pytest.mark.interp
def test_only_what_is_asked_for_is_made():
    (hidden, weight, bias), target = example()
    with interpreting():
        for wanted in (hidden, weight, bias):
            given = [x if x is wanted else x.detach() for x in (hidden, weight, bias)]
            loss = linear_cross_entropy(given[0], given[1], target, bias=given[2], chunk=2, backend="triton")
            expected = reference(hidden, weight, target, bias=bias)
            torch.testing.assert_close(torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted))
        given = (x.detach() for x in (hidden, weight, bias))
        found = torch.ops.vocab.linear_cross_entropy(*given, target, -100, 0.0, 2, False, False, True, False)
    assert [x.numel() for x in found] == [5, 0, weight.numel(), 0]


@pytest.mark.interp
def test_small_gradients_survive_half_precision():
    """A probability of 5e-6 divided by 64 rows is below what float16 can hold; the gradient of the sum is not."""
    hidden = torch.ones(64, 1, dtype=torch.float16)
    weight = torch.tensor([[12.0], [0.0]], dtype=torch.float16, requires_grad=True)
    with interpreting():
        loss = linear_cross_entropy(hidden, weight, torch.zeros(64, dtype=torch.int64), chunk=16, backend="triton")
        (gradient,) = torch.autograd.grad(2.0**10 * loss, weight)
    expected = 2.0**10 * torch.sigmoid(torch.tensor(-12.0, dtype=torch.float64))
    assert gradient[1].item() == pytest.approx(expected.item(), rel=0.02)


@pytest.mark.interp
def test_no_target_at_all_costs_nothing():
    (hidden, weight, _), target = example()
    with interpreting():
        loss = linear_cross_entropy(hidden, weight, torch.full_like(target, -100), chunk=2, backend="triton")
        gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss.item() == 0 and not any(g.any() for g in gradients)


@pytest.mark.interp
def test_two_dtypes_are_refused():
    with interpreting(), pytest.raises(RuntimeError, match="hidden has dtype torch.float32 and weight torch.float64"):
        linear_cross_entropy(torch.zeros(1, 2), torch.zeros(3, 2).double(), torch.zeros(1, dtype=torch.int64), backend="triton")


@pytest.mark.gpu
def test_the_logits_of_one_chunk_are_all_that_is_held():
    n, d, v = 8192, 64, 50_000
    hidden, weight = torch.randn(n, d, device="cuda", dtype=torch.bfloat16), torch.randn(v, d, device="cuda", dtype=torch.bfloat16)
    hidden.requires_grad_(), weight.requires_grad_()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    linear_cross_entropy(hidden, weight, torch.arange(n, device="cuda"), chunk=512, backend="triton").backward()
    # a chunk of logits, the gradient of the weights twice in float32 and a few times in bfloat16
    assert torch.cuda.max_memory_allocated() - before < 512 * v * 2 + 16 * v * d + 16 * n * d + 2**24 < n * v * 2
