import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from snippets.recurrent.rnn import influence
from snippets.recurrent.rnn import rnn as numpy_rnn
from vocab.recurrent.rnn import RNN, RecurrentLayers, unroll

D = torch.float64


def example():
    return RNN(3, 4, 2).double(), (torch.randn(2, 5, 3, dtype=D), torch.randn(2, 2, 4, dtype=D))


def twin(ours, theirs):
    """PyTorch's module with our weights."""
    theirs = theirs.double()
    theirs.load_state_dict(ours.state_dict())
    return theirs


@pytest.mark.oracle("torch.nn.RNN with copied weights, outputs and all gradients")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_equals_pytorch_with_all_gradients(nonlinearity, batch_first, bias):
    ours = RNN(3, 4, 2, nonlinearity=nonlinearity, bias=bias, batch_first=batch_first).double()
    theirs = twin(ours, nn.RNN(3, 4, 2, nonlinearity=nonlinearity, bias=bias, batch_first=batch_first))
    x, h0 = torch.randn(6, 5, 3, dtype=D), torch.randn(2, 6 if batch_first else 5, 4, dtype=D)
    grads = []
    for module in (ours, theirs):
        for start in (h0, None):
            y, h = module(x, start)
            grads.append([y, h, *torch.autograd.grad((y**3).sum() + (h**2).sum(), list(module.parameters()))])
    for mine, yours in zip(grads[:2], grads[2:]):
        torch.testing.assert_close(mine, yours)


@pytest.mark.oracle("torch.nn.RNN on packed sequences")
def test_padding_is_neither_read_nor_written():
    ours, lengths = RNN(3, 4, 2).double(), torch.tensor([5, 2, 4])
    theirs, x = twin(ours, nn.RNN(3, 4, 2, batch_first=True)), torch.randn(3, 5, 3, dtype=D)
    packed, h_theirs = theirs(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    y_theirs, _ = pad_packed_sequence(packed, batch_first=True)
    y, h = ours(x, lengths=lengths)
    torch.testing.assert_close(y, y_theirs)
    torch.testing.assert_close(h, h_theirs)
    garbage = x.clone()
    garbage[1, 2:], garbage[2, 4:] = torch.nan, 1e9
    torch.testing.assert_close(ours(garbage, lengths=lengths)[1], h)
    assert not torch.allclose(ours(x)[1], h)  # without lengths, h_n belongs to the padding


@pytest.mark.oracle("scipy.signal.lfilter")
def test_a_linear_network_with_diagonal_weights_is_a_bank_of_filters():
    signal = pytest.importorskip("scipy.signal")
    rnn, x = RNN(1, 3, nonlinearity="identity", bias=False).double(), torch.randn(1, 50, 1, dtype=D)
    decay = torch.tensor([0.9, -0.5, 0.2], dtype=D)
    rnn.weight_hh_l0.data = decay.diag()
    y = rnn(x)[0]
    for i in range(3):
        gain = rnn.weight_ih_l0[i, 0].item()
        expected = signal.lfilter([gain], [1, -decay[i].item()], x[0, :, 0].numpy())
        np.testing.assert_allclose(y[0, :, i].detach().numpy(), expected, rtol=1e-10)


def factors(rnn, x, h0):
    """Spectral norm of the derivative of the last state by the first, and that of the recurrent weight."""
    jacobian = torch.autograd.functional.jacobian(lambda h: rnn(x, h)[1][0, 0], h0)[:, 0, 0]
    return torch.linalg.matrix_norm(jacobian, 2).item(), torch.linalg.matrix_norm(rnn.weight_hh_l0.detach(), 2).item()


@pytest.mark.parametrize("k", [1, 4, 12])
def test_a_gradient_shrinks_at_least_as_the_norm_of_the_weight_to_the_number_of_steps(k):
    rnn = RNN(3, 4).double()
    size, norm = factors(rnn, torch.randn(1, k, 3, dtype=D), torch.randn(1, 1, 4, dtype=D))
    assert 0 < size < norm**k


@pytest.mark.parametrize("scale", [0.8, 1.0, 1.3])
def test_gradients_vanish_or_explode_exactly_as_powers_for_a_linear_orthogonal_weight(scale):
    """A widely copied page names vanishing gradients only."""
    rnn, k = RNN(3, 4, nonlinearity="identity").double(), 30
    rnn.weight_hh_l0.data = scale * torch.linalg.qr(torch.randn(4, 4, dtype=D))[0]
    size, _ = factors(rnn, torch.randn(1, k, 3, dtype=D), torch.randn(1, 1, 4, dtype=D))
    assert size == pytest.approx(scale**k) and (size > 1000) == (scale > 1) and (size < 0.01) == (scale < 1)


def test_carrying_the_state_over_equals_one_pass():
    rnn, x = RNN(3, 4, 2).double(), torch.randn(2, 9, 3, dtype=D)
    whole, last = rnn(x)
    first, h = rnn(x[:, :4])
    second, h = rnn(x[:, 4:], h)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(h, last)


def test_truncated_gradients_are_those_of_chunks_with_a_detached_state():
    rnn, x = RNN(3, 4, 2).double(), torch.randn(2, 9, 3, dtype=D)
    y, _ = rnn(x, truncate=4)
    torch.testing.assert_close(y, rnn(x)[0])
    # By hand, for one layer: state detached after steps 4 and 8.
    one = RNN(3, 4).double()
    h, chunks = None, []
    for chunk in x.split(4, 1):
        out, h = one(chunk, None if h is None else h.detach())
        chunks.append(out)
    expected = torch.autograd.grad(torch.cat(chunks, 1).square().sum(), list(one.parameters()))
    ours = torch.autograd.grad(one(x, truncate=4)[0].square().sum(), list(one.parameters()))
    torch.testing.assert_close(ours, expected)
    full = torch.autograd.grad(one(x)[0].square().sum(), list(one.parameters()))
    assert not torch.allclose(ours[1], full[1], rtol=1e-3)
    x.requires_grad_()
    reached = torch.autograd.grad(one(x, truncate=4)[0][:, 7].sum(), x)[0].abs().sum((0, 2))
    assert (reached[:4] == 0).all() and (reached[4:8] > 0).all() and reached[8] == 0


def test_truncated_to_one_step_only_the_present_input_gets_a_gradient():
    class Sum(RecurrentLayers):
        def cell(self, x, state, weight, bias):
            return (state[0] + x,)

    one, x = Sum(3, 4).double(), torch.randn(2, 5, 3, dtype=D, requires_grad=True)
    y, h = one(x, truncate=1)
    assert y.shape == (2, 5, 4) and h.shape == (1, 2, 4)  # one layer, batch first
    reached = torch.autograd.grad(y[:, 3].sum(), x)[0].abs().sum((0, 2))
    assert reached[3] > 0 and (reached[[0, 1, 2, 4]] == 0).all()


def test_a_state_that_is_not_detached_keeps_the_graph_of_the_batch_before():
    rnn, x = RNN(3, 4), torch.randn(2, 5, 3)
    _, h = rnn(x)
    rnn(x, h)[0].sum().backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        rnn(x, h)[0].sum().backward()
    rnn(x, h.detach())[0].sum().backward()


@pytest.mark.parametrize("time", [1, 6])
def test_backwards_is_forwards_on_the_reversed_sequence(time):
    def add(x, state):
        return (0.5 * state[0] + x,)

    x, start = torch.randn(2, time, 3, dtype=D), (torch.randn(2, 3, dtype=D),)
    y, last = unroll(add, x, start, reverse=True)
    flipped, same = unroll(add, x.flip(1), start)
    torch.testing.assert_close(y, flipped.flip(1))
    torch.testing.assert_close(last, same)


def test_dropout_acts_between_layers_in_training_only():
    rnn, x = RNN(3, 400, 2, dropout=0.5).double(), torch.randn(2, 5, 3, dtype=D)
    assert not torch.equal(rnn(x)[0], rnn(x)[0])
    assert torch.equal(rnn(x)[1][0], rnn(x)[1][0])  # the first layer's states are those before dropout
    plain = RNN(3, 400, 2).double()
    plain.load_state_dict(rnn.state_dict())
    torch.testing.assert_close(rnn.eval()(x), plain(x))
    one = RNN(3, 4, 1, dropout=0.5).double()
    assert torch.equal(one(x)[0], one(x)[0])  # nothing after the last layer


@pytest.mark.oracle("torch.nn.RNN, same random numbers")
def test_sizes_and_starting_values_are_pytorchs():
    torch.manual_seed(1)
    ours = RNN(3, 4, 2)
    torch.manual_seed(1)
    theirs = nn.RNN(3, 4, 2, batch_first=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(getattr(ours, name).detach(), value)
    assert sum(p.numel() for p in RNN(5, 7).parameters()) == 7 * (5 + 7) + 2 * 7


def test_numpy_variant_agrees(agree):
    rnn, x, h0 = RNN(3, 4).double(), torch.randn(1, 6, 3, dtype=D), torch.randn(1, 1, 4, dtype=D)
    w_x, w_h, b_x, b_h = (p.detach().numpy() for p in rnn.parameters())
    states = numpy_rnn(x[0].numpy(), w_x, w_h, b_x + b_h, h0[0, 0].numpy())
    agree(states[1:], rnn(x, h0)[0][0])
    agree(influence(states, w_h, lambda h: 1 - h**2)[0], factors(rnn, x, h0)[0])


def test_bad_settings_and_shapes_say_which_and_why():
    for arguments, message in [
        (dict(nonlinearity="gelu"), "nonlinearity='gelu' is none of tanh, relu, identity"),
        (dict(num_layers=0), "num_layers=0 is below 1"),
        (dict(dropout=1.0), "dropout=1.0 is not from 0 to below 1"),
        (dict(dropout=-0.1), "dropout=-0.1 is not from 0 to below 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            RNN(3, 4, **arguments)
    for sizes, name in [((0, 4), "input_size"), ((3, 0), "hidden_size")]:
        with pytest.raises(ValueError, match=f"{name}=0 is below 1"):
            RNN(*sizes)
    rnn, x = RNN(3, 4), torch.zeros(2, 5, 3)
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 4\); expected \(batch, time, input_size=3\)"):
        rnn(torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"expected \(time, batch, input_size=3\)"):
        RNN(3, 4, batch_first=False)(torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"h0 has shape \(1, 3, 4\); expected \(layers=1, batch=2, hidden_size=4\)"):
        rnn(x, torch.zeros(1, 3, 4))
    for lengths in ([0, 3], [6, 3]):
        with pytest.raises(ValueError, match="holds a number that is not from 1 to 5, the number of steps"):
            rnn(x, lengths=torch.tensor(lengths))
    with pytest.raises(ValueError, match=r"lengths has shape \(1,\); expected \(batch=2\)"):
        rnn(x, lengths=torch.tensor([3]))
    with pytest.raises(ValueError, match="truncate=0 is below 1"):
        rnn(x, truncate=0)
    with pytest.raises(ValueError, match="there is no time step"):
        rnn(torch.zeros(2, 0, 3))
    with pytest.raises(NotImplementedError):
        RecurrentLayers(3, 4)(x)
