"""Kernels broken on purpose, one mistake each: the comparison with plain torch must notice every one."""

import pytest
import torch

from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import SPECS, altered, assert_noticed, check


pytestmark = pytest.mark.interp

MUTANTS = {
    "rms_norm": {
        "a dropped mask": ("tl.load(x + start + cols, inside, other=0.0)", "tl.load(x + start + cols)"),
        "a dropped mask on the way back": ("tl.load(dstream + start + cols, inside, other=0.0)", "tl.load(dstream + start + cols)"),
        "a store past the row": ("tl.store(y + start + cols, result.to(y.dtype.element_ty), inside)", "tl.store(y + start + cols, result.to(y.dtype.element_ty))"),
        "the mean over the block": ("tl.sum(value * value, 0) / D", "tl.sum(value * value, 0) / BLOCK"),
        "eps left out": (" + tl.full((), eps, ACC)", ""),
        "the residual left out of the norm": ("value = rounded.to(ACC)", "value = tl.load(x + start + cols, inside, other=0.0).to(ACC)"),
        "unit offset left out": ("tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET\n    tl.store", "tl.load(weight + cols, inside, other=0.0).to(ACC)\n    tl.store"),
        "no projection in dx": ("(grad - normed * (tl.sum(grad * normed, 0) / D))", "grad"),
        "the wrong sign in dx": ("result = scale * (grad - normed *", "result = scale * (grad + normed *"),
        "the stream's gradient left out": ("if dstream is not None:\n", "if False:\n"),
        "one row too few": ("range(tl.minimum(ROWS, N - first)):\n        scale", "range(tl.minimum(ROWS, N - first) - 1):\n        scale"),
        "the last program runs on": ("range(tl.minimum(ROWS, N - first)):\n        scale", "range(ROWS):\n        scale"),
        "dweight after the weight": ("dweight += grad * normed\n            grad *= tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET", "grad *= tl.load(weight + cols, inside, other=0.0).to(ACC) + OFFSET\n            dweight += grad * normed"),
    },
    "lif": {
        "a dropped mask": ("tl.load(v0 + cols, inside, other=0.0)\n    left", "tl.load(v0 + cols)\n    left"),
        "a store past the row": ("tl.store(v + step + cols, membrane, inside)", "tl.store(v + step + cols, membrane)"),
        "decay to zero instead of rest": ("before_reset = v_rest + decay * (membrane - v_rest) + gain * drive\n        fires", "before_reset = decay * membrane + gain * drive\n        fires"),
        "no gain": ("+ gain * drive\n        fires", "+ drive\n        fires"),
        "refractory one step too long": ("left = tl.where(fires, refractory,", "left = tl.where(fires, refractory + 1,"),
        "subtracts the threshold alone": ("before_reset - (v_th - v_reset), before_reset)", "before_reset - v_th - 0.01, before_reset)"),
        "spikes while it waits": ("fires = fires & (left == 0)", "fires = fires | (left < 0)"),
        "the membrane one step late": ("tl.load(v + step - M + cols, inside & (step > 0)", "tl.load(v + step + cols, inside & (step > 0)"),
        "the reset lets the gradient through": ("grad = tl.where(fired, 0.0, carried)", "grad = carried"),
        "no decay through time": ("carried = decay * grad\n        tl.store", "carried = grad\n        tl.store"),
        "held steps decay": ("tl.where(waiting, carried, decay * grad)", "decay * tl.where(waiting, carried, grad)"),
        "held steps take input": ("grad = tl.where(waiting, 0.0, grad)", "grad = tl.where(waiting, grad, grad)"),
        "fast sigmoid not squared": ("1.0 / (root * root)", "1.0 / root"),
        "arctangent without its half": ("slope * 0.5 /", "slope /"),
        "one step too few": ("for _ in tl.range(T, num_stages=STAGES):\n        if dv", "for _ in tl.range(T - 1, num_stages=STAGES):\n        if dv"),
    },
    "nearest_row": {
        "a dropped mask on the rows": ("tl.where(inside_k[None, :], length[None, :] - 2.0 * product, float(\"inf\"))", "length[None, :] - 2.0 * product"),
        "a dropped mask on the columns": ("inside_n[:, None] & (d < D)[None, :], other=0.0)\n            b", "inside_n[:, None], other=0.0)\n            b"),
        "a store past the end": ("tl.store(distance + n_start + local_n, total, inside_n)", "tl.store(distance + n_start + local_n, total)"),
        "the wrong scale": ("- 2.0 * product", "- product"),
        "no length of the row": ("length += tl.sum(wide * wide, 0)", "length += 0.0 * tl.sum(wide, 0)"),
        "the place in the tile": ("first = k_start + tl.min", "first = tl.min"),
        "the last tile wins": ("closer = lowest < best", "closer = lowest < float(\"inf\")"),
        "one tile too few": ("range(0, K, BLOCK_K)", "range(0, K - BLOCK_K, BLOCK_K)"),
        "one row of the origin only": ("b -= origin[:, None]", "b -= origin[:, None] * 0.5"),
        "the distance of the next row": ("rows + (which[:, None].to(tl.int64) * D", "rows + ((which[:, None].to(tl.int64) ^ 1) * D"),
    },
}


def test_every_kernel_is_broken_in_some_way():
    assert set(MUTANTS) == set(SPECS)


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_an_unaltered_copy_passes(name, monkeypatch, tmp_path):
    """Or the tests below would prove nothing."""
    copy = altered(name, "__all__", "__all__", tmp_path)
    with interpreting(copy):
        check(copy.SPEC, copy.SPEC.probe, torch.float32, monkeypatch)


@pytest.mark.parametrize(("name", "mistake"), [(n, m) for n, all_ in sorted(MUTANTS.items()) for m in all_])
def test_a_mistake_is_noticed(name, mistake, monkeypatch, tmp_path):
    assert_noticed(name, *MUTANTS[name][mistake], monkeypatch, tmp_path)
