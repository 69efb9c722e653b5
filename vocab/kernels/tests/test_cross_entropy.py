import pytest
import torch
from torch.nn import functional as F

from vocab.kernels.cross_entropy import cross_entropy, reference
from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import free_memory_or_skip

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "a dropped mask": ("tl.load(logits + cols, cols < C, other=float(\"-inf\"))", "tl.load(logits + cols)"),
    "classes beyond the last": ("x = tl.where(cols < C, _capped(x, cap, ACC), float(\"-inf\"))", "x = _capped(x, cap, ACC)"),
    "a store past the row": ("tl.store(dlogits + row * C + cols, result.to(dlogits.dtype.element_ty), inside)", "tl.store(dlogits + row * C + cols, result.to(dlogits.dtype.element_ty))"),
    "the sum is not carried to the new maximum": ("total * tl.exp(highest - base) +", "total +"),
    "one step too few": ("tl.range(0, C, BLOCK, num_stages=STAGES)", "tl.range(0, C - BLOCK, BLOCK, num_stages=STAGES)"),
    "the truth is not capped": ("wanted = _capped(wanted, cap, ACC)", "wanted = wanted"),
    "ignored rows cost": ("tl.store(loss + row, tl.where(kept, cost, 0.0))", "tl.store(loss + row, cost)"),
    "ignored rows learn": ("tl.where(truth == ignore_index, 0.0, tl.load(dloss + row))", "tl.load(dloss + row)"),
    "smoothing by the block": ("plain / C)", "plain / BLOCK)"),
    "smoothing adds to the target": ("(1.0 - share) * cost + share", "cost + share"),
    "no smoothing on the way back": (" - share / C)", ")"),
    "the whole target on the way back": ("tl.where(cols == truth, 1.0 - share, 0.0)", "tl.where(cols == truth, 1.0, 0.0)"),
    "the normalizer's gradient left out": ("result += tl.load(dlog_z + row) * probability", "result += 0.0 * probability"),
    "the cap's slope left out": ("result *= 1.0 - ratio * ratio", "result *= 1.0"),
    "rows too close": ("logits + row * stride + cols, inside", "logits + row * (stride - 1) + cols, inside"),
}
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("both", "logits + row * stride + cols, inside, other=0.0", "logits + row * stride + cols")


def example(n=5, classes=7, dtype=torch.float64):
    target = torch.randint(classes, (n,))
    target[1] = -100
    return torch.randn(n, classes, dtype=dtype, requires_grad=True), target


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_reference_is_torchs_cross_entropy_and_logsumexp(smoothing):
    logits, target = example()
    loss, log_z = reference(logits, target, label_smoothing=smoothing)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing))
    torch.testing.assert_close(log_z, torch.logsumexp(logits, 1))
    capped = 2 * torch.tanh(logits / 2)
    torch.testing.assert_close(reference(logits, target, softcap=2.0)[0], F.cross_entropy(capped, target, reduction="none"))


def test_operators_on_a_cpu_without_interpreter_are_the_closed_form():
    logits, target = example()
    options = (-100, 0.2, 3.0)
    found = torch.ops.vocab.cross_entropy_forward(logits, target, *options)
    expected = reference(logits, target, label_smoothing=0.2, softcap=3.0)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(2, 5, dtype=torch.float64).unbind()
    gradient = torch.ops.vocab.cross_entropy_backward(*upstream, logits, target, found[1], *options)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits, upstream)[0])


@pytest.mark.interp
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"softcap": 2.0}, {"label_smoothing": 1.0, "softcap": 0.5}], ids=str)
def test_gradcheck(options):
    logits, target = example()
    with interpreting():
        torch.autograd.gradcheck(lambda x: cross_entropy(x, target, **options, backend="triton"), logits)


@pytest.mark.interp
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_extreme_logits_stay_exact(dtype):
    """The loss of a sure hit is 0, that of a sure miss the distance; neither overflows."""
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    with interpreting():
        loss, log_z = cross_entropy(logits, torch.tensor([0, 1]), backend="triton")
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert loss.tolist() == [0.0, 2e4] and log_z.tolist() == [1e4, 1e4]
    assert gradient.tolist() == [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]


@pytest.mark.interp
def test_a_large_logit_far_before_the_others_is_remembered():
    logits = torch.zeros(1, 9000)
    logits[0, 3] = 500.0
    with interpreting():
        loss, log_z = cross_entropy(logits, torch.tensor([8999]), backend="triton")
    assert loss.item() == log_z.item() == 500.0


@pytest.mark.interp
def test_impossible_classes_and_rows_without_any_possible_class():
    logits = torch.tensor([[0.0, -torch.inf, 0.0], [-torch.inf] * 3, [torch.inf, 0.0, 0.0], [torch.nan, 0.0, 0.0]])
    target = torch.zeros(4, dtype=torch.int64)
    with interpreting():
        loss, log_z = cross_entropy(logits, target, backend="triton")
    torch.testing.assert_close(log_z, torch.logsumexp(logits, 1), equal_nan=True)
    assert loss[0] == log_z[0] and loss[3].isnan()


@pytest.mark.interp
def test_rows_of_a_padded_vocabulary_need_no_copy():
    padded = torch.randn(4, 80, dtype=torch.float64)
    padded[:, 65:] = torch.nan
    target = torch.randint(65, (4,))
    with interpreting():
        loss, _ = cross_entropy(padded[:, :65], target, backend="triton")
    torch.testing.assert_close(loss, F.cross_entropy(padded[:, :65], target, reduction="none"))


def test_z_loss_of_the_normalizer_is_that_of_the_logits():
    logits, target = example()
    loss, log_z = cross_entropy(logits, target)
    (found,) = torch.autograd.grad((loss + 0.1 * log_z.square()).sum(), logits)
    probability = logits.softmax(1)
    expected = 0.2 * torch.logsumexp(logits, 1, keepdim=True) * probability
    kept = target != -100
    expected[kept] += probability[kept] - F.one_hot(target[kept], 7)
    torch.testing.assert_close(found, expected)


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(20)
    classes = 131_072
    rows = 2**31 // classes + 3
    logits = torch.zeros(rows, classes, dtype=torch.bfloat16, device="cuda").requires_grad_()
    with torch.no_grad():
        logits[-1, -1] = 20.0
    target = torch.full((rows,), classes - 1, device="cuda")
    loss, _ = cross_entropy(logits, target, backend="triton")
    expected, _ = reference(logits[-2:], target[-2:])
    torch.testing.assert_close(loss[-2:], expected)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[-2:], torch.autograd.grad(expected.sum(), logits)[0][-2:])
