import copy
import math

import pytest
import torch
from torch import nn

from snippets.regularization import early_stopping as numpy_stopping
from vocab.regularization.early_stopping import EarlyStopping, stopped_shrinkage
from vocab.regularization.l2 import shrinkage


def run(metrics, **options):
    """The index at which it stops (None if it does not), the stopper, and the model, whose weight counts the evaluations."""
    model, stopping = nn.Linear(1, 1, bias=False), EarlyStopping(**options)
    for i, metric in enumerate(metrics):
        model.weight.data.fill_(float(i))
        if stopping.step(metric, model):
            return i, stopping, model
    return None, stopping, model


@pytest.mark.oracle("sequences worked out by hand")
@pytest.mark.parametrize(
    ("metrics", "options", "stops", "best"),
    [
        ([5, 4, 3, 3, 3, 2], dict(patience=2), 4, 2),
        ([5, 4, 3, 3, 2, 3, 3, 3, 3], dict(patience=3), 7, 4),
        ([5, 4, 3, 2, 1], dict(patience=1), None, 4),
        ([5, 4.9, 4.8, 4.7, 4.6], dict(patience=2, min_delta=0.3), 2, 0),
        ([5, 4.75, 4.5, 4.25], dict(patience=2, min_delta=0.5), 2, 0),
        ([5, 4.75, 4.49, 9, 9], dict(patience=2, min_delta=0.5), 4, 2),
        ([0.1, 0.5, 0.4, 0.3], dict(patience=2, mode="max"), 3, 1),
        ([math.nan, math.nan, math.nan], dict(patience=3), 2, -1),
        ([2, math.nan, 1, math.nan, math.nan], dict(patience=2), 4, 2),
        ([3], dict(patience=1), None, 0),
        ([3, 4], dict(patience=1), 1, 0),
    ],
)
def test_it_stops_at_the_epoch_counted_by_hand_and_restores_the_best_weights(metrics, options, stops, best):
    at, stopping, model = run(metrics, **options)
    assert at == stops and stopping.best_step == best
    if stops is not None and best >= 0:
        assert model.weight.item() == best and stopping.best == metrics[best]


def test_kept_weights_are_copies_with_buffers():
    model, stopping = nn.BatchNorm1d(2), EarlyStopping(patience=1)
    stopping.step(1.0, model)
    model(torch.randn(8, 2) + 5)
    model.weight.data.add_(3)
    assert stopping.step(2.0, model)
    assert (model.weight == 1).all() and (model.running_mean == 0).all() and model.num_batches_tracked == 0


def test_without_restoring_the_last_weights_stay():
    at, stopping, model = run([1, 2, 3], patience=2, restore_best=False)
    assert at == 2 and model.weight.item() == 2 and stopping.weights is None
    stopping.restore(model)
    assert model.weight.item() == 2


def test_a_run_that_ends_by_itself_can_restore():
    at, stopping, model = run([3, 1, 2], patience=5)
    assert at is None and model.weight.item() == 2
    stopping.restore(model)
    assert model.weight.item() == 1


def test_it_resumes_where_it_was():
    metrics = [5, 3, 4, 2, 6, 6, 6]
    whole, _, kept = run(metrics, patience=3)
    model, first = nn.Linear(1, 1, bias=False), EarlyStopping(patience=3)
    second = EarlyStopping(patience=3)
    for i, metric in enumerate(metrics):
        model.weight.data.fill_(float(i))
        if i == 5:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
            first = second
        if first.step(torch.tensor(float(metric)), model):
            break
    assert i == whole == 6 and torch.equal(model.weight, kept.weight)


@pytest.mark.oracle("gradient descent on least squares")
@pytest.mark.parametrize("steps", [0, 1, 7, 60])
def test_descent_from_zero_has_the_closed_form_after_any_number_of_steps(steps):
    X, y = torch.randn(9, 4).double(), torch.randn(9).double()
    lr, w = 0.02, torch.zeros(4).double()
    for _ in range(steps):
        w = w - lr * X.T @ (X @ w - y)
    U, s, Vt = torch.linalg.svd(X, full_matrices=False)
    torch.testing.assert_close(Vt @ w, stopped_shrinkage(s, lr, steps) * (U.T @ y) / s)


@pytest.mark.oracle("shrinkage of ridge regression with lam = 1/(lr t)")
def test_stopping_is_close_to_ridge():
    s = torch.logspace(-3, 0, 200, dtype=torch.float64)
    for lr, steps in ((0.01, 100), (0.001, 5000)):
        stopped, ridge = stopped_shrinkage(s, lr, steps), shrinkage(s, 1 / (lr * steps))
        assert ((stopped - ridge).abs() < 0.21).all()
        assert (stopped >= ridge - 1e-12).all(), "descent shrinks less, at the same strength"
        weak = s**2 * lr * steps < 0.01
        torch.testing.assert_close(stopped[weak], ridge[weak], rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(patience=0), "patience=0 is not 1 or more"),
        (dict(min_delta=-0.1), "min_delta=-0.1 is not 0 or more"),
        (dict(min_delta=math.nan), "min_delta=nan"),
        (dict(mode="best"), "mode='best' is not 'min' or 'max'"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**options)


@pytest.mark.parametrize(("lr", "steps"), [(0.0, 3), (-1.0, 3), (0.1, -1)])
def test_bad_descent_is_named(lr, steps):
    with pytest.raises(ValueError, match=f"lr={lr}, steps={steps}: expected"):
        stopped_shrinkage(torch.ones(1), lr, steps)
    with pytest.raises(TypeError, match="singular_values is a float"):
        stopped_shrinkage(1.0, 0.1, 1)


def test_defaults():
    stopping = EarlyStopping()
    assert (stopping.patience, stopping.min_delta, stopping.mode, stopping.restore_best) == (10, 0.0, "min", True)


@pytest.mark.parametrize("patience", [1, 3])
def test_numpy_variant_agrees(agree, patience):
    metrics = [5.0, 4.0, 4.5, 3.0, 3.5, 3.2, 3.1, 2.0, 9.0, 9.0, 9.0]
    at, stopping, _ = run(metrics, patience=patience)
    agree(numpy_stopping.stop_at(metrics, patience), [at, stopping.best_step])
    s = torch.rand(5).double()
    agree(numpy_stopping.stopped_shrinkage(s.numpy(), 0.1, 20), stopped_shrinkage(s, 0.1, 20))
