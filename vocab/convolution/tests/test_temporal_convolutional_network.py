import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.temporal_convolutional_network import block as numpy_block
from snippets.convolution.temporal_convolutional_network import reachable
from vocab.convolution.temporal_convolutional_network import TemporalBlock, TemporalConvNet

D = torch.float64


def example():
    """For the contract suite: a small instance whose activations are not all at zero, and its inputs."""
    network = TemporalConvNet(2, [3, 3], kernel_size=2).double()
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(parameter, 0.2, 0.6)
    return network, (torch.randn(2, 2, 6, dtype=D),)


def positive(network):
    """With positive weights and inputs no activation cuts a path."""
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    return network.eval()


def weight(conv):
    """Length times direction."""
    length, direction = conv.parametrizations.weight.original0, conv.parametrizations.weight.original1
    return length * direction / direction.pow(2).sum((1, 2), keepdim=True).sqrt()


@pytest.mark.oracle("gradient support with positive weights")
@pytest.mark.parametrize(("n", "k"), [(1, 3), (2, 2), (3, 3), (2, 5)])
def test_sees_exactly_its_receptive_field_and_nothing_of_the_future(n, k):
    network = positive(TemporalConvNet(1, [2] * n, k).double())
    field = 1 + 2 * (k - 1) * (2**n - 1)
    assert network.receptive_field == field
    at = field + 3
    x = torch.ones(1, 1, at + 4, dtype=D, requires_grad=True)
    network(x)[0, 0, at].backward()
    assert x.grad[0, 0].nonzero().flatten().tolist() == list(range(at - field + 1, at + 1))


@pytest.mark.oracle("Jacobian")
def test_no_output_depends_on_a_later_input():
    network, x = TemporalConvNet(2, [3, 2]).double().eval(), torch.randn(1, 2, 9, dtype=D)
    jacobian = torch.autograd.functional.jacobian(network, x)[0, :, :, 0]
    for t, s in itertools.product(range(9), repeat=2):
        if s > t:
            assert not jacobian[:, t, :, s].any()


@pytest.mark.oracle("the block written out with torch.nn.functional")
@pytest.mark.parametrize(("channels", "d", "k"), [((3, 5), 1, 2), ((4, 4), 4, 3)])
def test_a_block_is_two_causal_layers_and_a_shortcut(channels, d, k):
    block, x = TemporalBlock(*channels, k, d).double().eval(), torch.randn(2, channels[0], 11, dtype=D)
    for conv in (block.conv1, block.conv2):
        nn.init.uniform_(conv.parametrizations.weight.original0, 0.5, 2.0)
    y = x
    for conv in (block.conv1, block.conv2):
        y = F.relu(F.conv1d(F.pad(y, ((k - 1) * d, 0)), weight(conv), conv.bias, dilation=d))
    around = x if channels[0] == channels[1] else F.conv1d(x, block.shortcut.weight, block.shortcut.bias)
    torch.testing.assert_close(block(x)[0], F.relu(y + around))


def test_the_network_is_its_blocks_with_doubling_dilation():
    """A widely copied description is a bare stack of dilated convolutions."""
    network, x = TemporalConvNet(2, [3, 3, 4]).double().eval(), torch.randn(1, 2, 20, dtype=D)
    assert [b.conv1.dilation for b in network.blocks] == [b.conv2.dilation for b in network.blocks] == [(1,), (2,), (4,)]
    y = x
    for block in network.blocks:
        y = block(y)[0]
    torch.testing.assert_close(network(x), y)
    bare = x
    for block in network.blocks:
        bare = F.conv1d(bare, weight(block.conv1), block.conv1.bias, dilation=block.conv1.dilation)
    assert bare.shape[-1] < x.shape[-1] == y.shape[-1], "without the causal padding it does not even keep its length"


def test_with_silent_branches_only_the_projected_input_is_left():
    block, x = TemporalBlock(2, 3, weight_norm=False).double(), torch.randn(1, 2, 8, dtype=D)
    for parameter in (*block.conv1.parameters(), *block.conv2.parameters()):
        nn.init.zeros_(parameter)
    torch.testing.assert_close(block(x)[0], F.relu(F.conv1d(x, block.shortcut.weight, block.shortcut.bias)))


@pytest.mark.parametrize("weight_norm", [True, False])
def test_pieces_with_the_state_carried_on_give_what_the_whole_gives(weight_norm):
    network, x = TemporalConvNet(2, [3, 3], weight_norm=weight_norm).double().eval(), torch.randn(2, 2, 14, dtype=D)
    whole, state, pieces = network(x), None, []
    for piece in x.split([5, 1, 1, 7], -1):
        y, state = network.stream(piece, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, -1), whole)
    fresh, _ = network.stream(x[..., 7:])
    assert not torch.allclose(fresh, whole[..., 7:]), "without the state the past is gone"


def test_a_block_has_three_taps_side_by_side_and_a_network_too_unless_told_otherwise():
    _, (first, second) = TemporalBlock(2, 3)(torch.zeros(1, 2, 5))
    assert first.shape == (1, 2, 2) and second.shape == (1, 3, 2)
    assert TemporalConvNet(1, [1]).receptive_field == 5


def test_what_is_older_than_the_receptive_field_is_invisible():
    network, x = TemporalConvNet(1, [4, 4], 2).double().eval(), torch.randn(1, 1, 30, dtype=D)
    assert network.receptive_field == 7
    other = x.clone()
    other[..., :-7] = 5
    assert torch.equal(network(other)[..., -1], network(x)[..., -1])
    other[..., -7] = 5
    assert not torch.equal(network(other)[..., -1], network(x)[..., -1])


def test_weights_start_as_the_convolutions_and_are_length_times_direction():
    torch.manual_seed(1)
    normed = TemporalBlock(3, 3, 2).double()
    torch.manual_seed(1)
    plain = TemporalBlock(3, 3, 2, weight_norm=False).double()
    torch.testing.assert_close(normed.conv2.weight, plain.conv2.weight)
    torch.testing.assert_close(weight(normed.conv1), plain.conv1.weight)
    assert {name.split(".")[-1] for name, _ in plain.named_parameters()} == {"weight", "bias"}


def test_dropout_acts_in_training_only_and_at_the_given_rate():
    x = torch.randn(1, 1, 2000, dtype=D)
    block = TemporalBlock(1, 1, dropout=0.0).double()
    torch.testing.assert_close(block(x)[0], block.eval()(x)[0])
    all_dropped = TemporalBlock(1, 1, dropout=1.0).double()
    torch.testing.assert_close(all_dropped(x)[0], F.relu(x))
    assert TemporalConvNet(1, [1]).blocks[0].dropout.p == TemporalBlock(1, 1).dropout.p == 0.2
    assert not torch.equal(TemporalConvNet(1, [1, 1]).double()(x), TemporalConvNet(1, [1, 1]).double().eval()(x))


def test_numpy_block_agrees(agree):
    for channels, d in [((3, 4), 2), ((3, 3), 1)]:
        block, x = TemporalBlock(*channels, 3, d, weight_norm=False).double().eval(), torch.randn(channels[0], 10, dtype=D)
        for conv in (block.conv1, block.conv2):
            nn.init.zeros_(conv.bias)
        project = None
        if channels[0] != channels[1]:
            nn.init.zeros_(block.shortcut.bias)
            project = block.shortcut.weight.detach().numpy()
        found = numpy_block(x.numpy(), block.conv1.weight.detach().numpy(), block.conv2.weight.detach().numpy(), d, project)
        agree(found, block(x[None])[0][0])


def test_numpy_reach_is_the_gradient(agree):
    network = positive(TemporalConvNet(1, [1, 1, 1], 2).double())
    x = torch.ones(1, 1, 20, dtype=D, requires_grad=True)
    network(x)[0, 0, -1].backward()
    agree(reachable(20, 2, [1, 1, 2, 2, 4, 4])[-1], x.grad[0, 0] > 0)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="channels is empty; the network needs at least one block"):
        TemporalConvNet(1, [])
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"dropout={bad} is not from 0 to 1"):
            TemporalConvNet(1, [2], dropout=bad)
    with pytest.raises(ValueError, match="kernel_size=0 is below 1"):
        TemporalConvNet(1, [2], 0)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 5\); expected \(batch, in_channels=2, length\)"):
        TemporalConvNet(2, [2])(torch.zeros(1, 3, 5))


@pytest.mark.oracle("adding problem, T = 100: a constant answer has a loss of 1/6 (Bai et al. 2018)")
def test_learns_to_add_two_marked_numbers_a_hundred_steps_apart():
    torch.manual_seed(0)
    network, head = TemporalConvNet(2, [16] * 5, 4, dropout=0.0), nn.Linear(16, 1)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=4e-3)
    assert network.receptive_field >= 100
    losses = []
    for _ in range(100):
        x, marks = torch.rand(32, 100), torch.zeros(32, 100)
        for half in (0, 50):
            marks[torch.arange(32), torch.randint(half, half + 50, (32,))] = 1
        found = head(network(torch.stack([2 * x - 1, 4 * marks], 1)).mT)[..., 0]
        target = (x * marks).cumsum(1)  # the sum so far; at the last step it is the task's answer
        optimizer.zero_grad(), F.mse_loss(found, target).backward(), optimizer.step()
        losses.append(F.mse_loss(found[:, -1], target[:, -1]).item())
    assert sum(losses[-10:]) / 10 < 0.5 / 6
