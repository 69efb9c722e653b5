import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.regularization import gradient_clipping as numpy_clipping
from vocab.regularization.gradient_clipping import clip_grad_norm_, clip_grad_value_, total_norm


def parameters(scale=1.0, dtype=torch.float64):
    """Three with gradients, one without."""
    torch.manual_seed(4)
    found = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in ((3, 2), (4,), (), (5,))]
    for p in found[:-1]:
        p.grad = torch.randn_like(p) * scale
    return found


def vector(params):
    return torch.cat([p.grad.flatten() for p in params if p.grad is not None])


@pytest.mark.oracle("torch.nn.utils.clip_grad_norm_")
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 1.0, 100.0, math.inf])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_norms_equal_torch(norm_type, max_norm, dtype):
    ours, theirs = parameters(3.0, dtype), parameters(3.0, dtype)
    norm = clip_grad_norm_(ours, max_norm, norm_type)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, 1e9 if max_norm == math.inf else max_norm, norm_type))
    torch.testing.assert_close(vector(ours), vector(theirs), rtol=1e-12 if dtype == torch.float64 else 1e-6, atol=0)
    assert ours[-1].grad is None


@pytest.mark.oracle("torch.nn.utils.clip_grad_value_")
@pytest.mark.parametrize("value", [0.0, 0.3, 10.0])
def test_values_equal_torch(value):
    ours, theirs = parameters(), parameters()
    clip_grad_value_(ours, value)
    nn.utils.clip_grad_value_(theirs, value)
    assert torch.equal(vector(ours), vector(theirs)) and ours[-1].grad is None


@pytest.mark.parametrize("max_norm", [0.5, 2.0, 1000.0])
def test_the_norm_is_cut_and_the_direction_stays(max_norm):
    params = parameters(10.0)
    before = vector(params)
    norm = clip_grad_norm_(params, max_norm)
    after = vector(params)
    assert norm.item() == pytest.approx(before.square().sum().sqrt().item(), rel=1e-12)
    assert after.norm().item() == pytest.approx(min(norm.item(), max_norm), rel=1e-6)
    assert torch.cosine_similarity(before, after, dim=0).item() == pytest.approx(1, abs=1e-12)
    clip_grad_norm_(params, max_norm)  # the second call finds nothing to do
    torch.testing.assert_close(vector(params), after, rtol=5e-6, atol=0)


def test_clipping_by_value_turns_the_gradient():
    w = nn.Parameter(torch.zeros(2))
    w.grad = torch.tensor([10.0, 1.0])
    clip_grad_value_(w, 1.0)
    assert torch.equal(w.grad, torch.ones(2))
    assert torch.cosine_similarity(w.grad, torch.tensor([10.0, 1.0]), dim=0).item() == pytest.approx(11 / math.sqrt(202))


def test_clipping_tensor_by_tensor_turns_the_gradient_too():
    params = parameters(10.0)
    before = vector(params)
    for p in params[:-1]:
        clip_grad_norm_(p, 1.0)
    assert torch.cosine_similarity(before, vector(params), dim=0) < 0.99


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_norms_of_shards_give_the_norm_of_the_whole(norm_type):
    whole = torch.randn(40, dtype=torch.float64)
    shards = [total_norm([shard], norm_type) for shard in whole.split(13)]
    torch.testing.assert_close(total_norm(shards, norm_type), torch.linalg.vector_norm(whole, norm_type), rtol=1e-12, atol=0)
    if norm_type == 2:
        assert math.sqrt(sum(s.item() ** 2 for s in shards)) == pytest.approx(whole.norm().item(), rel=1e-12)


def test_a_large_half_precision_norm_is_not_infinite():
    p = nn.Parameter(torch.zeros(4, dtype=torch.float16))
    p.grad = torch.full((4,), 60000.0, dtype=torch.float16)
    norm = clip_grad_norm_(p, 1.0)
    assert norm.item() == 120_000 and norm.dtype == torch.float32
    torch.testing.assert_close(p.grad, torch.full((4,), 0.5, dtype=torch.float16))


def test_mixed_dtypes_keep_the_best():
    params = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    for p, g in zip(params, (3.0, 4.0)):
        p.grad = torch.full_like(p, g)
    norm = clip_grad_norm_(params, 1.0)
    assert norm.dtype == torch.float64 and norm.item() == 5
    assert [p.grad.dtype for p in params] == [torch.float32, torch.float64]
    assert params[1].grad.item() == pytest.approx(0.8, rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_one_bad_number_spoils_all_gradients_or_raises(bad):
    params = parameters()
    params[0].grad[0, 0] = bad
    kept = vector(params)
    with pytest.raises(RuntimeError, match=f"the gradients have the norm {bad}"):
        clip_grad_norm_(params, 1.0, error_if_nonfinite=True)
    torch.testing.assert_close(vector(params), kept, equal_nan=True, rtol=0, atol=0)
    clip_grad_norm_(params, 1.0)
    after = vector(params)
    assert after.isnan().all() if math.isnan(bad) else (after[0].isnan() and (after[1:] == 0).all())


def test_erratum_a_spike_in_a_feed_forward_network_is_clipped_as_well():
    """Erratum: it is not for recurrent networks only; one mislabeled batch is a spike for any model."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).double()
    x = torch.randn(16, 4).double()
    sizes = []
    for target in (0.0, 1000.0):
        model.zero_grad()
        (model(x) - target).square().mean().backward()
        norm = clip_grad_norm_(model.parameters(), 1.0).item()
        sizes.append((norm, total_norm(p.grad for p in model.parameters()).item()))
    (usual, kept), (spike, cut) = sizes
    assert spike > 100 * usual and cut == pytest.approx(1, rel=1e-6) and kept == pytest.approx(min(usual, 1), rel=1e-5)


def test_clipping_before_unscaling_clips_what_needed_none():
    """With a loss scale of 1024 the norm seen is 1024 times too large."""
    params = parameters(0.01)
    wanted = vector(params)
    for p in params[:-1]:
        p.grad *= 1024
    clip_grad_norm_(params, 1.0)
    assert (vector(params) / 1024).norm() == pytest.approx(1 / 1024, rel=1e-6)
    assert wanted.norm() > 10 / 1024


def test_no_gradients_have_norm_zero():
    assert clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0).item() == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: clip_grad_norm_(p, -1.0), "max_norm=-1.0 is not 0 or more"),
        (lambda p: clip_grad_norm_(p, math.nan), "max_norm=nan"),
        (lambda p: clip_grad_norm_(p, 1.0, 0.0), "norm_type=0.0 is not above 0"),
        (lambda p: clip_grad_value_(p, -0.5), "clip_value=-0.5 is not 0 or more"),
        (lambda p: clip_grad_norm_([], 1.0), "params is empty"),
    ],
)
def test_bad_options_say_which_and_why(call, message):
    with pytest.raises(ValueError, match=message):
        call(parameters())


def test_gradients_must_be_floats():
    with pytest.raises(TypeError, match=r"tensors\[0\] has dtype torch.int64"):
        total_norm([torch.zeros(1).long()])


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_numpy_variant_agrees(agree, max_norm):
    params = parameters(2.0)
    gradients = [p.grad.numpy().copy() for p in params[:-1]]
    norm = clip_grad_norm_(params, max_norm)
    clipped, size = numpy_clipping.clip_by_norm(gradients, max_norm)
    agree(size, norm)
    agree(np.concatenate([g.ravel() for g in clipped]), vector(params))
    values = parameters(2.0)
    clip_grad_value_(values, 0.7)
    agree(np.concatenate([g.ravel() for g in numpy_clipping.clip_by_value(gradients, 0.7)]), vector(values))
