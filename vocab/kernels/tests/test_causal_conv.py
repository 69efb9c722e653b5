import numpy as np
import pytest
import torch
from torch.nn import functional as F

from vocab.kernels.causal_conv import causal_conv, reference
from vocab.kernels.interpret import interpreting
from vocab.kernels.tests.harness import free_memory_or_skip

# One mistake each, as (what the file says, what it says instead); test_mutants.py makes them.
MUTANTS = {
    "reads the future": ("place = at[None, :] - (K - 1 - tap) * dilation", "place = at[None, :] - (K - 2 - tap) * dilation"),
    "the taps in the other order": ("place = at[None, :] - (K - 1 - tap) * dilation", "place = at[None, :] - tap * dilation"),
    "no dilation": ("place = at[None, :] - (K - 1 - tap) * dilation", "place = at[None, :] - (K - 1 - tap)"),
    "a dropped mask": ("(place >= 0) & (place < L) & (tap < K)", "(place >= 0) & (tap < K)"),
    "the state of another sequence": ("(place < 0) & (place >= -S) & (tap < K)", "(place < 0) & (place > -S) & (tap < K)"),
    "no bias": ("total += tl.load(bias).to(ACC)", "total += 0.0 * tl.load(bias).to(ACC)"),
    "the slope of the sigmoid": ("grad *= gate * (1.0 + value * (1.0 - gate))", "grad *= gate * (1.0 - gate)"),
    "no activation": ("value *= tl.sigmoid(value)", "value *= 1.0"),
    "a store past the row": ("tl.store(y + row * L + at, value.to(y.dtype.element_ty), at < L)", "tl.store(y + row * L + at, value.to(y.dtype.element_ty))"),
    "a gradient past the row": ("result.to(dx.dtype.element_ty), (place >= 0) & (place < L))", "result.to(dx.dtype.element_ty), place < L)"),
    "one tap too few on the way back": ("for tap in tl.static_range(K):", "for tap in tl.static_range(K - 1):"),
    "the gradient flows forward": ("at = place + (K - 1 - tap) * dilation", "at = place + tap * dilation"),
    "the weights see the first tile only": ("for start in range(0, L, BLOCK):", "for start in range(0, BLOCK, BLOCK):"),
    "the bias learns nothing": ("of_bias += grad", "of_bias += 0.0 * grad"),
    "one channel for all": ("weight + channel * K, bias, K, TAPS, ACC)\n    if SILU", "weight, bias, K, TAPS, ACC)\n    if SILU"),
}
# Direction, and a mask whose loss triton-viz must see.
SANITIZED = ("both", "value.to(y.dtype.element_ty), at < L)", "value.to(y.dtype.element_ty))")


def example(batch=2, channels=2, length=4, taps=3, dilation=1):
    shapes = ((batch, channels, length), (channels, taps), (channels,), (batch, channels, (taps - 1) * dilation))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def test_reference_is_scipys_filter_started_from_the_state():
    signal = pytest.importorskip("scipy.signal")
    x, weight, bias, state = (t.detach() for t in example(2, 3, 9, 4))
    found = reference(x, state, weight, bias, 1, False)
    whole = np.concatenate([state.numpy(), x.numpy()], -1)
    for b in range(2):
        for c in range(3):
            expected = signal.lfilter(weight[c].flip(0).numpy(), [1.0], whole[b, c])[3:] + bias[c].item()
            np.testing.assert_allclose(found[b, c].numpy(), expected, rtol=1e-12)
    torch.testing.assert_close(reference(x, state, weight, bias, 1, True), F.silu(found))


def test_operators_on_a_cpu_without_interpreter_are_the_closed_form():
    x, weight, bias, state = example(dilation=2)
    options = (2, True)
    y = torch.ops.vocab.causal_conv_forward(x, state, weight, bias, *options)
    expected = reference(x, state, weight, bias, *options)
    torch.testing.assert_close(y, expected)
    dy = torch.randn_like(y)
    found = torch.ops.vocab.causal_conv_backward(dy, x, state, weight, bias, *options)
    torch.testing.assert_close(tuple(found), torch.autograd.grad(expected, (x, state, weight, bias), dy))
    bare = torch.ops.vocab.causal_conv_backward(dy, x, None, weight, None, 1, False)
    expected = torch.autograd.grad(reference(x, None, weight, None, 1, False), (x, weight), dy)
    torch.testing.assert_close((bare[0], bare[2]), expected)
    assert bare[1].numel() == bare[3].numel() == 0


@pytest.mark.interp
@pytest.mark.parametrize("silu", [False, True])
def test_gradcheck(silu):
    with interpreting():
        torch.autograd.gradcheck(
            lambda *t: causal_conv(*t, dilation=2, silu=silu, backend="triton"), example(1, 2, 3, 2, dilation=2)
        )


@pytest.mark.interp
def test_a_sequence_in_pieces_is_the_whole():
    x, weight, bias, _ = (t.detach() for t in example(1, 2, 12, 4))
    with interpreting():
        whole = causal_conv(x, weight, bias, silu=True, backend="triton")
        first = causal_conv(x[..., :5], weight, bias, silu=True, backend="triton")
        rest = causal_conv(x[..., 5:], weight, bias, x[..., 2:5], silu=True, backend="triton")
    torch.testing.assert_close(torch.cat([first, rest], -1), whole, rtol=1e-13, atol=1e-13)


@pytest.mark.interp
def test_a_nan_reaches_only_the_outputs_that_read_it():
    x = torch.zeros(1, 2, 9)
    x[0, 1, 4] = torch.nan
    with interpreting():
        y = causal_conv(x, torch.ones(2, 3), backend="triton")
    assert y[0, 1].isnan().tolist() == [False] * 4 + [True] * 3 + [False] * 2 and not y[0, 0].isnan().any()


@pytest.mark.interp
def test_too_many_taps_are_refused():
    with interpreting(), pytest.raises(RuntimeError, match="17 taps are more than 16"):
        causal_conv(torch.zeros(1, 1, 3), torch.zeros(1, 17), backend="triton")


@pytest.mark.gpu
def test_past_two_to_the_31_numbers():
    free_memory_or_skip(30)
    positions = 2**26
    x = torch.zeros(1, 33, positions, dtype=torch.bfloat16, device="cuda")
    x[0, -1, -2:] = 1.0
    weight = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, device="cuda").expand(33, 2)
    y = causal_conv(x, weight, backend="triton")
    assert y[0, -1, -3:].tolist() == [0.0, 2.0, 3.0] and y.count_nonzero() == 2
