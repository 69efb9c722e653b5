import math

import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.adafactor import adafactor_step
from vocab.optimizers.adafactor import Adafactor, rank_one
from vocab.optimizers.tests.walks import assert_same_steps, layers, numbers_per_weight, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Adafactor(params, lr=0.02, relative_step=False, beta1=0.9)), ()


@pytest.mark.oracle("transformers.Adafactor")
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(warmup_init=True),
        dict(lr=0.02, relative_step=False, scale_parameter=False, beta1=0.9, weight_decay=0.1),
        dict(lr=0.02, relative_step=False, clip_threshold=0.5, decay_rate=-0.5, eps=(1e-3, 0.7)),
    ],
)
def test_equals_another_library_for_100_steps(options):
    theirs_class = pytest.importorskip("transformers").Adafactor
    ours, theirs = layers((5, 4), (3, 2, 6), (7,)), layers((5, 4), (3, 2, 6), (7,))
    assert_same_steps(Adafactor(ours, **options), theirs_class(theirs, **options), ours, theirs, rtol=1e-9)


@pytest.mark.oracle("torch.optim.Adafactor, whose lr caps the relative step")
def test_equals_torch_in_its_configuration():
    ours, theirs = layers((5, 4), (6, 3), (7,)), layers((5, 4), (6, 3), (7,))
    assert_same_steps(Adafactor(ours), torch.optim.Adafactor(theirs, lr=1e-2, weight_decay=0.0), ours, theirs, steps=150, rtol=1e-9)


@pytest.mark.oracle("identity: squared gradients of rank one are kept without loss")
def test_with_squared_gradients_of_rank_one_the_step_equals_the_unfactored_one():
    matrix, vector = Parameter(torch.zeros(5, 4, dtype=torch.float64)), Parameter(torch.zeros(20, dtype=torch.float64))
    options = dict(lr=0.1, relative_step=False, scale_parameter=False, clip_threshold=1e9)
    one, two = Adafactor([matrix], **options), Adafactor([vector], **options)
    torch.manual_seed(0)
    left, right = torch.rand(5, 1, dtype=torch.float64) + 0.1, torch.rand(1, 4, dtype=torch.float64) + 0.1
    for t in range(20):
        matrix.grad = left * right * torch.randn(5, 4).sign() * (1 + t % 3)
        vector.grad = matrix.grad.flatten()
        one.step()
        two.step()
        torch.testing.assert_close(matrix.detach().flatten(), vector.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("identity: sums of rows and columns of the reconstruction")
def test_the_reconstruction_keeps_all_sums_and_needs_the_division():
    """Erratum: the outer product of rows and columns alone is not the second moment, in no units."""
    true = torch.rand(6, 4, dtype=torch.float64) ** 3
    found = rank_one(true.mean(1), true.mean(0))
    torch.testing.assert_close(found.sum(1), true.sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.sum(0), true.sum(0), rtol=1e-12, atol=0)
    product = torch.outer(true.sum(1), true.sum(0))
    torch.testing.assert_close(found, product / true.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.outer(*[(9 * true).sum(i) for i in (1, 0)]), 81 * product, rtol=1e-12, atol=0)
    torch.testing.assert_close(rank_one(9 * true.mean(1), 9 * true.mean(0)), 9 * found, rtol=1e-12, atol=0)


@pytest.mark.oracle("the running mean worked out with all its weights")
def test_rows_and_columns_are_those_of_the_true_running_mean():
    (w,) = layers((5, 4))
    optimizer, squares = Adafactor([w], lr=0.0, relative_step=False, eps=(0.0, 1e-3)), []
    for t in range(12):
        take(optimizer, [w], t)
        squares.append(w.grad**2)
    mean = torch.zeros(5, 4, dtype=torch.float64)
    for t, square in enumerate(squares, 1):
        share = 1.0  # of step t in the end: what it enters with, times what later steps leave of it
        for later in range(t + 1, 13):
            share *= 1 - later**-0.8
        mean += t**-0.8 * share * square
    torch.testing.assert_close(optimizer.state[w]["rows"], mean.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(optimizer.state[w]["columns"], mean.mean(0), rtol=1e-12, atol=0)


def test_state_is_a_row_and_a_column_instead_of_a_matrix():
    """Erratum: Adam's second moment has one number per weight, not one per pair of weights."""
    params = layers((30, 20))
    factored, adam, with_mean = Adafactor(params), torch.optim.Adam(layers((30, 20))), Adafactor(layers((30, 20)), beta1=0.9)
    for optimizer in (factored, adam, with_mean):
        take(optimizer, optimizer.param_groups[0]["params"], 0)
    assert numbers_per_weight(factored, params[0]) == 50 / 600
    assert numbers_per_weight(adam, adam.param_groups[0]["params"][0]) == 2, "600 for the second moment"
    assert numbers_per_weight(with_mean, with_mean.param_groups[0]["params"][0]) == 1 + 50 / 600


@pytest.mark.oracle("closed form: the relative step")
def test_relative_steps_are_a_hundredth_of_the_weights_and_fall_from_step_10000():
    w = Parameter(torch.full((3, 3), 5.0, dtype=torch.float64))
    optimizer = Adafactor([w])
    for t, rate in ((1, 1e-2), (10_000, 1e-2), (40_000, 5e-3)):
        w.data.fill_(5.0)
        optimizer.state[w]["step"] = t - 1
        w.grad = torch.full_like(w, 7.0)
        optimizer.step()
        torch.testing.assert_close(w.data, torch.full_like(w, 5.0 - 5.0 * rate), rtol=1e-12, atol=0)


def test_warm_up_begins_at_a_millionth():
    w = Parameter(torch.ones(2, 2, dtype=torch.float64))
    optimizer = Adafactor([w], warmup_init=True)
    w.grad = torch.ones_like(w)
    optimizer.step()
    torch.testing.assert_close(1 - w.data, torch.full_like(w, 1e-6), rtol=1e-8, atol=0)


def test_tiny_weights_move_as_if_they_had_the_smallest_size():
    w = Parameter(torch.zeros(2, 2, dtype=torch.float64))
    w.grad = torch.ones_like(w)
    Adafactor([w], eps=(1e-30, 0.5)).step()
    torch.testing.assert_close(w.data, torch.full_like(w, -0.005), rtol=1e-12, atol=0)


def test_updates_are_cut_to_the_threshold():
    w = Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = Adafactor([w], lr=1.0, relative_step=False, scale_parameter=False, clip_threshold=0.25)
    w.grad = torch.tensor([1.0, -1.0, 1.0, 1.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(w.data, -0.25 * w.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_zero_gradients_in_half_precision_are_no_nan(dtype):
    w = Parameter(torch.ones(3, 3, dtype=dtype))
    w.grad = torch.zeros_like(w)
    Adafactor([w]).step()
    assert torch.equal(w.data, torch.ones(3, 3, dtype=dtype))
    assert rank_one(torch.ones(3), torch.ones(2)).dtype == torch.float32


def test_defaults_are_the_documented_ones():
    assert Adafactor(layers((2, 2))).defaults == dict(
        lr=None, eps=(1e-30, 1e-3), clip_threshold=1.0, decay_rate=-0.8, beta1=None, weight_decay=0.0, scale_parameter=True,
        relative_step=True, warmup_init=False, foreach=None, maximize=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=1e-3), "lr=0.001 with relative_step=True"),
        (dict(relative_step=False), "lr=None with relative_step=False"),
        (dict(lr=-1.0, relative_step=False), "lr=-1.0 with relative_step=False; expected a number of 0 or more"),
        (dict(lr=1e-3, relative_step=False, warmup_init=True), "warmup_init=True with relative_step=False"),
        (dict(eps=(-1.0, 1e-3)), r"eps=\(-1.0, 0.001\) are not both 0 or more"),
        (dict(clip_threshold=0.0), "clip_threshold=0.0 is not above 0"),
        (dict(decay_rate=0.0), "decay_rate=0.0 is not below 0"),
        (dict(decay_rate=0.8), "decay_rate=0.8 is not below 0"),
        (dict(beta1=1.0), r"beta1=1.0 is not in \[0, 1\)"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 is not 0 or more"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Adafactor(layers((2, 2)), **options)


def test_extreme_options_are_allowed():
    (w,) = layers((2, 2))
    before = w.detach().clone()
    take(Adafactor([w], lr=0.0, relative_step=False, eps=(0.0, 0.0), beta1=0.0), [w], 0)
    assert torch.equal(w.detach(), before) and math.isfinite(w.grad.sum())


@pytest.mark.parametrize("shape", [(5, 3), (6,)])
def test_numpy_variant_agrees(agree, shape):
    (w,) = layers(shape)
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(100, *shape, dtype=torch.float64)
    optimizer = Adafactor([w])
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = adafactor_step(found, g, state, t)
    agree(found, w)
