import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.causal import causal_conv1d, reached
from vocab.convolution.causal import CausalConv1d
from vocab.convolution.conv1d import Conv1d, convolve
from vocab.convolution.conv2d import receptive_field

D = torch.float64
SETTINGS = [(1, 1, 1), (2, 3, 1), (3, 2, 2), (4, 1, 4)]  # kernel size, dilation, groups


def example():
    """For the contract suite: a small instance, a piece of a sequence and the past before it."""
    module = CausalConv1d(4, 4, 3, dilation=2, groups=2, activation="silu").double()
    return module, (torch.randn(2, 4, 5, dtype=D), torch.randn(2, 4, 4, dtype=D))


@pytest.mark.oracle("torch.nn.functional.conv1d on input padded on the left")
@pytest.mark.parametrize(("k", "d", "groups"), SETTINGS)
@pytest.mark.parametrize("activation", [None, "silu"])
def test_equals_torch_conv1d_with_zeros_before_the_first_position(k, d, groups, activation):
    module, x = CausalConv1d(4, 8, k, dilation=d, groups=groups, activation=activation).double(), torch.randn(2, 4, 11, dtype=D)
    expected = F.conv1d(F.pad(x, ((k - 1) * d, 0)), module.weight, module.bias, dilation=d, groups=groups)
    y, state = module(x)
    torch.testing.assert_close(y, F.silu(expected) if activation else expected)
    torch.testing.assert_close(state, F.pad(x, ((k - 1) * d, 0))[..., 11:], rtol=0, atol=0)


@pytest.mark.oracle("a matrix of windows times the weights")
@pytest.mark.parametrize(("k", "d", "groups"), SETTINGS)
def test_equals_a_matrix_product_over_the_windows_of_past_and_present(k, d, groups):
    module, x, past = CausalConv1d(4, 8, k, dilation=d, groups=groups).double(), torch.randn(2, 4, 9, dtype=D), torch.randn(2, 4, (k - 1) * d, dtype=D)
    expected = convolve(torch.cat([past, x], -1), module.weight, module.bias, dilation=d, groups=groups)
    torch.testing.assert_close(module(x, past)[0], expected)


@pytest.mark.oracle("Jacobian")
@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 1), (3, 2), (2, 4)])
def test_sees_the_present_and_the_last_k_minus_1_times_d_positions_and_nothing_else(k, d):
    module, x = CausalConv1d(1, 1, k, dilation=d).double(), torch.randn(1, 1, 12, dtype=D)
    jacobian = torch.autograd.functional.jacobian(lambda x: module(x)[0], x)[0, 0, :, 0, 0]
    for t, s in itertools.product(range(12), repeat=2):
        if s > t or s < t - (k - 1) * d:
            assert jacobian[t, s] == 0
    assert all(jacobian[t, t] != 0 for t in range(12))
    assert jacobian[11, 11 - (k - 1) * d] != 0


@pytest.mark.parametrize(("k", "d", "groups"), SETTINGS)
def test_one_position_at_a_time_gives_what_the_whole_gives(k, d, groups):
    module, x = CausalConv1d(4, 4, k, dilation=d, groups=groups, activation="silu").double(), torch.randn(2, 4, 9, dtype=D)
    whole, last = module(x)
    steps, state = [], None
    for t in range(9):
        y, state = module.step(x[..., t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, -1), whole)
    torch.testing.assert_close(state, last, rtol=0, atol=0)


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_sequence_in_two_pieces_gives_what_the_whole_gives_wherever_it_is_cut(cut):
    module, x = CausalConv1d(2, 3, 3, dilation=2).double(), torch.randn(2, 2, 9, dtype=D)
    whole, last = module(x)
    first, state = module(x[..., :cut])
    second, state = module(x[..., cut:], state)
    torch.testing.assert_close(torch.cat([first, second], -1), whole)
    torch.testing.assert_close(state, last, rtol=0, atol=0)


@pytest.mark.oracle("pointwise linear layer")
def test_one_tap_is_a_linear_layer_at_every_position_and_remembers_nothing():
    module, x = CausalConv1d(3, 5, 1).double(), torch.randn(2, 3, 7, dtype=D)
    y, state = module(x)
    torch.testing.assert_close(y, F.linear(x.mT, module.weight[..., 0], module.bias).mT)
    assert state.shape == (2, 3, 0)


@pytest.mark.oracle("transformers.MambaModel's convolution")
def test_depthwise_with_four_taps_and_silu_is_mambas_convolution():
    pytest.importorskip("transformers")
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(hidden_size=6, conv_kernel=4)
    library = MambaMixer(config, layer_idx=0).double()
    module = CausalConv1d(12, 12, 4, groups=12, activation="silu").double()
    module.load_state_dict(library.conv1d.state_dict())
    x = torch.randn(2, 12, 9, dtype=D)
    torch.testing.assert_close(module(x)[0], library.act(library.conv1d(x)[..., :9]))


def test_zeros_on_both_sides_work_if_the_right_end_is_cut_and_leak_if_the_left_one_is():
    module, x = CausalConv1d(1, 1, 3, dilation=2).double(), torch.randn(1, 1, 10, dtype=D)
    both = F.conv1d(x, module.weight, module.bias, padding=4, dilation=2)
    torch.testing.assert_close(both[..., :-4], module(x)[0])
    later = x.clone()
    later[..., 6:] += 1
    changed = F.conv1d(later, module.weight, module.bias, padding=4, dilation=2)
    assert torch.equal(changed[..., :-4][..., :6], both[..., :-4][..., :6])
    assert not torch.equal(changed[..., 4:][..., :6], both[..., 4:][..., :6])


def test_an_ordinary_layer_with_padding_on_both_sides_is_not_causal():
    """A widely copied list counts causal convolution as a mere term of ordinary 1D convolution."""
    x = torch.randn(1, 1, 10, dtype=D)
    later = x.clone()
    later[..., 5:] += 1
    ordinary, causal = Conv1d(1, 1, 3, padding="same").double(), CausalConv1d(1, 1, 3).double()
    assert not torch.equal(ordinary(later)[..., :5], ordinary(x)[..., :5])
    assert torch.equal(causal(later)[0][..., :5], causal(x)[0][..., :5])


def test_batch_normalization_over_time_tells_the_past_about_the_future():
    x = torch.randn(2, 3, 10, dtype=D)
    later = x.clone()
    later[..., 5:] += 1
    norm, layer = nn.BatchNorm1d(3).double(), CausalConv1d(3, 3, 3).double()
    assert not torch.allclose(layer(norm(later))[0][..., :5], layer(norm(x))[0][..., :5])


def test_a_state_left_from_another_sequence_changes_the_first_outputs_only():
    module, x = CausalConv1d(2, 2, 4).double(), torch.randn(1, 2, 8, dtype=D)
    _, old = module(torch.randn(1, 2, 5, dtype=D))
    fresh, stale = module(x)[0], module(x, old)[0]
    assert not (fresh == stale)[..., :3].any() and torch.equal(fresh[..., 3:], stale[..., 3:])


@pytest.mark.parametrize(("k", "layers", "growth"), [(2, 4, 2), (3, 3, 1), (4, 2, 3)])
def test_a_stack_sees_one_plus_the_sum_of_its_reaches(k, layers, growth):
    rates = [growth**i for i in range(layers)]
    x = torch.zeros(1, 1, 40, dtype=D, requires_grad=True)
    y = x
    for rate in rates:
        layer = CausalConv1d(1, 1, k, dilation=rate, bias=False).double()
        nn.init.ones_(layer.weight)
        y = layer(y)[0]
    y[0, 0, -1].backward()
    field = 1 + sum((k - 1) * rate for rate in rates)
    assert receptive_field([(k, 1, 0, rate) for rate in rates])[0] == field
    assert x.grad[0, 0, -field] > 0 and not x.grad[0, 0, :-field].any()


@pytest.mark.interp
@pytest.mark.parametrize(("k", "d", "activation", "length"), [(4, 1, "silu", 9), (3, 2, None, 9), (4, 2, "silu", 2), (1, 1, "silu", 5)])
def test_kernel_agrees(k, d, activation, length, kernel_agrees):
    conv = CausalConv1d(3, 3, k, dilation=d, groups=3, activation=activation).double()
    x, state = torch.randn(2, 3, length).double().requires_grad_(), torch.randn(2, 3, conv.past).double().requires_grad_()
    kernel_agrees("causal_conv", lambda _: conv(x, state), (x, state, *conv.parameters()), module=conv, atol=1e-13)


@pytest.mark.interp
def test_kernel_takes_depthwise_convolutions_only():
    pytest.importorskip("triton")
    from vocab.kernels.interpret import interpreting

    with interpreting(), pytest.raises(RuntimeError, match="the convolution is not depthwise"):
        CausalConv1d(3, 3, 2, backend="triton")(torch.zeros(1, 3, 4))


def test_numpy_variant_agrees(agree):
    for k, d in [(1, 1), (3, 2), (4, 1)]:
        module = CausalConv1d(2, 3, k, dilation=d, bias=False).double()
        x, w = torch.randn(2, 9, dtype=D), module.weight.detach().numpy()
        whole, state = module(x[None])
        agree(causal_conv1d(x.numpy(), w, d)[0], whole[0])
        first, past = causal_conv1d(x[:, :4].numpy(), w, d)
        second, past = causal_conv1d(x[:, 4:].numpy(), w, d, past)
        agree(second, whole[0, :, 4:])
        agree(past, state[0])


def test_numpy_reach_of_an_impulse_is_the_gradient_of_a_stack(agree):
    rows = reached(20, 5, 3, [1, 2], causal=True)
    x = torch.zeros(1, 1, 20, dtype=D)
    x[..., 5] = 1
    for row, rate in zip(rows[1:], [1, 2]):
        layer = CausalConv1d(1, 1, 3, dilation=rate, bias=False).double()
        nn.init.constant_(layer.weight, 1 / 3)
        x = layer(x)[0]
        agree(row, x[0, 0])


def test_bad_arguments_say_which_and_why():
    with pytest.raises(ValueError, match="activation='relu' is not 'silu' or None"):
        CausalConv1d(1, 1, 2, activation="relu")
    with pytest.raises(ValueError, match="kernel_size=0 is below 1"):
        CausalConv1d(1, 1, 0)
    module = CausalConv1d(2, 2, 3, dilation=2)
    with pytest.raises(ValueError, match=r"x has shape \(1, 3, 5\); expected \(batch, in_channels=2, length\)"):
        module(torch.zeros(1, 3, 5))
    with pytest.raises(ValueError, match=r"state has shape \(1, 2, 2\); expected \(batch=1, in_channels=2, past=4\)"):
        module(torch.zeros(1, 2, 5), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 5\); expected \(batch, in_channels=2\)"):
        module.step(torch.zeros(1, 2, 5))
