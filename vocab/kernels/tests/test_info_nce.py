import math
from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from vocab.kernels import info_nce as ops
from vocab.kernels.info_nce import info_nce
from vocab.kernels.interpret import interpreting

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "every view is its own candidate": ("skip_diagonal=exclude_self", "skip_diagonal=False"),
    "the first key for all": ("return chunked.fused(queries, keys, positive, **options)", "return chunked.fused(queries, keys, 0 * positive, **options)"),
    "queries in place of keys": ("return chunked.fused(queries, keys, positive", "return chunked.fused(queries, queries, positive"),
    "keys in place of queries": ("return chunked.fused(queries, keys, positive", "return chunked.fused(keys, keys, positive"),
    "key 0 is no target": ("ignore_index=-100", "ignore_index=0"),
    "capped similarities": ("softcap=0.0", "softcap=1.0"),
}
SANITIZED = None  # its kernels are those of cross_entropy


def rows(n=4, d=3, scale=1.0):
    return scale * torch.randn(n, d, dtype=torch.float64, requires_grad=True)


def by_hand(queries, keys, positive, tau, exclude_self):
    """One exponential at a time."""
    total = 0.0
    for i, (q, p) in enumerate(zip(queries.tolist(), positive)):
        score = [math.exp(sum(a * b for a, b in zip(q, k)) / tau) for k in keys.tolist()]
        total -= math.log(score[p] / sum(s for j, s in enumerate(score) if not (exclude_self and i == j)))
    return total / len(queries)


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=pytest.mark.interp)])
def test_equals_one_exponential_at_a_time(backend):
    a, b = rows(), rows()
    with interpreting() if backend == "triton" else nullcontext():
        assert info_nce(a, b, temperature=0.7, backend=backend).item() == pytest.approx(by_hand(a, b, range(4), 0.7, False), rel=1e-12)
        both = (by_hand(a, b, range(4), 0.7, False) + by_hand(b, a, range(4), 0.7, False)) / 2
        assert info_nce(a, b, temperature=0.7, symmetric=True, backend=backend).item() == pytest.approx(both, rel=1e-12)
        other = [2, 3, 0, 1]
        expected = by_hand(a, a, other, 0.7, True)
        found = info_nce(a, a, torch.tensor(other), temperature=0.7, exclude_self=True, backend=backend)
        assert found.item() == pytest.approx(expected, rel=1e-12)
        assert info_nce(a[:2], b, torch.tensor([3, 1]), backend=backend).item() == pytest.approx(by_hand(a[:2], b, [3, 1], 1.0, False))


def test_equals_pytorchs_cross_entropy_of_all_similarities():
    a, b = rows(9, 4), rows(9, 4)
    expected = F.cross_entropy(a @ b.T / 0.2, torch.arange(9))
    torch.testing.assert_close(info_nce(a, b, temperature=0.2), expected)


@pytest.mark.interp
def test_gradcheck_with_a_temperature_that_learns(monkeypatch):
    monkeypatch.setattr(ops, "HELD", 6)  # chunks of two queries
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    with interpreting():
        torch.autograd.gradcheck(lambda a, b, t: info_nce(a, b, temperature=t, symmetric=True, backend="triton"), (rows(3, 2), rows(3, 2), tau))
        other = torch.tensor([2, 3, 0, 1])
        torch.autograd.gradcheck(lambda a: info_nce(a, a, other, temperature=0.6, exclude_self=True, backend="triton"), rows(4, 2))


@pytest.mark.interp
def test_equal_rows_cost_the_logarithm_of_the_number_of_candidates():
    a = torch.ones(6, 2)
    with interpreting():
        assert info_nce(a, a, backend="triton").item() == pytest.approx(math.log(6))
        assert info_nce(a, a, torch.arange(6).roll(1), exclude_self=True, backend="triton").item() == pytest.approx(math.log(5))


@pytest.mark.interp
def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="exclude_self needs as many keys as queries, and positive; got 4 queries and 5 keys without positive"):
        info_nce(rows(4), rows(5), exclude_self=True)
    with pytest.raises(ValueError, match="symmetric pairs query i with key i"):
        info_nce(rows(4), rows(5), symmetric=True)
    with interpreting(), pytest.raises(RuntimeError, match="queries has dtype torch.float64 and keys torch.float32"):
        info_nce(rows(4), rows(4).float(), backend="triton")


@pytest.mark.gpu
def test_the_table_of_similarities_is_never_held():
    n, d = 32_768, 64
    a, b = (torch.randn(n, d, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    info_nce(a, b, symmetric=True, backend="triton").backward()
    assert torch.cuda.max_memory_allocated() - before < n * n * 2 / 8
