import math

import numpy as np
import pytest
import torch
from torch import nn

from snippets.optimizers.sparse_adam import sparse_adam_step, train
from vocab.optimizers.adam import Adam
from vocab.optimizers.sparse_adam import SparseAdam, named
from vocab.optimizers.tests.walks import follow, layers


def example():
    """For the contract suite, whose gradients are dense: builds an optimizer for given parameters."""
    return (lambda params: SparseAdam(params, lr=0.02, betas=(0.8, 0.95), eps=1e-3, dense=True)), ()


START = torch.randn(9, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def embeddings(build, sparse=True, steps=100, rows=7):
    """A table of nine rows of which the last are never used, after steps on random ids."""
    table = nn.Embedding.from_pretrained(START.clone(), freeze=False, sparse=sparse)
    optimizer = build(table.parameters())
    for step in range(steps):
        ids = torch.randint(0, rows, (5,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (table(ids) * (1 + step % 3) - 0.3).square().sum().backward()
        optimizer.step()
    return table.weight.detach(), optimizer.state[table.weight]


@pytest.mark.oracle("torch.optim.SparseAdam on nn.Embedding(sparse=True), 100 steps")
@pytest.mark.parametrize("options", [{}, dict(betas=(0.5, 0.9), eps=1e-2), dict(maximize=True)])
def test_equals_torch(options):
    ours, theirs = (embeddings(lambda p: kind(list(p), lr=0.02, **options))[0] for kind in (SparseAdam, torch.optim.SparseAdam))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-13)
    assert not torch.isclose(ours[:7], START[:7]).any()


def test_rows_that_are_not_used_keep_weights_and_moments_bit_for_bit():
    w, state = embeddings(lambda p: SparseAdam(p, lr=0.02))
    assert torch.equal(w[7:], START[7:])
    for name in "mv":
        assert (state[name][7:] == 0).all() and (state[name][:7] != 0).all()
    # and between two uses
    table = nn.Embedding.from_pretrained(START.clone(), freeze=False, sparse=True)
    optimizer = SparseAdam(table.parameters(), lr=0.1)
    kept = []
    for ids in ([1, 2], [2], [2, 5]):
        optimizer.zero_grad()
        table(torch.tensor(ids)).square().sum().backward()
        optimizer.step()
        kept.append([x[1].clone() for x in (table.weight.detach(), *(optimizer.state[table.weight][name] for name in "mv"))])
    torch.testing.assert_close(kept[0], kept[2], rtol=0, atol=0)


@pytest.mark.oracle("dense Adam, where every row is in every batch")
def test_with_every_row_in_every_batch_it_is_adam():
    tables = [nn.Embedding.from_pretrained(START.clone(), freeze=False, sparse=sparse) for sparse in (True, False)]
    optimizers = [kind(table.parameters(), lr=0.05, betas=(0.8, 0.95), eps=0.0) for kind, table in zip((SparseAdam, Adam), tables)]
    for step in range(50):
        ids = torch.cat([torch.arange(9), torch.tensor([0, 0, step % 9])])
        for optimizer, table in zip(optimizers, tables):
            optimizer.zero_grad()
            (table(ids) * (1 + step % 3) - 0.3).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(tables[0].weight, tables[1].weight, rtol=1e-10, atol=1e-12)


def test_dense_adam_moves_rows_that_are_not_used():
    """What laziness is for: one use, then twenty steps without."""
    moved = {}
    for kind, sparse in ((SparseAdam, True), (Adam, False)):
        table = nn.Embedding.from_pretrained(torch.zeros(3, 1, dtype=torch.float64), freeze=False, sparse=sparse)
        optimizer = kind(table.parameters(), lr=0.1)
        for ids in [[0, 1]] + [[1]] * 20:
            optimizer.zero_grad()
            table(torch.tensor(ids)).sum().backward()
            optimizer.step()
        moved[kind] = -table.weight[0].item()
    assert moved[SparseAdam] == pytest.approx(0.1, rel=1e-6) and moved[Adam] > 0.3


@pytest.mark.oracle("closed form: (1 - beta1) / sqrt(1 - beta2) rates, once the correction has faded")
def test_first_use_after_many_steps_is_three_rates_long():
    """Pitfall: the count of steps is that of the table, so late rows get no bias correction."""
    table = nn.Embedding.from_pretrained(torch.zeros(2, 1, dtype=torch.float64), freeze=False, sparse=True)
    optimizer = SparseAdam(table.parameters(), lr=0.1)
    for step in range(10_001):
        table.weight.grad = torch.sparse_coo_tensor([[int(step == 10_000)]], torch.ones(1, 1, dtype=torch.float64), (2, 1), check_invariants=True)
        optimizer.step()
    assert -table.weight[1].item() / 0.1 == pytest.approx(0.1 / math.sqrt(0.001), rel=1e-3)


def test_a_row_that_comes_twice_is_one_gradient():
    """The squares are of the sum, and the moments fade once."""
    table = nn.Embedding.from_pretrained(torch.zeros(2, 1, dtype=torch.float64), freeze=False, sparse=True)
    optimizer = SparseAdam(table.parameters(), betas=(0.5, 0.75))
    table(torch.tensor([1, 1, 1])).sum().backward()
    optimizer.step()
    state = optimizer.state[table.weight]
    assert (state["m"][1].item(), state["v"][1].item()) == (1.5, 2.25)


def test_dense_gradients_are_an_error_as_in_torch_unless_allowed():
    for kind in (SparseAdam, torch.optim.SparseAdam):
        w = nn.Parameter(torch.zeros(2, 2))
        w.grad = torch.ones(2, 2)
        with pytest.raises(RuntimeError, match="dense"):
            kind([w]).step()
        assert torch.equal(w.data, torch.zeros(2, 2))
    assert follow(lambda p: SparseAdam(p, lr=0.1, dense=True), [3.0] * 4).tolist() == pytest.approx([0, -0.1, -0.2, -0.3, -0.4])


def test_the_error_for_adamw_names_what_takes_sparse_gradients():
    """Erratum: a table of settings pairs embeddings with AdamW for their sparse gradients."""
    from vocab.optimizers.adamw import AdamW

    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match="AdamW takes no sparse gradients; .* SparseAdam, Adagrad or SGD"):
        AdamW(table.parameters()).step()


def test_clipping_works_on_what_it_takes():
    """Pitfall: repeated ids; the norm must be that of the sums."""
    table = nn.Embedding.from_pretrained(torch.zeros(2, 1), freeze=False, sparse=True)
    table(torch.tensor([0, 0, 1])).sum().backward()
    raw = table.weight.grad
    assert raw._values().norm().item() == pytest.approx(math.sqrt(3))
    assert named(raw)[1].norm().item() == pytest.approx(math.sqrt(5))


def test_state_is_two_buffers_of_the_whole_table():
    _, state = embeddings(lambda p: SparseAdam(p), steps=1)
    assert [tuple(state[name].shape) for name in "mv"] == [(9, 3)] * 2 and len(state) == 3


def test_resumes_with_sparse_gradients():
    import copy

    whole, _ = embeddings(lambda p: SparseAdam(p, lr=0.1), steps=10)
    table = nn.Embedding.from_pretrained(START.clone(), freeze=False, sparse=True)
    optimizer = SparseAdam(table.parameters(), lr=0.1)
    for step in range(10):
        if step == 5:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = SparseAdam(table.parameters(), lr=0.1)
            optimizer.load_state_dict(saved)
        ids = torch.randint(0, 7, (5,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (table(ids) * (1 + step % 3) - 0.3).square().sum().backward()
        optimizer.step()
    torch.testing.assert_close(table.weight.detach(), whole, rtol=0, atol=0)


def test_defaults_are_those_of_torch():
    ours, theirs = SparseAdam(layers((2,))).defaults, torch.optim.SparseAdam(layers((2,))).defaults
    assert {name: ours[name] for name in ("lr", "betas", "eps")} == {name: theirs[name] for name in ("lr", "betas", "eps")}
    assert ours["dense"] is False


@pytest.mark.parametrize(("options", "message"), [
    (dict(lr=-0.1), "lr=-0.1 is not 0 or more"),
    (dict(eps=-0.1), "eps=-0.1 is not 0 or more"),
    (dict(betas=(0.9, 1.0)), r"betas=\(0.9, 1.0\) are not all in \[0, 1\)"),
])
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        SparseAdam(layers((2, 2)), **options)


def test_numpy_variant_agrees(agree):
    table = nn.Embedding.from_pretrained(START.clone(), freeze=False, sparse=True)
    optimizer, w, state = SparseAdam(table.parameters(), lr=0.05), START.numpy().copy(), {}
    for t in range(1, 26):
        ids = torch.randint(0, 7, (5,))
        g = torch.randn(5, 3, dtype=torch.float64)
        optimizer.zero_grad()
        (table(ids) * g).sum().backward()
        optimizer.step()
        w = sparse_adam_step(w, ids.numpy(), g.numpy(), state, t, lr=0.05)
    agree(w, table.weight)
    assert np.abs(w - START.numpy()).max() > 0.1


def test_demo_moves_unused_rows_only_with_dense_adam():
    for lazy in (True, False):
        moved, used = train(1.2, lazy)
        idle = (np.diff(moved, axis=0) != 0) & (used == 0)
        assert idle.any() is np.bool_(not lazy)
