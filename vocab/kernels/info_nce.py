"""InfoNCE, NT-Xent and CLIP's loss without the table of all similarities.

Sources: van den Oord et al. 2018, arXiv:1807.03748, equation 4 (InfoNCE); Chen et al. 2020, arXiv:2002.05709, equation 1 (NT-Xent);
Radford et al. 2021, arXiv:2103.00020, figure 3 (both directions). Keys are a weight matrix and their numbers are classes, so this is
``vocab.kernels.linear_cross_entropy``: a chunk of queries at a time, its gradient in the memory of its similarities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels import linear_cross_entropy as chunked
from vocab.kernels.dispatch import accumulator, use_triton
from vocab.kernels.spec import POINTER, Cost, Spec, random

__all__ = ["SPEC", "applies", "fused", "info_nce", "reference"]

# N queries, M keys, D columns

# Fewer similarities than this are computed at once in torch. Provisional until measured here.
WORTHWHILE = 2**24
# So many similarities are in memory at a time.
HELD = 2**25


def info_nce(
    queries: Tensor,
    keys: Tensor,
    positive: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    exclude_self: bool = False,
    symmetric: bool = False,
    backend: str = "auto",
) -> Tensor:
    """Mean over queries of ``-log(exp(s_ip / tau) / sum_j exp(s_ij / tau))``, where s are dot products and p the query's own key.

    Normalize the rows first if cosines are meant.

    Args:
        queries: ``(N, D)``.
        keys: ``(M, D)``.
        positive: The number of each query's key ``(N,)``, int64, not looked at; its own number by default.
        temperature: tau; a tensor may learn.
        exclude_self: Key i is no candidate for query i, as in NT-Xent, where both are the same views. Needs as many keys as queries.
        symmetric: The mean of this and of the loss with queries and keys exchanged, as in CLIP. Needs ``positive`` to be the default.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        A scalar in at least float32. It has no second derivative with the kernel.

    Raises:
        ValueError: If an option needs what is not given.
    """
    if exclude_self and (len(queries) != len(keys) or positive is None):
        raise ValueError(f"exclude_self needs as many keys as queries, and positive; got {len(queries)} queries and {len(keys)} keys"
                         + ("" if positive is not None else " without positive"))  # fmt: skip
    if symmetric and (positive is not None or len(queries) != len(keys)):
        raise ValueError("symmetric pairs query i with key i: it takes no positive, and as many keys as queries")
    if positive is None:
        positive = torch.arange(len(queries), device=queries.device)
    one_way = fused if applies(queries, keys, backend) else reference
    queries = queries / temperature
    loss = one_way(queries, keys, positive, exclude_self=exclude_self)
    return (loss + one_way(keys, queries, positive, exclude_self=False)) / 2 if symmetric else loss


def applies(queries: Tensor, keys: Tensor, backend: str) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot."""
    limit = None if queries.dtype in POINTER else f"queries has dtype {queries.dtype}"
    if queries.dtype != keys.dtype:
        limit = f"queries has dtype {queries.dtype} and keys {keys.dtype}"
    return use_triton("info_nce", backend, queries, limit=limit, worthwhile=len(queries) * len(keys) >= WORTHWHILE)


def fused(queries: Tensor, keys: Tensor, positive: Tensor, *, exclude_self: bool) -> Tensor:
    """One direction by the kernel, whatever the size."""
    chunk = max(1, HELD // max(1, len(keys)))
    options = dict(bias=None, ignore_index=-100, softcap=0.0, chunk=chunk, skip_diagonal=exclude_self)
    return chunked.fused(queries, keys, positive, **options)


def reference(queries: Tensor, keys: Tensor, positive: Tensor, *, exclude_self: bool) -> Tensor:
    """One direction in plain torch, all similarities at once."""
    score = (queries @ keys.T).to(accumulator(queries.dtype))
    if exclude_self:
        score = score.masked_fill(torch.eye(len(score), dtype=torch.bool, device=score.device), -torch.inf)
    return (score.logsumexp(1) - score.gather(1, positive[:, None])[:, 0]).sum() / max(1, len(queries))


def _inputs(sizes, dtype, device):
    n, d = sizes["pairs"], sizes["columns"]
    return tuple(F.normalize(random((n, d), dtype, device), dim=1).detach().requires_grad_() for _ in range(2))


def _run(a, b, *, views=False, backend="auto"):
    """CLIP's loss of pairs, or NT-Xent of two views of each."""
    if not views:
        return info_nce(a, b, temperature=0.1, symmetric=True, backend=backend)
    both = torch.cat([a, b])
    other = torch.arange(len(both), device=a.device).roll(len(a))
    return info_nce(both, both, other, temperature=0.5, exclude_self=True, backend=backend)


def _cost(sizes, dtype, direction):
    n, d = sizes["pairs"], sizes["columns"]
    # two directions; forward with gradients three products each, backward the stored gradients times a number
    if direction == "forward":
        return Cost(bytes=8 * n * d * dtype.itemsize, flops=12 * n * n * d)
    return Cost(bytes=8 * n * d * dtype.itemsize, flops=4 * n * d)


def _two_cross_entropies(a, b):
    score = (a @ b.T / 0.1).to(accumulator(a.dtype))
    own = torch.arange(len(a), device=a.device)
    return (F.cross_entropy(score, own) + F.cross_entropy(score.T, own)) / 2


def _inf_cl(a, b):
    from inf_cl import cal_inf_loss

    return cal_inf_loss(a, b, scale=torch.tensor(10.0, device=a.device))


SPEC = Spec(
    name="info_nce",
    summary="InfoNCE, NT-Xent and CLIP's loss with the similarities of one chunk of queries in memory at a time.",
    run=_run,
    inputs=_inputs,
    dtypes=tuple(POINTER),
    shapes={
        "32768 pairs x 512": {"pairs": 32_768, "columns": 512},
        "8192 pairs x 256": {"pairs": 8192, "columns": 256},
        "small, 256 pairs x 128": {"pairs": 256, "columns": 128},
    },
    tails=({"pairs": 2, "columns": 1}, {"pairs": 5, "columns": 3}, {"pairs": 63, "columns": 2}, {"pairs": 65, "columns": 5}, {"pairs": 0, "columns": 4}),
    probe={"pairs": 6, "columns": 5},
    cost=_cost,
    directions=("forward", "backward"),
    variants=({}, {"views": True}),
    baselines={"two F.cross_entropy": _two_cross_entropies, "Inf-CL": _inf_cl},
    # As a ratio of times; what is aimed at is a twentieth of the memory.
    targets={"eager": {"32768 pairs x 512": 1 / 1.1}, "compile": {"32768 pairs x 512": 1.0}, "Inf-CL": {"32768 pairs x 512": 1.0}},
    builds=(),  # its kernels are those of cross_entropy, and are compiled there
    gpu=({"pairs": 63, "columns": 65}, {"pairs": 1000, "columns": 128}),
    operators=("linear_cross_entropy",),
)
