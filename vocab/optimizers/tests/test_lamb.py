import math

import numpy as np
import pytest
import torch
from torch.nn import Parameter

from snippets.optimizers.lamb import lamb_step
from vocab.optimizers.lamb import LAMB
from vocab.optimizers.tests.walks import assert_kernel_agrees, assert_same_steps, layers, take


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: LAMB(params, lr=0.02)), ()


@pytest.mark.oracle("torch.optim.AdamW, where the trust ratio is held at 1")
def test_with_the_ratio_limited_to_one_and_large_weights_it_is_adamw():
    ours, theirs = layers((5, 4), (3, 2, 6), scale=100.0), layers((5, 4), (3, 2, 6), scale=100.0)
    options = dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.001)
    assert_same_steps(LAMB(ours, max_trust_ratio=1.0, **options), torch.optim.AdamW(theirs, **options), ours, theirs)


@pytest.mark.oracle("torch.optim.Adam, for biases and gains")
def test_tensors_of_one_dimension_or_none_get_plain_adam():
    ours, theirs = layers((7,), ()), layers((7,), ())
    options = dict(lr=0.05, betas=(0.8, 0.95), eps=1e-3)
    assert_same_steps(LAMB(ours, weight_decay=0.5, **options), torch.optim.Adam(theirs, **options), ours, theirs)


@pytest.mark.oracle("torch.optim.Adam's direction, rescaled by hand")
@pytest.mark.parametrize("maximize", [False, True])
def test_is_adams_direction_plus_decay_at_the_length_of_the_weights(maximize):
    (w,), (twin,) = layers((6, 3)), layers((6, 3))
    lr, decay = 0.03, 0.2
    ours = LAMB([w], lr=lr, betas=(0.7, 0.9), eps=1e-4, weight_decay=decay, maximize=maximize)
    adam = torch.optim.Adam([twin], lr=1.0, betas=(0.7, 0.9), eps=1e-4, maximize=maximize)
    for t in range(15):
        before = w.detach().clone()
        twin.data.copy_(before)
        take(adam, [twin], t)
        direction = before - twin.detach() + decay * before
        take(ours, [w], t)
        expected = before - lr * before.norm() / direction.norm() * direction
        torch.testing.assert_close(w.detach(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle("pytorch_optimizer.Lamb (no bias correction, eps 0)")
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_bias_correction_it_equals_another_library(decay):
    Lamb = pytest.importorskip("pytorch_optimizer").Lamb
    ours, theirs = layers((5, 4), (3, 3), (6,)), layers((5, 4), (3, 3), (6,))
    options = dict(lr=0.02, betas=(0.8, 0.95), eps=0.0, weight_decay=decay)
    one = LAMB(ours, bias_correction=False, exclude_1d=False, **options)
    two = Lamb(theirs, weight_decouple=False, adam_debias=True, foreach=False, **options)
    assert_same_steps(one, two, ours, theirs, rtol=1e-11)


def test_clamp_of_ten_in_a_library_bounds_the_weight_norm_and_no_gradient():
    """Erratum: the clamp is taken for gradient clipping."""
    Lamb = pytest.importorskip("pytorch_optimizer").Lamb

    def moved(scale, clamp):
        (w,) = layers((8, 8), scale=scale)
        before = w.detach().clone()
        optimizer = Lamb([w], lr=0.01, weight_decay=0.0, foreach=False)
        optimizer.clamp = clamp
        w.grad = torch.full_like(w, 1e6)
        optimizer.step()
        return ((w - before).norm() / before.norm()).item()

    assert moved(1.0, 10.0) == pytest.approx(moved(1.0, math.inf)), "norm 8 and a huge gradient: nothing is clipped"
    assert moved(100.0, 10.0) < 0.02 * moved(100.0, math.inf), "norm 800: the step is 80 times shorter"


@pytest.mark.oracle("identity: length of the update is lr times the norm of the weights")
def test_every_layer_moves_by_lr_of_its_norm_and_neither_norm_is_clipped():
    """Erratum: the paper's phi acts on the weights' norm alone; the norm of the update is never bounded."""
    params = layers((4, 3), (2, 2, 2), (50, 40))
    params[0].data *= 1e4
    params[1].data *= 1e-4
    optimizer = LAMB(params, lr=0.07, weight_decay=0.3)
    for t in range(6):
        before = [p.detach().clone() for p in params]
        take(optimizer, params, t)
        for p, b in zip(params, before):
            assert (p - b).norm().item() == pytest.approx(0.07 * b.norm().item(), rel=1e-12)


@pytest.mark.oracle("invariance: a gradient times a constant changes nothing (eps = 0)")
def test_path_does_not_depend_on_the_gradients_scale():
    ours, theirs = layers((5, 4), (3, 3)), layers((5, 4), (3, 3))
    one, two = (LAMB(p, lr=0.02, eps=0.0, weight_decay=0.1) for p in (ours, theirs))
    for t in range(15):
        torch.manual_seed(t)
        for a, b, factor in zip(ours, theirs, (1e-5, 1e5)):  # another constant in each layer
            a.grad = torch.randn_like(a)
            b.grad = a.grad * factor
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)


def test_without_decay_bias_correction_cancels_and_with_decay_it_does_not():
    for decay in (0.0, 0.5):
        ours, theirs = layers((5, 4)), layers((5, 4))
        for params, correct in ((ours, True), (theirs, False)):
            optimizer = LAMB(params, lr=0.02, eps=0.0, weight_decay=decay, bias_correction=correct)
            for t in range(5):
                torch.manual_seed(t)
                params[0].grad = torch.randn_like(params[0])
                optimizer.step()
        assert torch.allclose(ours[0], theirs[0], rtol=1e-12, atol=1e-12) is (decay == 0)


def test_a_flattened_model_is_one_layer():
    """Pitfall: wrappers that join parameters change what the ratio is taken over."""
    first, second = layers((4, 3), (4, 3))
    second.data *= 100
    flat = Parameter(torch.stack([first, second]).detach().clone())
    gradient = torch.randn_like(flat)
    first.grad, second.grad, flat.grad = gradient[0].clone(), gradient[1].clone(), gradient
    before = flat.detach().clone()
    LAMB([first, second], lr=0.01, weight_decay=0.0).step()
    LAMB([flat], lr=0.01, weight_decay=0.0).step()
    moved = [((p.detach() - before[0]).norm() / before[0].norm()).item() for p in (first, flat[0])]
    assert moved[0] == pytest.approx(0.01)
    assert moved[1] > 0.5, "the small layer is thrown about by the large one's norm"


def test_state_is_exactly_adams():
    """Erratum: statistics of layers need no memory."""
    ours, theirs = layers((5, 4), (6,)), layers((5, 4), (6,))
    one, two = LAMB(ours), torch.optim.Adam(theirs)
    take(one, ours, 0)
    take(two, theirs, 0)
    for p, q in zip(ours, theirs):
        buffers = [sorted(tuple(x.shape) for x in o.state[w].values() if isinstance(x, torch.Tensor) and x.numel() > 1)
                   for o, w in ((one, p), (two, q))]
        assert buffers[0] == buffers[1] == [tuple(p.shape)] * 2
        assert len(one.state[p]) == 3, "two buffers and the number of the step"


@pytest.mark.oracle("published learning rates of BERT-Large")
def test_published_learning_rates_follow_the_square_root_of_the_batch():
    """Erratum: 0.00176 belongs to batch 4096, not to 65536; a linear rule would move layers by a quarter of their norm."""
    rate = {batch: 0.005 * math.sqrt(batch / 32768) for batch in (512, 4096, 32768)}
    assert rate[4096] == pytest.approx(0.00176, abs=1e-5)
    assert rate[512] == pytest.approx(0.000625)
    (w,) = layers((4, 4))
    before = w.detach().clone()
    take(LAMB([w], lr=0.256), [w], 0)
    assert ((w - before).norm() / before.norm()).item() == pytest.approx(0.256)


def test_the_limit_holds_only_above_it():
    (small,), (large,) = layers((3, 3), scale=0.01), layers((3, 3), scale=100.0)
    for w, limit, length in ((small, 10.0, None), (large, 2.0, 2.0)):
        before = w.detach().clone()
        w.grad = torch.ones_like(w)
        LAMB([w], lr=0.1, weight_decay=0.0, eps=0.0, max_trust_ratio=limit).step()
        # the first direction of Adam is a sign, so its norm is 3 for nine weights
        expected = 0.1 * before.norm().item() if length is None else 0.1 * length * 3
        assert (w - before).norm().item() == pytest.approx(expected, rel=1e-9)


def test_weights_that_are_zero_can_move_and_zero_gradients_do_nothing():
    zero, still = Parameter(torch.zeros(2, 2)), Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LAMB([zero, still], lr=0.1, weight_decay=0.0).step()
    torch.testing.assert_close(zero.data, torch.full((2, 2), -0.1))
    assert torch.equal(still.data, torch.ones(2, 2))


def test_exclusion_can_be_switched_off_and_decays_then():
    (w,) = layers((5,))
    before = w.detach().clone()
    w.grad = torch.zeros_like(w)
    LAMB([w], lr=0.1, weight_decay=0.5, exclude_1d=False).step()
    torch.testing.assert_close(w.detach(), 0.9 * before, msg="only the decay is left as a direction, at the length of w")


def test_each_group_has_its_own_options():
    slow, fast = layers((3, 3), (3, 3))
    before = [slow.detach().clone(), fast.detach().clone()]
    optimizer = LAMB([{"params": [slow]}, {"params": [fast], "lr": 0.5, "weight_decay": 0.0}], lr=0.1)
    take(optimizer, [slow, fast], 0)
    assert [((p - b).norm() / b.norm()).item() for p, b in zip((slow, fast), before)] == pytest.approx([0.1, 0.5])
    optimizer.add_param_group({"params": layers((2, 2))})
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0, 0.01]


def test_closure_runs_with_gradients_and_its_loss_comes_back():
    (w,) = layers((2, 2))
    optimizer, before = LAMB([w], lr=0.1), w.detach().clone()
    assert optimizer.step() is None, "without gradients nothing moves"
    assert torch.equal(w, before)

    def closure():
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(before.square().sum().item())
    assert not torch.equal(w, before) and w.requires_grad and w.is_leaf


def test_defaults_are_the_papers():
    options = LAMB(layers((2, 2))).defaults
    assert options == dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01, bias_correction=True,
                           max_trust_ratio=None, exclude_1d=True, foreach=None, maximize=False, backend="auto")


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    LAMB([w]).step()
    assert w.isnan().all()


def test_sparse_gradients_are_refused_before_anything_moves():
    embedding, (other,) = torch.nn.Embedding(4, 2, sparse=True), layers((2, 2))
    embedding(torch.tensor([1])).sum().backward()
    before, other.grad = other.detach().clone(), torch.ones_like(other)
    with pytest.raises(RuntimeError, match="sparse=False"):
        LAMB([other, embedding.weight]).step()
    assert torch.equal(other, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(lr=math.nan), "lr=nan"),
        (dict(eps=-1e-8), "eps=-1e-08 is not 0 or more"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 is not 0 or more"),
        (dict(betas=(1.0, 0.9)), r"betas=\(1.0, 0.9\) are not all in \[0, 1\)"),
        (dict(betas=(0.9, 1.0)), "betas"),
        (dict(betas=(-0.1, 0.9)), "betas"),
        (dict(max_trust_ratio=0.0), "max_trust_ratio=0.0 is not above 0; None means no limit"),
    ],
)
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        LAMB(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        LAMB([{"params": layers((2, 2)), **options}])


def test_extreme_options_are_allowed():
    params = layers((2, 2))
    take(LAMB(params, lr=0.0, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0), params, 0)
    assert torch.equal(params[0], layers((2, 2))[0])


@pytest.mark.parametrize("rescale", [True, False])
def test_numpy_variant_agrees(agree, rescale):
    (w,) = layers((5, 3), scale=1.0 if rescale else 1000.0)
    start, state, gradients = w.detach().numpy().copy(), {}, torch.randn(25, 5, 3, dtype=torch.float64)
    optimizer = LAMB([w], lr=0.03, weight_decay=0.1, max_trust_ratio=None if rescale else 1.0)
    for g in gradients:
        w.grad = g.clone()
        optimizer.step()
    found = start
    for t, g in enumerate(gradients.numpy(), 1):
        found = lamb_step(found, g, state, t, lr=0.03, weight_decay=0.1, rescale=rescale)
    agree(found, w)
    assert np.abs(found - start).max() > 0.1


@pytest.mark.interp
@pytest.mark.parametrize(
    "more", [dict(), dict(bias_correction=False), dict(max_trust_ratio=0.7), dict(exclude_1d=False)], ids=["default", "raw", "limit", "all"]
)
def test_kernel_agrees(kernel_agrees, more):
    assert_kernel_agrees(kernel_agrees, lambda params, **options: LAMB(params, lr=0.02, weight_decay=0.1, **more, **options))
