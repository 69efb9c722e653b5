import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.regularization import stochastic_depth as numpy_depth
from vocab.regularization.stochastic_depth import DropPath, expected_depth, linear_decay
from vocab.regularization.tests.test_dropout import FixedDraws


def example():
    """For the contract suite: a small instance and its inputs."""
    return DropPath(0.4), (torch.randn(5, 3, 2).double(),)


@pytest.mark.oracle("transformers ConvNextDropPath (as in timm), with the same rows kept")
@pytest.mark.parametrize("p", [0.2, 0.5])
def test_rows_equal_those_of_a_library(monkeypatch, p):
    library = pytest.importorskip("transformers.models.convnext.modeling_convnext").ConvNextDropPath
    x = torch.randn(40, 3, 2).double()
    ours = DropPath(p)(x)
    kept = (ours != 0).all(dim=(1, 2))
    assert 0 < kept.sum() < 40
    monkeypatch.setattr(torch, "rand", lambda shape, **like: kept.to(like["dtype"]).view(shape) * 0.999)
    torch.testing.assert_close(ours, library(p)(x), rtol=1e-12, atol=0)


def test_a_dropped_branch_leaves_exactly_the_input():
    x = torch.randn(200, 4).double()
    out = x + DropPath(0.5)(torch.tanh(x))
    gone = (out == x).all(1)
    assert 60 < gone.sum() < 140
    torch.testing.assert_close(out[~gone], (x + 2 * torch.tanh(x))[~gone])


def test_erratum_the_identity_path_stays_where_a_whole_layer_would_be_lost():
    """Erratum: what is dropped is the branch, not the layer; without the identity nothing would come through."""
    blocks = [nn.Linear(4, 4).double() for _ in range(20)]
    x = y = lost = torch.randn(3, 4).double()
    for block in blocks:
        y, lost = y + DropPath(1.0)(block(y)), DropPath(1.0)(block(lost))
    assert torch.equal(y, x) and (lost == 0).all()


def test_a_batch_decides_together_in_batch_mode():
    x = torch.ones(6, 2, 2)
    found = {tuple(DropPath(0.5, "batch")(x).unique().tolist()) for _ in range(40)}
    assert found == {(0.0,), (2.0,)}
    assert len({tuple(DropPath(0.5)(x)[:, 0, 0].tolist()) for _ in range(40)}) > 10


@pytest.mark.oracle("simulation, and the paper's (3L - 1)/4 blocks")
def test_expected_depth_is_what_a_simulation_counts():
    rates = linear_decay(54, 0.5)
    assert expected_depth(rates) == pytest.approx((3 * 54 - 1) / 4)
    assert expected_depth(rates) == pytest.approx(54 * (1 - 0.5 / 2), abs=0.5)
    active = sum((DropPath(p)(torch.ones(4000, 1, dtype=torch.float64)) != 0).double() for p in rates)
    spread = math.sqrt(sum(p * (1 - p) for p in rates))
    assert active.mean().item() == pytest.approx(40.25, abs=4.5 * spread / math.sqrt(4000))
    assert active.std().item() == pytest.approx(spread, rel=0.06)


def test_the_linear_rule_ends_at_p_last_and_does_not_start_at_zero():
    assert linear_decay(5, 0.5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert linear_decay(1, 0.3) == [0.3] and linear_decay(3, 0.0) == [0, 0, 0]


def test_evaluation_and_p_zero_change_nothing_and_the_mean_stays():
    x = torch.randn(4, 3)
    assert torch.equal(DropPath(0.9).eval()(x), x) and torch.equal(DropPath()(x), x)
    y = DropPath(0.3)(torch.ones(100_000, 1, dtype=torch.float64))
    assert y.mean().item() == pytest.approx(1, abs=4.5 * math.sqrt(0.3 / 0.7 / 100_000))


@pytest.mark.oracle("test-time scaling of the paper, in expectation")
def test_scaling_in_training_is_the_papers_scaling_in_evaluation():
    """The paper adds b * branch in training and (1 - p) * branch afterwards: (1 - p) times as much, in both."""
    p, branch = 0.25, torch.full((100_000, 1), 3.0, dtype=torch.float64)
    ours, draws = DropPath(p)(branch), (torch.rand(100_000, 1) >= p).double() * branch
    assert (draws.mean() / ours.mean()).item() == pytest.approx(1 - p, rel=0.01)
    assert (DropPath(p).eval()(branch) * (1 - p)).mean().item() == pytest.approx(draws.mean().item(), rel=0.01)


def test_a_generator_repeats_the_draws():
    x = torch.ones(64, 1)
    assert torch.equal(*(DropPath(0.5)(x, torch.Generator().manual_seed(1)) for _ in range(2)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DropPath(1.2), "p=1.2 is not between 0 and 1"),
        (lambda: DropPath(0.1, "column"), "mode='column' is not 'row' or 'batch'"),
        (lambda: DropPath(0.1)(torch.tensor(1.0)), r"residual has shape \(\); expected \(batch, ...\)"),
        (lambda: linear_decay(0, 0.1), "depth=0 is not 1 or more"),
        (lambda: linear_decay(3, -0.1), "p_last=-0.1 is not between 0 and 1"),
        (lambda: expected_depth([0.1, 2.0]), r"rates\[1\]=2.0 is not between 0 and 1"),
    ],
)
def test_bad_options_say_which_and_why(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_no_activation_is_named():
    with pytest.raises(TypeError, match="residual has dtype torch.int64; expected a floating-point dtype"):
        DropPath(0.1)(torch.ones(3, 2).long())
    with pytest.raises(TypeError, match="residual is a list"):
        DropPath(0.1).eval()([1.0])


def test_numpy_variant_agrees(agree):
    x = torch.randn(8, 3).double()
    ours = DropPath(0.4)(x)
    kept = (ours != 0).all(1, keepdim=True)
    agree(numpy_depth.drop_path(x.numpy(), 0.4, FixedDraws(kept)), ours)
    agree(numpy_depth.linear_decay(7, 0.3), torch.tensor(linear_decay(7, 0.3), dtype=torch.float64))
    assert np.mean(numpy_depth.drop_path(np.ones((50_000, 1)), 0.4, np.random.default_rng(0))) == pytest.approx(1, abs=0.02)
