import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.optimizers.adagrad import adagrad_step, learn, reviews
from vocab.optimizers.adagrad import Adagrad
from vocab.optimizers.tests.walks import assert_same_path, buffers, follow, in_numpy, layers


def example():
    """For the contract suite: builds an optimizer for given parameters."""
    return (lambda params: Adagrad(params, lr=0.1, lr_decay=0.01, weight_decay=0.1, initial_accumulator_value=0.2)), ()


@pytest.mark.oracle("torch.optim.Adagrad, 100 steps")
@pytest.mark.parametrize("options", [{}, dict(lr_decay=0.1, weight_decay=0.2), dict(initial_accumulator_value=0.5, eps=1e-2, maximize=True)])
def test_equals_torch(options):
    assert_same_path(lambda p: Adagrad(p, lr=0.05, **options), lambda p: torch.optim.Adagrad(p, lr=0.05, **options))


@pytest.mark.oracle("torch.optim.Adagrad with sparse embedding gradients")
def test_sparse_gradients_touch_only_their_rows():
    start = torch.randn(8, 3, dtype=torch.float64)
    tables = [nn.Embedding.from_pretrained(start.clone(), freeze=False, sparse=sparse) for sparse in (True, True, False)]
    options = dict(lr=0.1, lr_decay=0.05, initial_accumulator_value=0.1, eps=1e-3)
    optimizers = [kind(table.parameters(), **options) for kind, table in zip((Adagrad, torch.optim.Adagrad, Adagrad), tables)]
    for step in range(100):
        ids = torch.randint(0, 6, (5,), generator=torch.Generator().manual_seed(step))  # rows 6 and 7 never; some twice in a batch
        for optimizer, table in zip(optimizers, tables):
            optimizer.zero_grad()
            (table(ids) * (1 + step % 3) - 0.3).square().sum().backward()
            optimizer.step()
    for other in tables[1:]:
        torch.testing.assert_close(tables[0].weight, other.weight, rtol=1e-10, atol=1e-13)
    assert torch.equal(tables[0].weight[6:], start[6:]) and not torch.isclose(tables[0].weight[:6], start[:6]).any()


def test_climbs_a_sparse_gradient_with_maximize():
    table = nn.Embedding.from_pretrained(torch.zeros(3, 1), freeze=False, sparse=True)
    table(torch.tensor([1])).sum().backward()
    Adagrad(table.parameters(), lr=0.5, maximize=True).step()
    assert table.weight.flatten().tolist() == pytest.approx([0, 0.5, 0])


@pytest.mark.oracle("closed form: distance lr * sum of 1 / sqrt(t)")
@pytest.mark.parametrize("g", [1e-3, 40.0])
def test_constant_gradient_goes_the_root_of_the_number_of_steps(g):
    T = 400
    path = follow(lambda p: Adagrad(p, lr=0.1), [-g] * T)
    steps = path.diff()
    torch.testing.assert_close(steps, 0.1 / torch.arange(1, T + 1, dtype=torch.float64).sqrt(), rtol=1e-6, atol=0)
    assert path[-1].item() == pytest.approx(0.1 * 2 * math.sqrt(T), rel=0.05)


@pytest.mark.oracle("theory: regret below D sqrt(2) * sum over weights of the root of the summed squares")
def test_regret_on_lines_whose_slope_is_chosen_against_it_grows_like_the_root():
    """Best point of [-1, 1] in hindsight against the online path; the rate is D / sqrt(2), D = 2 the width."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer, paid, total, squares = Adagrad([w], lr=2 / math.sqrt(2)), 0.0, 0.0, 0.0
    for t in range(2000):
        slope = 1.0 if w.item() >= 0 else -1.0
        if t % 7 == 0:
            slope = 1.0
        paid, total, squares = paid + slope * w.item(), total + slope, squares + slope**2
        w.grad = torch.tensor([slope], dtype=torch.float64)
        optimizer.step()
        w.data.clamp_(-1, 1)
    assert paid - (-abs(total)) <= 2 * math.sqrt(2 * squares)


def test_a_rate_never_comes_back():
    """Pitfall: after large gradients small ones are nearly lost."""
    path = follow(lambda p: Adagrad(p, lr=0.1), [100.0] * 10 + [0.1] * 1000)
    assert (path[10] - path[-1]).item() == pytest.approx(0.1 * 1000 * 0.1 / (100 * math.sqrt(10)), rel=1e-3)


@pytest.mark.parametrize(("start", "length"), [(0.0, 0.1), (0.01, 1e-6)])
def test_a_tiny_first_gradient_makes_a_whole_step_unless_the_sum_starts_above_it(start, length):
    """Pitfall: initial_accumulator_value = 0."""
    moved = -follow(lambda p: Adagrad(p, lr=0.1, initial_accumulator_value=start), [1e-6])[1].item()
    assert moved == pytest.approx(length, rel=2e-4)


def test_decay_of_a_sparse_table_is_refused_as_in_torch():
    for kind in (Adagrad, torch.optim.Adagrad):
        table = nn.Embedding(4, 2, sparse=True)
        table(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="weight_decay"):
            kind(table.parameters(), weight_decay=0.1).step()


def test_state_is_one_buffer():
    assert buffers(lambda p: Adagrad(p)) == [(3, 2)]


def test_defaults_are_those_of_torch():
    ours, theirs = Adagrad(layers((2,))).defaults, torch.optim.Adagrad(layers((2,))).defaults
    assert ours == {name: theirs[name] for name in ours}


def test_nan_is_not_hidden():
    (w,) = layers((2, 2))
    w.grad = torch.full_like(w, torch.nan)
    Adagrad([w]).step()
    assert w.isnan().all()


@pytest.mark.parametrize("name", ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"])
def test_bad_options_are_named_in_every_group(name):
    with pytest.raises(ValueError, match=f"{name}=-0.1 is not 0 or more"):
        Adagrad(layers((2, 2)), **{name: -0.1})
    with pytest.raises(ValueError, match=name):
        Adagrad([{"params": layers((2, 2)), name: -0.1}])


def test_numpy_variant_agrees(agree):
    agree(*in_numpy(lambda w, g, s, t: adagrad_step(w, g, s, t, lr=0.2), lambda p: Adagrad(p, lr=0.2)))


def test_rare_word_of_the_demo_keeps_the_larger_rate():
    x, y = reviews(20, 400)
    assert x.sum(0).tolist() == [380, 20] and y[x[:, 1] == 1].mean() == pytest.approx(0.8)
    path, rates = learn(x, y, 0.3, True)
    assert rates[-1, 1] > 2 * rates[-1, 0] and (np.diff(rates, axis=0) <= 0).all()
    assert path[-1, 1] > 2 * learn(x, y, rates[-1, 0], False)[0][-1, 1] > 0, "with one rate for both the rare word lags"
