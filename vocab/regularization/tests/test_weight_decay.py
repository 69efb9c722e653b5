import pytest
import torch
from torch import nn

from snippets.regularization import weight_decay as numpy_decay
from vocab.regularization.weight_decay import decay_groups, decoupled_weight_decay_, equilibrium_norm, listed


def weights():
    return torch.randn(4, 3, dtype=torch.float64)


@pytest.mark.oracle("torch.optim.AdamW with zero gradients, and the closed form")
def test_without_gradients_weights_follow_a_power():
    start, lr, wd = weights(), 0.01, 0.3
    ours, theirs = start.clone(), nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([theirs], lr=lr, weight_decay=wd)
    for _ in range(100):
        decoupled_weight_decay_(ours, lr, wd)
        theirs.grad = torch.zeros_like(theirs)
        optimizer.step()
    torch.testing.assert_close(ours, start * 0.997**100, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours, theirs.data, rtol=1e-12, atol=0)


@pytest.mark.oracle("torch.optim.SGD on the loss plus an L2 penalty")
def test_beside_plain_sgd_it_is_an_l2_penalty():
    start, a, lr, wd = weights(), weights(), 0.05, 0.2
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    one, two = torch.optim.SGD([ours], lr), torch.optim.SGD([theirs], lr)
    for _ in range(60):
        for w, optimizer, strength in ((ours, one, 0.0), (theirs, two, wd)):
            optimizer.zero_grad()
            ((w - a).pow(4).sum() + 0.5 * strength * w.square().sum()).backward()
        decoupled_weight_decay_([ours], lr, wd)  # before the step, or the new gradient would shrink too
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)


@pytest.mark.oracle("torch.optim.AdamW, 100 steps")
def test_beside_adam_it_is_adamw():
    start, lr, wd = weights(), 0.02, 0.5
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    adam, adamw = torch.optim.Adam([ours], lr), torch.optim.AdamW([theirs], lr, weight_decay=wd)
    for step in range(100):
        for w in (ours, theirs):
            w.grad = torch.sin(w.detach() * (step % 5 + 1))
        decoupled_weight_decay_([ours], lr, wd)
        adam.step()
        adamw.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def scale_invariant_run(lr, wd, grad_norm, steps, start=3.0):
    """SGD on losses of the direction of w only, each with a gradient of this norm at unit norm of w."""
    w = nn.Parameter(torch.randn(8, dtype=torch.float64))
    w.data *= start / w.data.norm()
    for _ in range(steps):
        pull = torch.randn(8, dtype=torch.float64)
        direction = w.detach() / w.detach().norm()
        pull -= (pull @ direction) * direction
        pull *= grad_norm / pull.norm()
        (g,) = torch.autograd.grad(pull @ (w / w.norm()), w)
        decoupled_weight_decay_(w, lr, wd)
        w.data -= lr * g
    return w.detach().norm().item()


@pytest.mark.oracle("simulation of SGD on a loss that ignores the norm")
@pytest.mark.parametrize(("lr", "wd", "grad_norm"), [(0.1, 0.2, 1.0), (0.3, 0.2, 2.0), (0.05, 1.0, 0.5), (0.5, 1.0, 1.0)])
def test_a_normalized_weight_settles_at_the_equilibrium_norm(lr, wd, grad_norm):
    expected = equilibrium_norm(lr, wd, grad_norm)
    assert scale_invariant_run(lr, wd, grad_norm, 150, start=1.02 * expected) == pytest.approx(expected, rel=1e-5)
    assert expected**4 == pytest.approx(lr * grad_norm**2 / (2 * wd), rel=lr * wd)


@pytest.mark.oracle("closed form of the growth without decay")
def test_without_decay_a_normalized_weight_grows_like_the_fourth_root_of_the_steps():
    assert scale_invariant_run(0.3, 0.0, 2.0, 400) == pytest.approx((3**4 + 2 * 0.3**2 * 2.0**2 * 400) ** 0.25, rel=1e-3)


def test_erratum_the_factor_follows_the_learning_rate():
    """Erratum: 0.9999 per step is what lr 0.001 and wd 0.1 give; a tenth of the rate gives a tenth of the decay."""
    for lr, factor in ((1e-3, 0.9999), (1e-4, 0.99999)):
        w = torch.ones(1, dtype=torch.float64)
        decoupled_weight_decay_(w, lr, 0.1)
        assert w.item() == pytest.approx(factor, abs=1e-15)


def test_erratum_behind_a_norm_growing_weights_raise_no_logit():
    """Erratum: logits grow with the weights only where nothing normalizes them."""
    layer, x = nn.Linear(6, 5, bias=False).double(), torch.randn(3, 6).double()
    logits, normed = layer(x), nn.functional.rms_norm(layer(x), (5,), eps=0.0)
    decoupled_weight_decay_(layer.parameters(), 1.0, 0.5)
    torch.testing.assert_close(layer(x), logits / 2)
    torch.testing.assert_close(nn.functional.rms_norm(layer(x), (5,), eps=0.0), normed)


def test_gains_biases_and_embeddings_are_left_alone():
    model = nn.ModuleDict({"table": nn.Embedding(7, 4), "bag": nn.EmbeddingBag(7, 4), "conv": nn.Conv1d(4, 4, 3), "norm": nn.LayerNorm(4),
                           "first": nn.Linear(4, 4), "second": nn.Linear(4, 2), "frozen": nn.Linear(4, 4).requires_grad_(False)})
    model["first"].weight = model["conv"].weight  # shared: taken once
    shrinks, stays = decay_groups(model, 0.1)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in shrinks["params"]] == ["conv.weight", "second.weight"] and shrinks["weight_decay"] == 0.1
    assert {names[id(p)] for p in stays["params"]} == {"table.weight", "bag.weight", "conv.bias", "norm.weight", "norm.bias", "first.bias", "second.bias"}
    assert stays["weight_decay"] == 0.0
    optimizer = torch.optim.AdamW([shrinks, stays], lr=0.5, weight_decay=0.9)
    for p in model.parameters():
        p.grad, p.data = torch.zeros_like(p), torch.ones_like(p)
    optimizer.step()
    torch.testing.assert_close(model["conv"].weight.data, torch.full((4, 4, 3), 0.95))
    assert (model["norm"].weight == 1).all() and (model["table"].weight == 1).all()


@pytest.mark.parametrize(("lr", "wd"), [(-0.1, 0.1), (0.1, -0.1), (2.0, 0.6), (float("nan"), 0.1)])
def test_bad_strengths_say_which_and_why(lr, wd):
    with pytest.raises(ValueError, match=f"lr={lr}, wd={wd}: expected both 0 or more, and a product of 1 at most"):
        decoupled_weight_decay_(torch.ones(1), lr, wd)


def test_the_strongest_decay_leaves_zero_and_a_warmup_that_starts_at_zero_leaves_all():
    w = torch.ones(2)
    decoupled_weight_decay_(w, 0.0, 0.1)
    assert (w == 1).all()
    decoupled_weight_decay_(w, 1.0, 1.0)
    assert (w == 0).all()


@pytest.mark.parametrize(("lr", "wd"), [(0.0, 0.1), (0.1, 0.0), (1.0, 2.0), (-1.0, -1.0)])
def test_an_equilibrium_needs_decay_that_converges(lr, wd):
    with pytest.raises(ValueError, match=f"lr={lr}, wd={wd}: expected both above 0, and a product below 2"):
        equilibrium_norm(lr, wd, 1.0)


def test_what_is_no_weight_is_named():
    model = nn.Linear(2, 2)
    assert [w is p for w, p in zip(listed(model.parameters()), model.parameters())] == [True, True]
    with pytest.raises(ValueError, match="params is empty"):
        listed([])
    with pytest.raises(TypeError, match=r"params\[1\] has dtype torch.int64"):
        listed([torch.zeros(1), torch.zeros(1).long()])
    with pytest.raises(TypeError, match=r"params\[0\] is a str"):
        listed(["w"])


def test_numpy_variant_agrees(agree):
    w, g, lr, wd = weights(), weights(), 0.1, 0.3
    ours = w.clone()
    decoupled_weight_decay_(ours, lr, wd)
    agree(numpy_decay.decayed_step(w.numpy(), g.numpy(), lr, wd), ours - lr * g)
    agree(numpy_decay.equilibrium_norm(lr, wd, 2.0), equilibrium_norm(lr, wd, 2.0))
