import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from snippets.recurrent.lstm import lstm as numpy_lstm
from vocab.recurrent.lstm import LSTM

D = torch.float64


def example():
    return LSTM(3, 4, 2).double(), (torch.randn(2, 5, 3, dtype=D),)


def twin(ours, theirs):
    theirs = theirs.double()
    theirs.load_state_dict(ours.state_dict())
    return theirs


def forced(lstm, **biases):
    """No weights but those of the candidate; gates fixed by their biases: 800 is open, -800 shut."""
    H = lstm.hidden_size
    for p in lstm.parameters():
        p.data.mul_(0)
    for name, value in biases.items():
        k = "ifgo".index(name)
        lstm.bias_ih_l0.data[k * H : (k + 1) * H] = value
    return lstm


@pytest.mark.oracle("torch.nn.LSTM with copied weights, outputs and all gradients")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_equals_pytorch_with_all_gradients(bidirectional, bias, batch_first):
    settings = dict(bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    ours = LSTM(3, 4, 2, **settings).double()
    theirs, x = twin(ours, nn.LSTM(3, 4, 2, **settings)), torch.randn(6, 5, 3, dtype=D)
    start = tuple(torch.randn(2 + 2 * bidirectional, 6 if batch_first else 5, 4, dtype=D) for _ in range(2))
    for state in (None, start):
        results = []
        for module in (ours, theirs):
            y, (h, c) = module(x, state)
            loss = (y**3).sum() + (h**2).sum() + (c**3).sum()
            results.append([y, h, c, *torch.autograd.grad(loss, list(module.parameters()))])
        torch.testing.assert_close(*results)


@pytest.mark.oracle("torch.nn.LSTM on packed sequences")
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padding_is_neither_read_nor_written(bidirectional):
    ours, lengths = LSTM(3, 4, 2, bidirectional=bidirectional).double(), torch.tensor([5, 2, 4])
    theirs, x = twin(ours, nn.LSTM(3, 4, 2, batch_first=True, bidirectional=bidirectional)), torch.randn(3, 5, 3, dtype=D)
    packed, states = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    y, found = ours(x, lengths=lengths)
    torch.testing.assert_close(y, pad_packed_sequence(packed, batch_first=True)[0])
    torch.testing.assert_close(found, states)


def test_a_kept_memory_is_constant_for_ever_and_passes_gradients_whole():
    lstm = forced(LSTM(3, 4).double(), i=-800.0, f=800.0)
    start = torch.randn(1, 2, 4, dtype=D), torch.randn(1, 2, 4, dtype=D)
    x = torch.randn(2, 200, 3, dtype=D)
    assert torch.equal(lstm(x, start)[1][1], start[1])
    jacobian = torch.autograd.functional.jacobian(lambda c: lstm(x, (start[0], c))[1][1], start[1])
    assert torch.equal(jacobian.reshape(8, 8), torch.eye(8, dtype=D))


def test_without_memory_it_is_two_tanh_layers_at_every_step():
    lstm = forced(LSTM(3, 4).double(), i=800.0, f=-800.0, o=800.0)
    lstm.weight_ih_l0.data[8:12] = torch.randn(4, 3, dtype=D)
    x = torch.randn(2, 6, 3, dtype=D)
    torch.testing.assert_close(lstm(x)[0], torch.tanh(torch.tanh(F.linear(x, lstm.weight_ih_l0[8:12]))))


def test_without_a_forget_gate_the_memory_of_1997_can_only_pile_up():
    """A widely copied page cites the paper of 1997 for the cell in use; its forget gate is from 2000."""
    old = forced(LSTM(3, 4).double(), i=0.0, f=800.0, g=800.0)
    x = torch.zeros(1, 40, 3, dtype=D)
    torch.testing.assert_close(old(x)[1][1], torch.full((1, 1, 4), 0.5 * 40, dtype=D))
    new = forced(LSTM(3, 4).double(), i=0.0, f=0.0, g=800.0)
    torch.testing.assert_close(new(x)[1][1], torch.ones(1, 1, 4, dtype=D))  # settles at i / (1 - f)


def test_carrying_both_states_over_equals_one_pass():
    lstm, x = LSTM(3, 4, 2).double(), torch.randn(2, 9, 3, dtype=D)
    whole, last = lstm(x)
    first, state = lstm(x[:, :4])
    second, state = lstm(x[:, 4:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(state, last)


def test_truncation_cuts_both_states():
    lstm, x = LSTM(3, 4).double(), torch.randn(1, 8, 3, dtype=D, requires_grad=True)
    reached = torch.autograd.grad(lstm(x, truncate=3)[0][:, 7].sum(), x)[0].abs().sum((0, 2))
    assert (reached[:6] == 0).all() and (reached[6:] > 0).all()


@pytest.mark.oracle("the count of torch.nn.LSTM's parameters")
def test_a_layer_of_128_to_256_has_395_264_parameters():
    assert sum(p.numel() for p in LSTM(128, 256).parameters()) == 395_264 == 4 * 256 * (128 + 256) + 8 * 256
    assert sum(p.numel() for p in nn.LSTM(128, 256).parameters()) == 395_264


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_forget_gate_starts_open_and_only_once(bidirectional):
    lstm = LSTM(3, 4, 2, bidirectional=bidirectional)
    for suffix in lstm.suffixes:
        total = getattr(lstm, "bias_ih" + suffix) + getattr(lstm, "bias_hh" + suffix)
        assert torch.equal(total[4:8], torch.ones(4))
        for bias, value in (("bias_ih", 1), ("bias_hh", 0)):  # the other gates keep their random start
            others = getattr(lstm, bias + suffix)[[0, 1, 2, 3, *range(8, 16)]]
            assert (others != value).all()
    assert torch.equal((LSTM(3, 4, forget_bias=2.5).bias_ih_l0 + LSTM(3, 4).bias_hh_l0)[4:8], torch.full((4,), 2.5))
    assert LSTM(3, 4, bias=False).bias_ih_l0 is None


def test_the_last_states_of_both_directions_are_at_opposite_ends():
    lstm = LSTM(3, 4, bidirectional=True).double()
    y, (h, _) = lstm(torch.randn(2, 5, 3, dtype=D))
    torch.testing.assert_close(y[:, -1, :4], h[0])
    torch.testing.assert_close(y[:, 0, 4:], h[1])


def test_dropout_acts_between_layers_only():
    x = torch.randn(2, 5, 3)
    deep, flat = LSTM(3, 50, 2, dropout=0.5), LSTM(3, 50, 1, dropout=0.5)
    assert not torch.equal(deep(x)[0], deep(x)[0]) and torch.equal(flat(x)[0], flat(x)[0])
    assert torch.equal(deep.eval()(x)[0], deep(x)[0])


def test_numpy_variant_agrees(agree):
    lstm, x = LSTM(3, 4).double(), torch.randn(1, 6, 3, dtype=D)
    start = tuple(torch.randn(1, 1, 4, dtype=D) for _ in range(2))
    w_x, w_h, b_x, b_h = (p.detach().numpy() for p in lstm.parameters())
    h, c = numpy_lstm(x[0].numpy(), w_x, w_h, b_x + b_h, *(s[0, 0].numpy() for s in start))
    y, (_, last) = lstm(x, start)
    agree(h[1:], y[0])
    agree(c[-1], last[0, 0])
    assert np.isfinite(h).all()


def test_bad_states_and_shapes_say_which_and_why():
    lstm, x, h = LSTM(3, 4), torch.zeros(2, 5, 3), torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match="state has 1 parts; expected two, h and c"):
        lstm(x, (h,))
    with pytest.raises(ValueError, match=r"state\[1\] has shape \(1, 3, 4\); expected \(layers=1, batch=2, hidden_size=4\)"):
        lstm(x, (h, torch.zeros(1, 3, 4)))
    with pytest.raises(ValueError, match=r"state\[0\] has shape \(2, 4\)"):
        lstm(x, (h[0], h))
    with pytest.raises(ValueError, match=r"expected \(layers=2, batch=2, hidden_size=4\)"):
        LSTM(3, 4, bidirectional=True)(x, (h, h))
    with pytest.raises(ValueError, match=r"expected \(batch, time, input_size=3\)"):
        lstm(torch.zeros(2, 5, 4))
