import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from snippets.recurrent.bidirectional import bidirectional, influence_of_inputs, states
from vocab.recurrent.bidirectional import Bidirectional, reverse_within
from vocab.recurrent.gru import GRU
from vocab.recurrent.lstm import LSTM
from vocab.recurrent.rnn import RNN

D = torch.float64


def example():
    return Bidirectional(GRU, 3, 4).double(), (torch.randn(2, 5, 3, dtype=D),)


def copy_from(ours, theirs):
    for k, (ahead, back) in enumerate(zip(ours.ahead, ours.back)):
        for layer, suffix in ((ahead, f"_l{k}"), (back, f"_l{k}_reverse")):
            for name, p in layer.named_parameters():
                p.data = getattr(theirs, name.removesuffix("_l0") + suffix).data.clone()


@pytest.mark.oracle("torch.nn.LSTM(bidirectional=True) with copied weights")
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [None, [5, 2, 4]])
def test_equals_pytorch_also_for_packed_sequences(layers, lengths):
    ours = Bidirectional(LSTM, 3, 4, num_layers=layers).double()
    theirs = nn.LSTM(3, 4, layers, batch_first=True, bidirectional=True).double()
    copy_from(ours, theirs)
    x = torch.randn(3, 5, 3, dtype=D)
    if lengths is None:
        expected = theirs(x)[0]
    else:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        expected = pad_packed_sequence(theirs(packed)[0], batch_first=True)[0]
        x[1, 2:], x[2, 4:] = 1e6, torch.nan  # what is in the padding must not matter
        lengths = torch.tensor(lengths)
    torch.testing.assert_close(ours(x, lengths), expected)


def test_equals_our_lstm_that_runs_time_backwards_instead_of_turning_the_sequence_round():
    ours, one = Bidirectional(LSTM, 3, 4).double(), LSTM(3, 4, bidirectional=True).double()
    copy_from(ours, one)
    x, lengths = torch.randn(3, 5, 3, dtype=D), torch.tensor([5, 1, 3])
    torch.testing.assert_close(ours(x, lengths), one(x, lengths=lengths)[0])


def test_the_backward_half_is_the_forward_cell_on_each_reversed_sequence():
    ours, x, lengths = Bidirectional(RNN, 3, 4).double(), torch.randn(3, 5, 3, dtype=D), [5, 2, 4]
    y = ours(x, torch.tensor(lengths))
    for b, n in enumerate(lengths):
        expected = ours.back[0](x[b : b + 1, :n].flip(1))[0].flip(1)
        torch.testing.assert_close(y[b : b + 1, :n, 4:], expected)
        torch.testing.assert_close(y[b : b + 1, :n, :4], ours.ahead[0](x[b : b + 1, :n])[0])
        assert (y[b, n:] == 0).all()


def test_each_half_sees_one_side_and_both_together_everything():
    ours, x = Bidirectional(RNN, 3, 4).double(), torch.randn(1, 5, 3, dtype=D)
    jacobian = torch.autograd.functional.jacobian(ours, x)[0, :, :, 0]  # output time, feature, input time, feature
    ahead, back = (half.abs().amax((1, 3)) > 0 for half in (jacobian[:, :4], jacobian[:, 4:]))
    assert torch.equal(ahead, torch.ones(5, 5).tril().bool()) and torch.equal(back, torch.ones(5, 5).triu().bool())


def test_the_last_step_of_the_backward_half_has_read_one_element_only():
    ours, x = Bidirectional(LSTM, 3, 4).double(), torch.randn(2, 5, 3, dtype=D)
    other = x.clone()
    other[:, :-1] += 1
    assert torch.equal(ours(x)[:, -1, 4:], ours(other)[:, -1, 4:])
    assert not torch.allclose(ours(x)[:, 0, 4:], ours(other)[:, 0, 4:])


def test_swapping_the_cells_and_reversing_the_sequence_swaps_the_halves():
    ours, swapped = Bidirectional(GRU, 3, 4).double(), Bidirectional(GRU, 3, 4).double()
    swapped.ahead.load_state_dict(ours.back.state_dict())
    swapped.back.load_state_dict(ours.ahead.state_dict())
    x = torch.randn(2, 5, 3, dtype=D)
    torch.testing.assert_close(swapped(x.flip(1)).flip(1).roll(4, -1), ours(x))


def test_the_sum_adds_both_halves():
    both, total = Bidirectional(GRU, 3, 4).double(), Bidirectional(GRU, 3, 4, merge="sum").double()
    total.load_state_dict(both.state_dict())
    x = torch.randn(2, 5, 3, dtype=D)
    torch.testing.assert_close(total(x), both(x)[..., :4] + both(x)[..., 4:])
    assert Bidirectional(GRU, 3, 4, merge="sum", num_layers=2)(x.float()).shape == (2, 5, 4)


def test_any_causal_layer_will_do():
    class Running(nn.Module):
        def __init__(self, input_size, hidden_size):
            super().__init__()

        def forward(self, x):
            return x.cumsum(1)

    x = torch.arange(1.0, 6).view(1, 5, 1).double()
    y = Bidirectional(Running, 1, 1)(x, torch.tensor([4]))
    assert y[0].tolist() == [[1, 10], [3, 9], [6, 7], [10, 4], [0, 0]]


def test_twice_the_parameters_of_one_direction():
    assert sum(p.numel() for p in Bidirectional(GRU, 3, 4).parameters()) == 2 * sum(p.numel() for p in GRU(3, 4).parameters())


@pytest.mark.oracle("reversing list by list")
def test_reversing_stays_within_the_length():
    x, lengths = torch.randn(4, 6, 2), [6, 0, 1, 4]
    turned = reverse_within(x, torch.tensor(lengths))
    for row, mine, n in zip(x.tolist(), turned.tolist(), lengths):
        assert mine == row[:n][::-1] + row[n:]
    assert torch.equal(reverse_within(x), x.flip(1))
    assert torch.equal(reverse_within(turned, torch.tensor(lengths)), x)


def test_joining_two_one_way_passes_is_not_looking_both_ways_in_every_layer():
    """A widely copied page puts it together with BERT's attention. In one layer no unit here depends on both sides."""
    ours, x = Bidirectional(RNN, 3, 4).double(), torch.randn(1, 5, 3, dtype=D)
    units = torch.autograd.functional.jacobian(ours, x)[0, 2, :, 0].abs().sum(-1)  # unit, input time
    left, right = units[:, :2].sum(1) > 0, units[:, 3:].sum(1) > 0
    assert not (left & right).any() and left.any() and right.any()
    deep = Bidirectional(RNN, 3, 4, num_layers=2).double()
    units = torch.autograd.functional.jacobian(deep, x)[0, 2, :, 0].abs().sum(-1)
    assert (units > 0).all()  # the second layer reads joined states


def test_numpy_variant_agrees(agree):
    ours, x = Bidirectional(RNN, 3, 4).double(), torch.randn(2, 6, 3, dtype=D)
    weights = [[p.detach().numpy() for p in layer[0].parameters()] for layer in (ours.ahead, ours.back)]
    (wx, wh, b1, b2), (vx, vh, c1, c2) = weights
    agree(bidirectional(x.numpy(), (wx, wh, b1 + b2), (vx, vh, c1 + c2)), ours(x))
    jacobian = torch.autograd.functional.jacobian(lambda x: ours.ahead[0](x)[0], x[:1])[0, :, :, 0]
    found = influence_of_inputs(states(x[:1].numpy(), wx, wh, b1 + b2)[0], wx, wh)
    agree(found, jacobian.square().sum((1, 3)).sqrt())
    assert np.isfinite(found).all()


def test_bad_settings_and_shapes_say_which_and_why():
    with pytest.raises(ValueError, match="merge='mean' is neither 'concat' nor 'sum'"):
        Bidirectional(GRU, 3, 4, merge="mean")
    with pytest.raises(ValueError, match="num_layers=0 is below 1"):
        Bidirectional(GRU, 3, 4, num_layers=0)
    ours, x = Bidirectional(GRU, 3, 4), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 4\); expected \(batch, time, input_size=3\)"):
        ours(torch.zeros(2, 5, 4))
    for lengths in ([6, 1], [-1, 2]):
        for call in (ours, reverse_within):
            with pytest.raises(ValueError, match="holds a number that is not from 0 to 5, the number of steps"):
                call(x, torch.tensor(lengths))
    with pytest.raises(ValueError, match=r"lengths has shape \(1,\); expected \(batch=2\)"):
        ours(x, torch.tensor([3]))
    with pytest.raises(TypeError, match="lengths has dtype torch.float32"):
        reverse_within(x, torch.tensor([3.0, 2.0]))
