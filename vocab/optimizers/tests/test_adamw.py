import math

import pytest
import torch
from torch import nn

from snippets.optimizers.adamw import adamw_step, shrink
from vocab.optimizers.adam import Adam
from vocab.optimizers.adamw import AdamW
from vocab.optimizers.sgd import SGD
from vocab.optimizers.tests.walks import assert_same_path, buffers, in_numpy, layers, walk


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: AdamW(params, lr=0.02, weight_decay=0.3)), ()


def without_gradient(kind, steps, start=(1.0, -4.0), **options):
    """Weights after steps with a gradient of zero."""
    w = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = kind([w], **options)
    for _ in range(steps):
        w.grad = torch.zeros_like(w)
        optimizer.step()
    return w.detach()


@pytest.mark.oracle("torch.optim.AdamW, 200 steps")
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("options", [{}, dict(betas=(0.5, 0.95), eps=1e-2, weight_decay=0.3), dict(weight_decay=0.1, maximize=True)])
def test_equals_torch(amsgrad, options):
    options = dict(lr=0.02, amsgrad=amsgrad, **options)
    assert_same_path(lambda p: AdamW(p, **options), lambda p: torch.optim.AdamW(p, **options), steps=200)


@pytest.mark.oracle("closed form: (1 - lr wd)^t without gradients")
def test_without_gradients_all_weights_shrink_by_the_same_share():
    found = without_gradient(AdamW, 30, lr=0.1, weight_decay=0.5)
    torch.testing.assert_close(found, 0.95**30 * torch.tensor([1.0, -4.0], dtype=torch.float64), rtol=1e-12, atol=0)


def test_adam_with_a_penalty_moves_them_by_the_learning_rate_instead():
    """Erratum: decoupled decay is not L2 regularization once the step is rescaled."""
    found = without_gradient(Adam, 5, lr=0.01, weight_decay=0.5)
    torch.testing.assert_close(found, torch.tensor([0.95, -3.95], dtype=torch.float64), rtol=2e-3, atol=0)


def test_for_plain_sgd_decay_and_penalty_are_the_same():
    (w,) = layers((5,))
    penalized, plain = SGD([w], lr=0.1, weight_decay=0.5), None
    start = w.detach().clone()
    w.grad = torch.ones_like(w)
    penalized.step()
    (u,) = layers((5,))
    u.data.mul_(1 - 0.1 * 0.5)
    u.grad, plain = torch.ones_like(u), SGD([u], lr=0.1)
    plain.step()
    torch.testing.assert_close(w, u, rtol=1e-12, atol=0)
    assert not torch.equal(w, start)


@pytest.mark.oracle("Adam, where there is no decay")
def test_without_decay_it_is_adam():
    one = walk(lambda p: AdamW(p, lr=0.02, weight_decay=0.0), layers((4, 3)), 30)
    two = walk(lambda p: Adam(p, lr=0.02), layers((4, 3)), 30)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_a_schedule_multiplies_the_decay_too():
    """Pitfall: the paper's rule decays by the schedule's factor times wd; here by lr times wd."""
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    factors = [1.0, 0.5, 0.1]
    for factor in factors:
        optimizer.param_groups[0]["lr"] = 0.1 * factor
        w.grad = torch.zeros_like(w)
        optimizer.step()
    assert w.item() == pytest.approx(math.prod(1 - 0.1 * f * 0.5 for f in factors), rel=1e-12)


def test_weights_are_a_running_mean_of_the_last_updates():
    """1 / (lr wd) is the time over which updates are averaged: an update counts 1/e after so many steps."""
    lr, decay = 0.01, 0.5
    shrunk = without_gradient(AdamW, round(1 / (lr * decay)), start=(1.0, 1.0), lr=lr, weight_decay=decay)[0].item()
    assert shrunk == pytest.approx(math.exp(-1), rel=3e-3)


@pytest.mark.oracle("Kosson et al. 2024: rotation at balance is sqrt(2 lr wd)")
def test_a_scale_invariant_layer_turns_by_the_root_of_twice_lr_times_decay():
    """Gradients are noise perpendicular to the weights, of length 1/|w|, as behind a normalization."""
    lr, decay = 0.02, 0.2
    w = nn.Parameter(torch.randn(4000, dtype=torch.float64))
    optimizer, turns = AdamW([w], lr=lr, weight_decay=decay, betas=(0.0, 0.99)), []
    for step in range(900):
        before = w.detach() / w.detach().norm()
        noise = torch.randn_like(w)
        w.grad = (noise - before * (before @ noise)) / w.detach().norm()
        optimizer.step()
        turns.append(torch.acos((before @ w.detach() / w.detach().norm()).clamp(max=1)).item())
    found = sum(turns[-200:]) / 200
    assert found == pytest.approx(math.sqrt(2 * lr * decay), rel=0.05)


@pytest.mark.oracle("torch.optim.AdamW refuses them as well")
def test_sparse_gradients_are_refused():
    """Erratum: AdamW is recommended for embeddings with sparse gradients."""
    for kind in (AdamW, torch.optim.AdamW):
        table = nn.Embedding(4, 2, sparse=True)
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="sparse"):
            kind(table.parameters()).step()


def test_two_groups_keep_gains_out_of_the_decay():
    """Pitfall: normalization gains and biases in the decay group."""
    weight, gain = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = AdamW([{"params": [weight]}, {"params": [gain], "weight_decay": 0.0}], lr=0.1, weight_decay=0.5)
    weight.grad, gain.grad = torch.zeros(2, 2), torch.zeros(2)
    optimizer.step()
    assert torch.equal(gain.data, torch.ones(2)) and torch.allclose(weight.data, torch.tensor(0.95))


def test_state_is_adams():
    assert buffers(lambda p: AdamW(p)) == [(3, 2)] * 2
    assert buffers(lambda p: AdamW(p, amsgrad=True)) == [(3, 2)] * 3


def test_defaults_are_those_of_torch():
    ours, theirs = AdamW(layers((2,))).defaults, torch.optim.AdamW(layers((2,))).defaults
    assert ours == {name: theirs[name] for name in ours}


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    AdamW([w]).step()
    assert w.isnan().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
        (dict(weight_decay=-0.1), "weight_decay=-0.1 is not 0 or more"),
        (dict(betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) are not all in \[0, 1\)"),
    ],
)
def test_bad_options_are_named_in_every_group(options, message):
    with pytest.raises(ValueError, match=message):
        AdamW(layers((2, 2)), **options)
    with pytest.raises(ValueError, match=message):
        AdamW([{"params": layers((2, 2)), **options}])


def test_numpy_variant_agrees(agree):
    agree(*in_numpy(lambda w, g, s, t: adamw_step(w, g, s, t, lr=0.03, weight_decay=0.4), lambda p: AdamW(p, lr=0.03, weight_decay=0.4)))


def test_demo_shrinks_both_groups_by_the_rule_and_with_adam_one_of_them():
    rule = (1 - 0.01 * 0.6) ** 300
    assert shrink(True, 0.01, 0.6)[-1] == pytest.approx([rule, rule], abs=0.04)
    small, large = shrink(False, 0.01, 0.6)[-1]
    assert small == pytest.approx(rule, abs=0.04) and large > 0.9
