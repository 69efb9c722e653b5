"""Softmax attention without its table of weights: a tile of scores at a time, forward and backward.

Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2. What is kept for the backward pass is the output and one number a query, the
logarithm of its sum; each tile of weights is computed again, once for the queries' gradient, once for that of keys and values, and
once for that of a bias if it wants one, so that no two programs add to one number.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.kernels.dispatch import accumulate_in, accumulator, jit, padded, register, tl, triton, use_triton
from vocab.kernels.spec import POINTER, Build, Cost, Spec, random

__all__ = ["BLOCK", "SPEC", "applies", "attention", "expand_bias", "fused", "reference"]

# B batch, T queries, S keys, H query heads, G key/value heads, D head width

# Fewer scores than this are not worth a launch. Provisional until measured here.
WORTHWHILE = 2**22
WIDEST = 128
BLOCK = 64  # of queries and of keys in a block table
FAR = 2**30  # a window without an end
MOST = 255  # registers that a thread can have
# Kernel and what it works on -> for heads up to 64 and up to 128 wide: (queries a tile, keys a tile, warps, stages), chosen so that
# nothing spills on sm_90. A block table allows tiles of 64 at most, and a bias takes as many registers as the scores; products in
# float32 use no tensor cores, but many registers: unless it is told that it may use all, the assembler spills some to fit in more programs.
# (As stored. With some options the queries' gradient in float32, wider than 64, still spills 8 or 16 bytes of a thread.)
CONFIGS = {
    ("forward", "dense"): {64: (128, 64, 8, 3), 128: (128, 64, 8, 3)},
    ("forward", "blocks"): {64: (64, 64, 4, 3), 128: (64, 64, 8, 2)},
    ("forward", "bias"): {64: (64, 64, 4, 3), 128: (64, 32, 8, 2)},
    ("forward", "float32"): {64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
    ("queries", "dense"): {64: (128, 64, 8, 2), 128: (128, 64, 8, 2)},
    ("queries", "blocks"): {64: (64, 64, 4, 2), 128: (64, 64, 8, 2)},
    ("queries", "bias"): {64: (64, 64, 4, 2), 128: (64, 32, 8, 2)},
    ("queries", "float32"): {64: (32, 32, 8, 1), 128: (16, 16, 8, 1)},
    ("keys", "dense"): {64: (32, 128, 8, 2), 128: (32, 64, 8, 2)},
    ("keys", "blocks"): {64: (32, 64, 4, 2), 128: (32, 64, 8, 3)},
    ("keys", "bias"): {64: (32, 64, 4, 1), 128: (16, 64, 8, 3)},
    ("keys", "float32"): {64: (16, 32, 8, 1), 128: (16, 16, 8, 1)},
    ("bias", "bias"): {64: (64, 64, 8, 2), 128: (64, 64, 8, 2)},
    ("bias", "float32"): {64: (32, 32, 4, 1), 128: (32, 32, 8, 1)},
}


@jit
def _tile(x, start, many, step, D, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """Addresses of the rows from ``start`` on of one head, and which of them are there."""
    rows, dims = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK_D)[None, :]
    return x + tl.full((), start, tl.int64) * step + rows * step + dims, (rows < many - start) & (dims < D)


@jit
def _load(x, start, many, step, D, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    there, inside = _tile(x, start, many, step, D, ROWS, BLOCK_D)
    return tl.load(there, inside, other=0.0)


@jit
def _store(x, value, start, many, step, D, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    there, inside = _tile(x, start, many, step, D, ROWS, BLOCK_D)
    tl.store(there, value.to(x.dtype.element_ty), inside)


@jit
def _dot(a, b, ACC: tl.constexpr):
    return tl.dot(a, b, out_dtype=ACC, input_precision="ieee")


@jit
def _reach(start, before, after, many, LENGTH: tl.constexpr, STEP: tl.constexpr):
    """The range of the blocks of which a run of tokens sees something."""
    return tl.maximum(start - before, 0) // STEP, tl.cdiv(tl.minimum(start + LENGTH + after, many), STEP)


@jit
def _score(product, scale, cap, CAP: tl.constexpr, ACC: tl.constexpr):
    score = product * scale
    if CAP:  # tanh in terms of the logistic function, which the interpreter and every Triton have
        score = cap * (2.0 * tl.sigmoid((2.0 * (score / cap)).to(ACC)) - 1.0)
    return score


@jit
def _visible(score, query, rows, key, cols, T, S, slope, bias, bias_row, tile, before, after, BAND: tl.constexpr, ACC: tl.constexpr):
    """Scores less what their distance costs, with the bias, -inf where a key is hidden; of the tile that begins at ``query`` and ``key``."""
    back = query + (S - T) - key + rows - cols
    seen = cols < S - key
    if slope is not None:
        score -= slope * tl.abs(back).to(ACC)
    if bias is not None:
        there = bias + tl.full((), query, tl.int64) * bias_row + key + rows * bias_row + cols
        score += tl.load(there, seen & (rows < T - query), other=0.0).to(ACC)
    if BAND:
        seen = seen & (back <= before) & (back >= -after)
    if tile is not None:
        seen = seen & (tl.load(tile + query % 64 * 64 + key % 64 + rows * 64 + cols) != 0)
    return tl.where(seen, score, float("-inf"))


@jit
def _forward_kernel(
    q, k, v, out, lse, slopes, bias, bias_batch, bias_head, bias_row, table, order, counts, tiles, T, S, H, G, D, before, after,
    scale: tl.float64, softcap: tl.float64, BAND: tl.constexpr, CAP: tl.constexpr, ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    block, rest = tl.program_id(0) % tl.cdiv(T, BLOCK_Q), tl.program_id(0) // tl.cdiv(T, BLOCK_Q)
    head, batch = rest % H, (rest // H).to(tl.int64)
    query, rows, cols = block * BLOCK_Q, tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    own, shared = (batch * T * H + head) * D, (batch * S * G + head // (H // G)) * D  # where its queries and its keys begin
    factor, cap = tl.full((), scale, ACC), tl.full((), softcap, ACC)
    slope = None if slopes is None else tl.load(slopes + head).to(ACC)
    own_bias = None if bias is None else bias + batch * bias_batch + tl.full((), head, tl.int64) * bias_head
    queries = _load(q + own, query, T, H * D, D, BLOCK_Q, BLOCK_D)
    first, last = _reach(query + S - T, before, after, S, BLOCK_Q, BLOCK_K)
    if table is not None:
        first, last = 0, tl.load(counts + block)
        table += block * tl.cdiv(S, BLOCK_K)
        order += block * tl.cdiv(S, BLOCK_K)
    highest = tl.full((BLOCK_Q,), float("-inf"), ACC)
    total = tl.zeros((BLOCK_Q,), ACC)  # of exp(score - highest)
    mixed = tl.zeros((BLOCK_Q, BLOCK_D), ACC)  # of values, with these weights
    for n in tl.range(first, last, num_stages=STAGES):
        number = n if table is None else tl.load(order + n)
        tile = None if tiles is None else tiles + tl.load(table + number).to(tl.int64) * (64 * 64)
        key = number * BLOCK_K
        keys = _load(k + shared, key, S, G * D, D, BLOCK_K, BLOCK_D)
        score = _score(_dot(queries, tl.trans(keys), ACC), factor, cap, CAP, ACC)
        score = _visible(score, query, rows[:, None], key, cols[None, :], T, S, slope, own_bias, bias_row, tile, before, after, BAND, ACC)
        higher = tl.maximum(highest, tl.max(score, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # nothing seen yet
        weight = tl.exp(score - base[:, None])
        shrink = tl.exp(highest - base)
        total = total * shrink + tl.sum(weight, 1)
        values = _load(v + shared, key, S, G * D, D, BLOCK_K, BLOCK_D)
        mixed = mixed * shrink[:, None] + _dot(weight.to(values.dtype), values, ACC)
        highest = higher
    total = tl.where(total == 0.0, 1.0, total)  # a query that sees nothing gets zeros
    _store(out + own, mixed / total[:, None], query, T, H * D, D, BLOCK_Q, BLOCK_D)
    tl.store(lse + (batch * H + head) * T + query + rows, highest + tl.log(total), rows < T - query)


@jit
def _queries_kernel(
    q, k, v, out, dout, lse, delta, dq, slopes, bias, bias_batch, bias_head, bias_row, table, order, counts, tiles,
    T, S, H, G, D, before, after, scale: tl.float64, softcap: tl.float64, BAND: tl.constexpr, CAP: tl.constexpr, ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    block, rest = tl.program_id(0) % tl.cdiv(T, BLOCK_Q), tl.program_id(0) // tl.cdiv(T, BLOCK_Q)
    head, batch = rest % H, (rest // H).to(tl.int64)
    query, rows, cols = block * BLOCK_Q, tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    own, shared, line = (batch * T * H + head) * D, (batch * S * G + head // (H // G)) * D, (batch * H + head) * T + query
    factor, cap = tl.full((), scale, ACC), tl.full((), softcap, ACC)
    slope = None if slopes is None else tl.load(slopes + head).to(ACC)
    own_bias = None if bias is None else bias + batch * bias_batch + tl.full((), head, tl.int64) * bias_head
    upstream = _load(dout + own, query, T, H * D, D, BLOCK_Q, BLOCK_D)
    # Weight times its gradient, summed over all keys: the softmax takes it off every gradient. So no pass over the keys is needed.
    mean = tl.sum(_load(out + own, query, T, H * D, D, BLOCK_Q, BLOCK_D).to(ACC) * upstream.to(ACC), 1)
    tl.store(delta + line + rows, mean, rows < T - query)
    queries = _load(q + own, query, T, H * D, D, BLOCK_Q, BLOCK_D)
    log_sums = tl.load(lse + line + rows, rows < T - query, other=float("inf"))
    first, last = _reach(query + S - T, before, after, S, BLOCK_Q, BLOCK_K)
    if table is not None:
        first, last = 0, tl.load(counts + block)
        table += block * tl.cdiv(S, BLOCK_K)
        order += block * tl.cdiv(S, BLOCK_K)
    for_queries = tl.zeros((BLOCK_Q, BLOCK_D), ACC)
    for n in tl.range(first, last, num_stages=STAGES):
        number = n if table is None else tl.load(order + n)
        tile = None if tiles is None else tiles + tl.load(table + number).to(tl.int64) * (64 * 64)
        key = number * BLOCK_K
        keys = _load(k + shared, key, S, G * D, D, BLOCK_K, BLOCK_D)
        score = _score(_dot(queries, tl.trans(keys), ACC), factor, cap, CAP, ACC)
        seen = _visible(score, query, rows[:, None], key, cols[None, :], T, S, slope, own_bias, bias_row, tile, before, after, BAND, ACC)
        values = _load(v + shared, key, S, G * D, D, BLOCK_K, BLOCK_D)
        grad = tl.exp(seen - log_sums[:, None]) * (_dot(upstream, tl.trans(values), ACC) - mean[:, None])
        if CAP:
            grad *= 1.0 - (score / cap) * (score / cap)
        for_queries += _dot(grad.to(keys.dtype), keys, ACC)
    _store(dq + own, for_queries * factor, query, T, H * D, D, BLOCK_Q, BLOCK_D)


@jit
def _keys_kernel(
    q, k, v, dout, lse, delta, dk, dv, slopes, bias, bias_batch, bias_head, bias_row, table, order, counts, tiles,
    T, S, H, G, D, before, after, scale: tl.float64, softcap: tl.float64, BAND: tl.constexpr, CAP: tl.constexpr, ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    block, rest = tl.program_id(0) % tl.cdiv(S, BLOCK_K), tl.program_id(0) // tl.cdiv(S, BLOCK_K)
    kv, batch = rest % G, (rest // G).to(tl.int64)
    key, rows, cols = block * BLOCK_K, tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    own = (batch * S * G + kv) * D
    factor, cap = tl.full((), scale, ACC), tl.full((), softcap, ACC)
    keys = _load(k + own, key, S, G * D, D, BLOCK_K, BLOCK_D)
    values = _load(v + own, key, S, G * D, D, BLOCK_K, BLOCK_D)
    first, last = _reach(key - (S - T), after, before, T, BLOCK_K, BLOCK_Q)
    if table is not None:  # transposed: a row is a block of keys
        first, last = 0, tl.load(counts + block)
        table += block * tl.cdiv(T, BLOCK_Q)
        order += block * tl.cdiv(T, BLOCK_Q)
    for_keys = tl.zeros((BLOCK_K, BLOCK_D), ACC)
    for_values = tl.zeros((BLOCK_K, BLOCK_D), ACC)
    for head in range(kv * (H // G), (kv + 1) * (H // G)):  # the query heads that share these keys
        slope = None if slopes is None else tl.load(slopes + head).to(ACC)
        own_bias = None if bias is None else bias + batch * bias_batch + tl.full((), head, tl.int64) * bias_head
        theirs, line = (batch * T * H + head) * D, (batch * H + head) * T
        for n in tl.range(first, last, num_stages=STAGES):
            number = n if table is None else tl.load(order + n)
            tile = None if tiles is None else tiles + tl.load(table + number).to(tl.int64) * (64 * 64)
            query = number * BLOCK_Q
            queries = _load(q + theirs, query, T, H * D, D, BLOCK_Q, BLOCK_D)
            # Keys by queries: the products below need it so, and Triton 3.4 to 3.7 goes wrong where a product is turned on Hopper.
            score = _score(_dot(keys, tl.trans(queries), ACC), factor, cap, CAP, ACC)
            seen = _visible(score, query, rows[None, :], key, cols[:, None], T, S, slope, own_bias, bias_row, tile, before, after, BAND, ACC)
            log_sums = tl.load(lse + line + query + rows, rows < T - query, other=float("inf"))
            weight = tl.exp(seen - log_sums[None, :])
            upstream = _load(dout + theirs, query, T, H * D, D, BLOCK_Q, BLOCK_D)
            for_values += _dot(weight.to(upstream.dtype), upstream, ACC)
            mean = tl.load(delta + line + query + rows, rows < T - query, other=0.0)
            grad = weight * (_dot(values, tl.trans(upstream), ACC) - mean[None, :])
            if CAP:
                grad *= 1.0 - (score / cap) * (score / cap)
            for_keys += _dot(grad.to(queries.dtype), queries, ACC)
    _store(dk + own, for_keys * factor, key, S, G * D, D, BLOCK_K, BLOCK_D)
    _store(dv + own, for_values, key, S, G * D, D, BLOCK_K, BLOCK_D)


@jit
def _bias_kernel(
    q, k, v, dout, lse, delta, dbias, slopes, bias, bias_batch, bias_head, bias_row, table, order, counts, tiles,
    T, S, H, G, D, before, after, scale: tl.float64, softcap: tl.float64, batches, heads, heads_given,
    BAND: tl.constexpr, CAP: tl.constexpr, ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One tile of the bias, added up over the ``batches`` and ``heads`` that share it; it was given for ``heads_given``."""
    block, rest = tl.program_id(0) % tl.cdiv(S, BLOCK_K), tl.program_id(0) // tl.cdiv(S, BLOCK_K)
    line, which = rest % tl.cdiv(T, BLOCK_Q), (rest // tl.cdiv(T, BLOCK_Q)).to(tl.int64)
    query, key, rows, cols = line * BLOCK_Q, block * BLOCK_K, tl.arange(0, BLOCK_Q), tl.arange(0, BLOCK_K)
    factor, cap = tl.full((), scale, ACC), tl.full((), softcap, ACC)
    first, last = _reach(query + S - T, before, after, S, BLOCK_Q, BLOCK_K)
    number = 0 if table is None else tl.load(table + line * tl.cdiv(S, BLOCK_K) + block)
    tile = None if tiles is None else tiles + number.to(tl.int64) * (64 * 64)
    shared = tl.where((first <= block) & (block < last) & (number >= 0), batches * heads, 0)  # none where nothing is seen
    total = tl.zeros((BLOCK_Q, BLOCK_K), ACC)
    for n in tl.range(0, shared, num_stages=STAGES):
        batch, head = which // heads_given + n // heads, (which % heads_given + n % heads).to(tl.int32)
        slope = None if slopes is None else tl.load(slopes + head).to(ACC)
        own_bias = bias + batch * bias_batch + tl.full((), head, tl.int64) * bias_head
        theirs, keys_begin, sums = (batch * T * H + head) * D, (batch * S * G + head // (H // G)) * D, (batch * H + head) * T + query
        queries = _load(q + theirs, query, T, H * D, D, BLOCK_Q, BLOCK_D)
        keys = _load(k + keys_begin, key, S, G * D, D, BLOCK_K, BLOCK_D)
        score = _score(_dot(queries, tl.trans(keys), ACC), factor, cap, CAP, ACC)
        seen = _visible(score, query, rows[:, None], key, cols[None, :], T, S, slope, own_bias, bias_row, tile, before, after, BAND, ACC)
        log_sums = tl.load(lse + sums + rows, rows < T - query, other=float("inf"))
        mean = tl.load(delta + sums + rows, rows < T - query, other=0.0)
        upstream = _load(dout + theirs, query, T, H * D, D, BLOCK_Q, BLOCK_D)
        values = _load(v + keys_begin, key, S, G * D, D, BLOCK_K, BLOCK_D)
        total += tl.exp(seen - log_sums[:, None]) * (_dot(upstream, tl.trans(values), ACC) - mean[:, None])
    there = dbias + (which * T + query) * S + key + rows[:, None] * S + cols[None, :]
    tl.store(there, total.to(dbias.dtype.element_ty), (rows < T - query)[:, None] & (cols < S - key)[None, :])


def _config(kernel: str, width: int, sort: str) -> tuple[int, ...]:
    block = 64 if width <= 64 else 128
    return *CONFIGS[kernel, sort][block], block


def _sort(dtype: torch.dtype, bias: bool, blocks: bool) -> str:
    return "float32" if dtype.itemsize > 2 else "bias" if bias else "blocks" if blocks else "dense"


def _lists(blocks: Tensor | None, T: int, S: int, rows: int, columns: int) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The table in tiles of these sizes; for each of its rows the visible ones before the others; and how many they are."""
    if blocks is None:
        return None, None, None
    table = blocks.repeat_interleave(BLOCK // rows, 0).repeat_interleave(BLOCK // columns, 1)[: -(-T // rows), : -(-S // columns)]
    seen = table >= 0
    return table.contiguous(), torch.argsort(seen.int(), dim=1, descending=True, stable=True).int(), seen.sum(1, dtype=torch.int32)


def _settings(config, q, k, slopes, bias, blocks, tiles, before, after, scale, softcap, *, turned=False):
    """What all kernels take after their own tensors, by name."""
    (_, T, H, D), (_, S, G, _), (block_q, block_k, warps, stages, block_d) = q.shape, k.shape, config
    if turned:
        table, order, counts = _lists(None if blocks is None else blocks.T, S, T, block_k, block_q)
    else:
        table, order, counts = _lists(blocks, T, S, block_q, block_k)
    if bias is not None and bias.stride(3) != 1:
        bias = bias.contiguous()
    steps = (0, 0, 0) if bias is None else [0 if n == 1 else step for n, step in zip(bias.shape[:3], bias.stride())]
    return dict(
        slopes=None if slopes is None else slopes.contiguous(), bias=bias, bias_batch=steps[0], bias_head=steps[1], bias_row=steps[2], table=table, order=order, counts=counts,
        tiles=None if tiles is None else tiles.contiguous(), T=T, S=S, H=H, G=G, D=D, before=before, after=after, scale=scale,
        softcap=softcap, BAND=min(before, after) < FAR, CAP=softcap > 0, ACC=accumulate_in(q.dtype), BLOCK_Q=block_q, BLOCK_K=block_k,
        BLOCK_D=block_d, STAGES=stages, num_warps=warps,
        maxnreg=MOST if q.dtype.itemsize > 2 else None,
    )  # fmt: skip


def _forward_launch(q, k, v, *settings):
    out, lse = _forward_fake(q, k, v, *settings)
    (B, T, H, D), (_, bias, blocks, *_) = q.shape, settings
    if q.numel():
        config = _config("forward", D, _sort(q.dtype, bias is not None, blocks is not None))
        q, k, v = (x.contiguous() for x in (q, k, v))
        _forward_kernel[(-(-T // config[0]) * B * H,)](q, k, v, out, lse, **_settings(config, q, k, *settings))
    return out, lse


def _forward_fake(q, k, v, *settings):
    B, T, H, _ = q.shape
    return torch.empty(q.shape, dtype=q.dtype, device=q.device), torch.empty((B, H, T), dtype=accumulator(q.dtype), device=q.device)


def _forward_plain(q, k, v, *settings):
    weights, lse, _ = _weights(q, k, *settings)
    out = weights @ _spread(v, q.shape[2])
    return out.transpose(1, 2).to(q.dtype).contiguous(), lse


def _backward_launch(dout, q, k, v, out, lse, for_bias, *settings):
    dq, dk, dv, dbias = _backward_fake(dout, q, k, v, out, lse, for_bias, *settings)
    (B, T, H, D), (_, S, G, _), (_, bias, blocks, *_) = q.shape, k.shape, settings
    sort = _sort(q.dtype, bias is not None, blocks is not None)
    dout, q, k, v, out = (x.contiguous() for x in (dout, q, k, v, out))
    lse = torch.where(lse == -torch.inf, torch.inf, lse).contiguous()  # a query that sees nothing: its weights become 0 and not NaN
    delta = torch.empty(lse.shape, dtype=lse.dtype, device=lse.device)
    if q.numel():
        config = _config("queries", D, sort)
        _queries_kernel[(-(-T // config[0]) * B * H,)](q, k, v, out, dout, lse, delta, dq, **_settings(config, q, k, *settings))
    if k.numel():
        config = _config("keys", D, sort)
        _keys_kernel[(-(-S // config[1]) * B * G,)](q, k, v, dout, lse, delta, dk, dv, **_settings(config, q, k, *settings, turned=True))
    if dbias.numel():
        config, (batches, heads, _, _) = _config("bias", D, sort), dbias.shape
        shared = dict(batches=B // batches, heads=H // heads, heads_given=heads)
        programs = -(-T // config[0]) * -(-S // config[1]) * batches * heads
        _bias_kernel[(programs,)](q, k, v, dout, lse, delta, dbias, **shared, **_settings(config, q, k, *settings))
    return dq, dk, dv, dbias


def _backward_fake(dout, q, k, v, out, lse, for_bias, slopes, bias, *_):
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v, bias if for_bias else q[:0]))


def _backward_plain(dout, q, k, v, out, lse, for_bias, slopes, bias, blocks, tiles, before, after, scale, softcap):
    weights, _, score = _weights(q, k, slopes, bias, blocks, tiles, before, after, scale, softcap)
    wide, upstream = (x.to(lse.dtype).transpose(1, 2) for x in (out, dout))
    mean = (wide * upstream).sum(-1, keepdim=True)
    grad = weights * (upstream @ _spread(v, q.shape[2]).mT - mean)
    dbias = grad.sum_to_size(bias.shape).to(bias.dtype) if for_bias else torch.empty_like(q[:0])
    grad = grad * scale
    if softcap:
        grad = grad * (1 - (score / softcap).square())
    dq = grad @ _spread(k, q.shape[2])
    dk, dv = grad.mT @ q.to(lse.dtype).transpose(1, 2), weights.mT @ upstream
    dk, dv = (x.unflatten(1, (k.shape[2], -1)).sum(2) for x in (dk, dv))
    return *(x.transpose(1, 2).to(q.dtype).contiguous() for x in (dq, dk, dv)), dbias


def _spread(x: Tensor, heads: int) -> Tensor:
    """Keys or values ``(B, S, G, D)`` for every query head: ``(B, H, S, D)``, in the accumulator's dtype."""
    return x.to(accumulator(x.dtype)).transpose(1, 2).repeat_interleave(heads // x.shape[2], 1)


def _weights(q, k, slopes, bias, blocks, tiles, before, after, scale, softcap) -> tuple[Tensor, Tensor, Tensor]:
    """The weights ``(B, H, T, S)``, the log-sums, and the scores as they come out of the softcap."""
    T, S = q.shape[1], k.shape[1]
    score = capped = scale * q.to(accumulator(q.dtype)).transpose(1, 2) @ _spread(k, q.shape[2]).mT
    if softcap:
        score = capped = softcap * torch.tanh(score / softcap)
    query, key = torch.arange(T, device=q.device)[:, None], torch.arange(S, device=q.device)
    back = query + (S - T) - key
    if slopes is not None:
        score = score - slopes.to(score.dtype)[:, None, None] * back.abs()
    if bias is not None:
        score = score + bias.to(score.dtype)
    seen = (back <= before) & (back >= -after)
    if blocks is not None:
        number = blocks.long()[query // BLOCK, key // BLOCK]
        seen = seen & (number >= 0)
        if tiles is not None:
            seen = seen & (tiles[number.clamp(min=0), query % BLOCK, key % BLOCK] != 0)
    score = score.masked_fill(~seen, -torch.inf)
    lse = score.logsumexp(-1)
    hidden = lse == -torch.inf
    return (score - lse.masked_fill(hidden, 0.0)[..., None]).exp(), lse, capped


_SETTINGS = "Tensor? slopes, Tensor? bias, Tensor? blocks, Tensor? tiles, int before, int after, float scale, float softcap"
_forward = register(
    "vocab::attention_forward",
    f"(Tensor q, Tensor k, Tensor v, {_SETTINGS}) -> (Tensor, Tensor)",
    launch=_forward_launch,
    plain=_forward_plain,
    fake=_forward_fake,
)
_backward = register(
    "vocab::attention_backward",
    f"(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, bool for_bias, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor)",
    launch=_backward_launch,
    plain=_backward_plain,
    fake=_backward_fake,
)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, slopes, bias, blocks, tiles, *numbers):
        out, lse = _forward(q, k, v, slopes, bias, blocks, tiles, *numbers)
        ctx.save_for_backward(q, k, v, out, lse, slopes, bias, blocks, tiles)
        ctx.numbers = numbers
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, _):
        q, k, v, out, lse, *tensors = ctx.saved_tensors
        for_bias = ctx.needs_input_grad[4]
        dq, dk, dv, dbias = _backward(dout, q, k, v, out, lse, for_bias, *tensors, *ctx.numbers)
        return dq, dk, dv, None, dbias if for_bias else None, *[None] * 6


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    before: int | None = None,
    after: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
    slopes: Tensor | None = None,
    bias: Tensor | None = None,
    blocks: Tensor | None = None,
    tiles: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Softmax attention of T queries, the last of as many tokens as there are keys, or of tokens beyond them.

    The kernel reads q, k and v where the heads of a token lie side by side, as a projection leaves them, and copies them if they do not, or
    if their width is no multiple of 16.
    Sums are kept in float32 (float64 for float64). A query that sees no key gets zeros.

    Args:
        q: Queries ``(B, H, T, D)``.
        k: Keys ``(B, G, S, D)``; G divides H, and head i reads key/value head ``i // (H / G)``.
        v: Values ``(B, G, S, D)``.
        before: How many keys before its own place a query sees; all if not given.
        after: How many behind it; all if not given. 0 is causal.
        scale: Factor of the scores; ``1 / sqrt(D)`` if not given.
        softcap: Scaled scores become ``softcap * tanh(score / softcap)``, as in Gemma 2; 0 for none.
        slopes: ``(H,)``: minus slope times distance is added to the scores (ALiBi). Gets no gradient from the kernel.
        bias: Added to the scores, in any floating-point dtype; broadcasts to ``(B, H, T, S)``, and -inf hides a key. Whoever shares a bias in the batch or
            among heads adds to its gradient.
        blocks: int32 ``(T / 64, S / 64)``, rounded up: -1 where no query of a block of 64 sees any of 64 keys. Only the others are visited.
        tiles: uint8 ``(n, 64, 64)``: where ``blocks`` has the number n, only the keys (columns) with a 1 in ``tiles[n]`` are seen. Without
            tiles all of the block is.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        ``(B, H, T, D)``, and ``(B, H, T)``: for each query the logarithm of the sum that its weights were divided by, without gradient.

    Raises:
        ValueError: If the bias does not broadcast, or is not made of floating-point numbers.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.
    """
    options = dict(before=before, after=after, scale=scale, softcap=softcap, slopes=slopes, bias=bias, blocks=blocks, tiles=tiles)
    return (fused if applies(q, k, v, backend, slopes=slopes) else reference)(q, k, v, **options)


def applies(
    q: Tensor, k: Tensor, v: Tensor, backend: str, *, slopes: Tensor | None = None, limit: str | None = None
) -> bool:
    """Whether the kernel is to run; raises where it was asked for and cannot, for instance because of the caller's ``limit``."""
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.dtype not in POINTER or tensor.dtype != q.dtype:
            limit = limit or f"{name} has dtype {tensor.dtype}" + (f" and q {q.dtype}" if tensor.dtype in POINTER else "")
    if not q.shape[3] == v.shape[3] <= WIDEST:
        limit = limit or f"heads are {q.shape[3]} and values {v.shape[3]} wide; the tiles hold equal widths up to {WIDEST}"
    if q.is_cuda and q.dtype == torch.float64:
        limit = limit or "the compiler has no float64 products of these shapes"
    if slopes is not None and slopes.requires_grad:
        limit = limit or "slopes wants a gradient, which the kernel does not compute"
    return use_triton("attention", backend, q, limit=limit, worthwhile=q[..., 0].numel() * k.shape[2] >= WORTHWHILE)


def fused(q: Tensor, k: Tensor, v: Tensor, **options) -> tuple[Tensor, Tensor]:
    """``attention`` by the kernel, whatever the size."""
    out, lse = _Attention.apply(*(padded(x.transpose(1, 2), -1) for x in (q, k, v)), *_arguments(q, k, **options))
    return out[..., : q.shape[3]].transpose(1, 2), lse


def reference(q: Tensor, k: Tensor, v: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The same in plain torch, with all scores in memory."""
    arguments = _arguments(q, k, **options)
    weights, lse, _ = _weights(q.transpose(1, 2), k.transpose(1, 2), *arguments)
    return (weights @ _spread(v.transpose(1, 2), q.shape[1])).to(q.dtype), lse.detach()


def expand_bias(bias: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """The bias with four axes, of which only the first two, batch and heads, may still be 1 where ``q`` ``(B, H, T, D)`` has more.

    Raises:
        ValueError: If it does not broadcast to ``(B, H, T, S)``, or is not made of floating-point numbers.
    """
    full = (*q.shape[:3], k.shape[2])
    if bias.ndim > 4 or any(n not in (1, m) for n, m in zip(bias.shape[::-1], full[::-1])):
        raise ValueError(f"bias has shape {tuple(bias.shape)}, which does not broadcast to {full}")
    if not bias.is_floating_point():
        raise ValueError(f"bias has dtype {bias.dtype}; expected floating-point numbers, -inf where a key is hidden")
    return bias[(None,) * (4 - bias.ndim)].expand(-1, -1, *full[2:])


def _arguments(q, k, *, before=None, after=None, scale=None, softcap=0.0, slopes=None, bias=None, blocks=None, tiles=None) -> tuple:
    """Options as the operators take them."""
    before, after = (FAR if n is None else min(n, FAR) for n in (before, after))
    bias = None if bias is None else expand_bias(bias, q, k)
    return slopes, bias, blocks, tiles, before, after, q.shape[3] ** -0.5 if scale is None else scale, softcap


def _inputs(sizes, dtype, device):
    """Queries, keys and values; then empty, or what ``sizes`` asks for: slopes, bias, blocks and tiles. A window is the length of the last."""
    B, H, G, T, S, D = (sizes[name] for name in ("batch", "heads", "kv_heads", "queries", "keys", "width"))
    # In memory as a projection leaves them, with the heads of a token side by side.
    q, k, v = (random((B, t, n, D), dtype, device).transpose(1, 2).requires_grad_() for n, t in ((H, T), (G, S), (G, S)))
    slopes = 0.5 ** torch.arange(1.0, H + 1)[: H * sizes.get("slopes", 0)]
    bias = random((1, H, T, S) if sizes.get("bias") else (0,), dtype, device)
    if sizes.get("bias"):
        bias[:, 0, 2::5, 1::3] = -torch.inf
        bias.requires_grad_()
    rows, columns, given = -(-T // BLOCK), -(-S // BLOCK), sizes.get("blocks", 0)
    back = torch.arange(rows)[:, None] + (columns - rows) - torch.arange(columns)
    near = (back == 0) | (back == 1) | (back > 1) & (torch.arange(columns) % 8 == 7)
    blocks = torch.where(near, (back > 0).int(), -1)[: rows * given].int()
    tiles = (torch.rand(2 * given, BLOCK, BLOCK) < 0.8).to(torch.uint8)
    tiles[:, 17] = 0  # these queries see nothing
    return q, k, v, *(x.to(device) for x in (slopes, bias, blocks, tiles, torch.empty(sizes.get("window", 0), 0)))


def _run(q, k, v, slopes, bias, blocks, tiles, window, *, bare=False, backend="auto", **options):
    extras = dict(slopes=slopes, bias=bias, blocks=blocks, tiles=tiles)
    options = {"after": 0, "before": len(window) - 1 if len(window) else None, **options}
    extras = {name: x for name, x in extras.items() if x.numel() and not bare}
    return attention(q, k, v, **options, **extras, backend=backend)[0]


def _pairs(sizes) -> float:
    """Scores of one head that are seen, about."""
    T, S = sizes["queries"], sizes["keys"]
    if sizes.get("blocks"):
        return T * min(S, 2 * BLOCK + S / 16)
    return T * sizes["window"] if sizes.get("window") else T * (S - T / 2)


def _cost(sizes, dtype, direction):
    products = 2 if direction == "forward" else 5  # of a tile of scores with a head's width
    table = sizes.get("bias", 0) * sizes["heads"] * sizes["queries"] * sizes["keys"]
    flops = 2 * products * sizes["batch"] * sizes["heads"] * sizes["width"] * _pairs(sizes)
    of_queries, of_keys = (sizes["batch"] * sizes[h] * sizes[t] * sizes["width"] for h, t in (("heads", "queries"), ("kv_heads", "keys")))
    passes = 2 if direction == "forward" else 4
    return Cost(bytes=(passes * (of_queries + of_keys) + passes // 2 * table) * dtype.itemsize, flops=flops)


def _sees(shift, window, blocks, tiles):
    def sees(b, h, query, key):
        back = query + shift - key
        seen = (back >= 0) & (back < window)
        if blocks is None:
            return seen
        number = blocks[query // BLOCK, key // BLOCK].long()
        return seen & (number >= 0) & (tiles[number.clamp(min=0), query % BLOCK, key % BLOCK] != 0)

    return sees


def _masks(q, k, blocks, tiles, window) -> tuple:
    """What decides who sees what: sizes, and the tables or None."""
    T, S = q.shape[2], k.shape[2]
    return T, S, len(window) or S, blocks if len(blocks) else None, tiles if len(blocks) else None


def _sdpa(q, k, v, slopes, bias, *masks):
    """torch's own: cuDNN or FlashAttention where there is nothing but causality, else with all of it in one table of T x S."""
    T, S, *rules = _masks(q, k, *masks)
    if T == S == rules[0] and not len(slopes) and not len(bias) and rules[1] is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    query, key = torch.arange(T, device=q.device)[:, None], torch.arange(S, device=q.device)
    table = torch.zeros(1, 1, T, S, dtype=q.dtype, device=q.device).masked_fill(~_sees(S - T, *rules)(0, 0, query, key), -torch.inf)
    if len(slopes):
        table = table - (slopes[:, None, None] * (query + S - T - key).abs()).to(q.dtype)
    if len(bias):
        table = table + bias
    return F.scaled_dot_product_attention(q, k, v, attn_mask=table, enable_gqa=True).nan_to_num()


@functools.cache
def _flex_mask(T, S, *rules):
    from torch.nn.attention.flex_attention import create_block_mask

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return create_block_mask(_sees(S - T, *rules), None, None, T, S, device=device)


@functools.cache
def _flex_attention(compiled: bool):
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention) if compiled else flex_attention


def _flex(q, k, v, slopes, bias, *masks):
    shift = k.shape[2] - q.shape[2]

    def changed(score, b, h, query, key):
        score = score - slopes[h] * (query + shift - key).abs() if len(slopes) else score
        return score + bias[0, h, query, key] if len(bias) else score

    mask = _flex_mask(*_masks(q, k, *masks))
    return _flex_attention(q.is_cuda)(q, k, v, score_mod=changed if len(slopes) or len(bias) else None, block_mask=mask, enable_gqa=True)


def _sizes(batch, heads, kv_heads, queries, keys, width, **extras):
    return dict(batch=batch, heads=heads, kv_heads=kv_heads, queries=queries, keys=keys, width=width, **extras)


def _builds():
    own = {
        "forward": ("q", "k", "v", "out"), "queries": ("q", "k", "v", "out", "dout", "dq"), "keys": ("q", "k", "v", "dout", "dk", "dv"),
        "bias": ("q", "k", "v", "dout", "dbias"),
    }  # fmt: skip
    integers = ("T", "S", "H", "G", "D", "before", "after", "bias_batch", "bias_head", "bias_row")
    numbers = {**dict.fromkeys(integers, "i32"), "scale": "fp64", "softcap": "fp64"}
    lists = {"table": "*i32", "order": "*i32", "counts": "*i32", "tiles": "*u8"}
    for (kernel, sort), widths in CONFIGS.items():
        dtype = torch.float32 if sort == "float32" else torch.bfloat16  # which stands for float16 too
        for width in widths:
            block_q, block_k, warps, stages, block_d = _config(kernel, width, sort)

            def at(sizes, width=width, sort=sort, kernel=kernel):
                bias, blocks = bool(sizes.get("bias")), bool(sizes.get("blocks"))
                here = (sizes["width"] > 64) == (width > 64) and (bias or kernel != "bias")
                return here and sort in ("float32", _sort(torch.bfloat16, bias, blocks))

            # With everything that can be asked of it, and for a causal mask alone, or with a bias.
            for full in (True, False) if sort in ("dense", "bias") else (True,):
                asked = {"slopes": "*fp32"} if full else {}
                if sort in ("bias", "float32"):
                    asked["bias"] = POINTER[dtype]
                if full and sort != "dense":
                    asked |= lists
                signature = {**dict.fromkeys(own[kernel], POINTER[dtype]), "lse": "*fp32", **asked, **numbers}
                if kernel != "forward":
                    signature["delta"] = "*fp32"
                if kernel == "bias":
                    signature |= dict.fromkeys(("batches", "heads", "heads_given"), "i32")
                constants = {
                    **{name: None for name in ("slopes", "bias", *lists) if name not in asked}, "BAND": True, "CAP": full, "ACC": tl.float32,
                    "BLOCK_Q": block_q, "BLOCK_K": block_k, "BLOCK_D": block_d, "STAGES": stages,
                }  # fmt: skip
                cores, given = "" if sort == "float32" else "wgmma", "bias" if sort == "bias" else ""
                most = MOST if sort == "float32" else None
                yield Build(f"_{kernel}_kernel", signature, constants, warps, 1, cores, ("D",), given, most, at)


LONG = (
    "causal, 8192 tokens", "window 1024 of 8192", "ALiBi, 8192 tokens", "block sparse, 8192 tokens", "bias for 8 texts of 2048 tokens",
)  # fmt: skip
SPEC = Spec(
    name="attention",
    summary="Softmax attention, causal, in windows, with ALiBi, a bias, softcap or block mask, without its table of weights.",
    run=_run,
    inputs=_inputs,
    dtypes=(torch.float16, torch.bfloat16, torch.float32),
    shapes={
        "causal, 8192 tokens": _sizes(1, 16, 16, 8192, 8192, 128),
        "window 1024 of 8192": _sizes(1, 16, 16, 8192, 8192, 128, window=1024),
        "ALiBi, 8192 tokens": _sizes(1, 16, 16, 8192, 8192, 64, slopes=1),
        "block sparse, 8192 tokens": _sizes(1, 16, 16, 8192, 8192, 64, blocks=1),
        "bias for 8 texts of 2048 tokens": _sizes(8, 16, 16, 2048, 2048, 64, bias=1),
        "small, 256 tokens": _sizes(1, 8, 2, 256, 256, 64),
    },
    tails=(
        _sizes(1, 1, 1, 1, 1, 1),
        _sizes(2, 4, 2, 7, 5, 20, slopes=1),
        _sizes(3, 4, 2, 65, 33, 20, bias=1),
        _sizes(1, 1, 1, 63, 65, 64, window=30),
        _sizes(1, 1, 1, 65, 66, 65, blocks=1),
        _sizes(1, 1, 1, 3, 2, 16),
        _sizes(1, 2, 2, 0, 3, 4),
        _sizes(1, 2, 1, 3, 0, 4, bias=1),
        _sizes(0, 2, 1, 3, 4, 4, bias=1),
    ),
    probe=_sizes(2, 2, 1, 40, 130, 20, slopes=1, bias=1, blocks=1, window=50),
    cost=_cost,
    directions=("forward", "backward"),
    variants=({"softcap": 1.5}, {"bare": True, "before": 33, "after": 7}, {"bare": True, "before": None, "after": None, "scale": 0.5}),
    baselines={"SDPA": _sdpa, "flex_attention": _flex},
    targets={
        "eager": dict.fromkeys(LONG, 5.0),
        "compile": dict.fromkeys(LONG, 3.0),
        "SDPA": {"causal, 8192 tokens": 0.65},
        "flex_attention": dict.fromkeys(LONG[1:], 1.0),
    },
    builds=tuple(_builds()) if triton else (),
    gpu=(
        _sizes(1, 2, 2, 65, 1, 1),
        _sizes(1, 4, 1, 333, 200, 100, window=70),
        _sizes(1, 2, 2, 330, 397, 40, blocks=1),
        _sizes(2, 2, 1, 397, 397, 128, blocks=1, slopes=1),
        _sizes(2, 4, 2, 200, 333, 64, slopes=1),
        _sizes(3, 4, 2, 150, 333, 64, bias=1),
        _sizes(2, 2, 1, 333, 397, 100, bias=1, blocks=1),
    ),
    operators=("attention_forward", "attention_backward"),
)
