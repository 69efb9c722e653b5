import math

import pytest
import torch
from torch.nn import functional as F

from snippets.losses.z_loss import log_z, z_push
from vocab.losses.cross_entropy import CrossEntropy
from vocab.losses.z_loss import z_loss

LOGITS = 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TARGET = torch.tensor([0, 6, 2, 3, 1])


def example():
    """For the contract suite: a small instance and its inputs."""
    return z_loss, (torch.randn(3, 4).double(), 0.01, torch.tensor([True, True, False]))


@pytest.mark.oracle("closed form of the gradient: 2 coef logZ softmax / N")
def test_gradient_is_the_closed_form_and_that_of_finite_differences():
    z = LOGITS.clone().requires_grad_()
    z_loss(z, 0.3).backward()
    e = LOGITS.exp()
    total = e.sum(1, keepdim=True)
    torch.testing.assert_close(z.grad, 2 * 0.3 * total.log() * e / total / 5)
    moved = LOGITS.clone()
    moved[2, 3] += 1e-6
    assert (z_loss(moved, 0.3) - z_loss(LOGITS, 0.3)).item() / 1e-6 == pytest.approx(z.grad[2, 3].item(), rel=1e-4)


@pytest.mark.oracle("gradient of cross-entropy with lse_square_scale, as fused kernels write it")
def test_with_cross_entropy_it_is_the_gradient_of_fused_kernels():
    """Such a kernel stores softmax (1 + 2 scale lse) - onehot, over N."""
    z, scale = LOGITS.clone().requires_grad_(), 0.05
    (CrossEntropy()(z, TARGET) + z_loss(z, scale)).backward()
    lse = LOGITS.logsumexp(1, keepdim=True)
    expected = (F.softmax(LOGITS, 1) * (1 + 2 * scale * lse) - F.one_hot(TARGET, 7)) / 5
    torch.testing.assert_close(z.grad, expected)


def test_removes_the_constant_that_cross_entropy_leaves_free():
    shifts = torch.linspace(-30, 30, 601, dtype=torch.float64)
    centered = LOGITS - LOGITS.logsumexp(1, keepdim=True)
    entropies = torch.stack([CrossEntropy()(centered + s, TARGET) for s in shifts])
    torch.testing.assert_close(entropies, entropies[0].expand(601), rtol=1e-12, atol=0)
    penalties = torch.stack([z_loss(centered + s, 1.0) for s in shifts])
    assert shifts[penalties.argmin()].item() == pytest.approx(0, abs=1e-9)
    torch.testing.assert_close(penalties, shifts.square(), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("value of equal logits: the square of ln V")
def test_equal_logits():
    assert z_loss(torch.zeros(3, 50_257).double(), 1e-4).item() == pytest.approx(1e-4 * math.log(50_257) ** 2)
    assert z_loss(torch.full((3, 8), -math.log(8)).double(), 1.0).item() == pytest.approx(0, abs=1e-12)
    assert z_loss(LOGITS).item() == pytest.approx(z_loss(LOGITS, 1.0).item() * 1e-4)  # the default is PaLM's


def test_equals_the_routers_penalty_of_the_sparse_layer():
    torch.testing.assert_close(z_loss(LOGITS.view(5, 1, 7), 1.0), LOGITS.exp().sum(-1).log().pow(2).mean())


def test_padding_does_not_count_whatever_it_holds():
    padded = torch.cat([LOGITS, torch.full((2, 7), math.inf).double()])
    mask = torch.tensor([True] * 5 + [False] * 2)
    torch.testing.assert_close(z_loss(padded, 0.1, mask), z_loss(LOGITS, 0.1))
    z = LOGITS.clone().requires_grad_()
    z_loss(z, 0.1, torch.tensor([True, False, False, True, False])).backward()
    assert torch.equal(z.grad[[1, 2, 4]], torch.zeros(3, 7).double()) and (z.grad[[0, 3]] != 0).all()


def test_nothing_to_count_costs_nothing():
    assert z_loss(LOGITS, 1.0, torch.zeros(5, dtype=torch.bool)).item() == 0 == z_loss(LOGITS[:0]).item()
    assert z_loss(LOGITS, 0.0).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_of_ten_thousand(dtype):
    z = torch.tensor([[1e4, -1e4], [-1e4, -1e4]], dtype=dtype, requires_grad=True)
    value = z_loss(z, 1e-4)
    value.backward()
    assert value.item() == pytest.approx(1e4, rel=0.01) and value.dtype == torch.float32
    torch.testing.assert_close(z.grad, torch.tensor([[1, 0], [-0.5, -0.5]], dtype=dtype), rtol=0.01, atol=0)


def test_bfloat16_cannot_tell_two_logits_apart_far_from_zero():
    """Between 64 and 128 its numbers are 0.5 apart, so ratios of probabilities come in steps of 1.65."""
    near = torch.tensor([0.0, 0.2]).bfloat16().float()
    far = torch.tensor([100.0, 100.2]).bfloat16().float()
    assert F.softmax(near, 0)[1].item() == pytest.approx(torch.sigmoid(torch.tensor(0.2)).item(), abs=1e-3)
    assert far[0] == far[1]
    assert torch.tensor(100.3).bfloat16().item() == 100.5


def test_second_derivatives():
    assert torch.autograd.gradgradcheck(lambda z: z_loss(z, 0.1, TARGET > 1), (LOGITS.clone().requires_grad_(),))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((LOGITS, -1e-4), ValueError, "coef=-0.0001 is not 0 or more"),
        ((LOGITS, math.nan), ValueError, "coef=nan"),
        ((LOGITS.sum(), 1.0), ValueError, r"logits has shape \(\); expected \(\.\.\., vocabulary\)"),
        ((LOGITS, 1.0, torch.ones(4, dtype=torch.bool)), ValueError, r"mask has shape \(4,\); expected that of the rows of logits, \(5,\)"),
        ((LOGITS, 1.0, torch.ones(5)), TypeError, "mask has dtype torch.float32; expected torch.bool"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        z_loss(*arguments)


def test_numpy_variant_agrees(agree):
    z = LOGITS.clone().requires_grad_()
    value = z_loss(z, 0.02)
    agree(0.02 * (log_z(LOGITS.numpy()) ** 2).mean(), value)
    agree(z_push(LOGITS.numpy(), 0.02) / 5, torch.autograd.grad(value, z)[0])
