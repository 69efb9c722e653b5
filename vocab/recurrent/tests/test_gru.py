import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from snippets.recurrent.gru import gru as numpy_gru
from vocab.recurrent.gru import GRU

D = torch.float64


def example():
    return GRU(3, 4, 2).double(), (torch.randn(2, 5, 3, dtype=D), torch.randn(2, 2, 4, dtype=D))


def twin(ours, theirs):
    theirs = theirs.double()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def with_gates(reset=None, update=None, **settings):
    """A GRU with gates fixed by their biases: 800 is 1, -800 is 0."""
    gru = GRU(3, 4, **settings).double()
    for k, value in enumerate((reset, update)):
        if value is not None:
            rows = slice(4 * k, 4 * k + 4)
            for p in (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_hh_l0):
                p.data[rows] = 0
            gru.bias_ih_l0.data[rows] = value
    return gru


@pytest.mark.oracle("torch.nn.GRU with copied weights, outputs and all gradients")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_pytorch_with_all_gradients(bias, batch_first):
    ours = GRU(3, 4, 2, bias=bias, batch_first=batch_first).double()
    theirs, x = twin(ours, nn.GRU(3, 4, 2, bias=bias, batch_first=batch_first)), torch.randn(6, 5, 3, dtype=D)
    for h0 in (None, torch.randn(2, 6 if batch_first else 5, 4, dtype=D)):
        results = []
        for module in (ours, theirs):
            y, h = module(x, h0)
            results.append([y, h, *torch.autograd.grad((y**3).sum() + (h**2).sum(), list(module.parameters()))])
        torch.testing.assert_close(*results)


@pytest.mark.oracle("torch.nn.GRU on packed sequences")
def test_padding_is_neither_read_nor_written():
    ours, lengths = GRU(3, 4).double(), torch.tensor([5, 2, 4])
    theirs, x = twin(ours, nn.GRU(3, 4, batch_first=True)), torch.randn(3, 5, 3, dtype=D)
    packed, h_theirs = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    y, h = ours(x, lengths=lengths)
    torch.testing.assert_close(y, pad_packed_sequence(packed, batch_first=True)[0])
    torch.testing.assert_close(h, h_theirs)


@pytest.mark.oracle("the formulas of Cho et al. 2014, number by number")
@pytest.mark.parametrize("bias", [True, False])
def test_reset_before_the_product_is_the_cell_of_the_paper(bias):
    gru, x = GRU(2, 3, bias=bias, reset_after=False).double(), torch.randn(1, 4, 2, dtype=D)
    W, U = gru.weight_ih_l0.tolist(), gru.weight_hh_l0.tolist()
    b = (gru.bias_ih_l0 + gru.bias_hh_l0).tolist() if bias else [0.0] * 9
    h, states = [0.0] * 3, []
    for x_t in x[0].tolist():
        def row(k, state):
            return sum(w * v for w, v in zip(W[k], x_t)) + sum(u * v for u, v in zip(U[k], state)) + b[k]

        r = [1 / (1 + math.exp(-row(j, h))) for j in range(3)]
        z = [1 / (1 + math.exp(-row(3 + j, h))) for j in range(3)]
        reset = [a * v for a, v in zip(r, h)]
        new = [math.tanh(row(6 + j, reset)) for j in range(3)]
        h = [z[j] * h[j] + (1 - z[j]) * new[j] for j in range(3)]
        states.append(h)
    torch.testing.assert_close(gru(x)[0][0], torch.tensor(states, dtype=D))


def test_before_and_after_agree_with_an_open_reset_gate_and_not_otherwise():
    for reset, same in ((800.0, True), (0.0, False)):
        after = with_gates(reset=reset)
        before = with_gates(reset=reset, reset_after=False)
        before.load_state_dict(after.state_dict())
        x = torch.randn(2, 5, 3, dtype=D)
        assert torch.allclose(before(x)[0], after(x)[0], rtol=1e-9) == same


def test_an_update_gate_of_one_freezes_the_state():
    gru, x, h0 = with_gates(update=800.0), torch.randn(2, 50, 3, dtype=D), torch.randn(1, 2, 4, dtype=D)
    y, h = gru(x, h0)
    assert torch.equal(h, h0) and torch.equal(y, h0[0][:, None].expand_as(y))


@pytest.mark.parametrize("reset_after", [True, False])
def test_with_both_gates_at_zero_it_is_a_tanh_layer_without_memory(reset_after):
    gru = with_gates(reset=-800.0, update=-800.0, reset_after=reset_after)
    gru.bias_hh_l0.data[8:] = 0
    x, h0 = torch.randn(2, 5, 3, dtype=D), torch.randn(1, 2, 4, dtype=D)
    torch.testing.assert_close(gru(x, h0)[0], torch.tanh(F.linear(x, gru.weight_ih_l0[8:], gru.bias_ih_l0[8:])))


def test_the_state_stays_between_the_old_one_and_the_candidates():
    gru, h0 = GRU(3, 4).double(), torch.full((1, 2, 4), 3.0, dtype=D)
    y, _ = gru(10 * torch.randn(2, 30, 3, dtype=D), h0)
    assert y.max() < 3 and y.min() > -1


def test_a_layer_of_128_to_256_has_three_quarters_of_the_lstms_parameters():
    count = sum(p.numel() for p in GRU(128, 256).parameters())
    assert count == 296_448 == 3 * 256 * (128 + 256) + 6 * 256
    assert count / sum(p.numel() for p in nn.LSTM(128, 256).parameters()) == 0.75
    assert sum(p.numel() for p in GRU(128, 256, bias=False).parameters()) == 294_912


def test_carrying_the_state_over_equals_one_pass():
    gru, x = GRU(3, 4, 2).double(), torch.randn(2, 9, 3, dtype=D)
    first, h = gru(x[:, :4])
    second, h = gru(x[:, 4:], h)
    whole, last = gru(x)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(h, last)


def test_dropout_acts_between_layers_only():
    x = torch.randn(2, 5, 3)
    deep, flat = GRU(3, 50, 2, dropout=0.5), GRU(3, 50, 1, dropout=0.5)
    assert not torch.equal(deep(x)[0], deep(x)[0]) and torch.equal(flat(x)[0], flat(x)[0])
    plain = GRU(3, 50, 2)
    assert torch.equal(plain(x)[0], plain(x)[0])


@pytest.mark.parametrize("reset_after", [True, False])
def test_numpy_variant_agrees(agree, reset_after):
    gru, x, h0 = GRU(3, 4, reset_after=reset_after).double(), torch.randn(1, 6, 3, dtype=D), torch.randn(1, 1, 4, dtype=D)
    states = numpy_gru(x[0].numpy(), *(p.detach().numpy() for p in gru.parameters()), h0[0, 0].numpy(), reset_after)
    agree(states[1:], gru(x, h0)[0][0])
    assert np.isfinite(states).all()


def test_wrong_shapes_name_the_expected_ones():
    gru, x = GRU(3, 4), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 4\); expected \(batch, time, input_size=3\)"):
        gru(torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"h0 has shape \(2, 2, 4\); expected \(layers=1, batch=2, hidden_size=4\)"):
        gru(x, torch.zeros(2, 2, 4))
    with pytest.raises(ValueError, match="not from 1 to 5"):
        gru(x, lengths=torch.tensor([6, 3]))
