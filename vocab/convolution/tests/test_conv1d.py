import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snippets.convolution.conv1d import conv1d
from snippets.convolution.conv1d import output_size as numpy_output_size
from vocab.convolution.conv1d import Conv1d, convolve, output_size, per_axis, same_padding, unfold

D = torch.float64
GRID = list(itertools.product([1, 2, 3], [0, 2], [1, 3], [1, 2]))  # stride, padding, dilation, groups


def example():
    """For the contract suite: a small instance and its inputs."""
    return Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2).double(), (torch.randn(2, 4, 9, dtype=D),)


@pytest.mark.oracle("torch.nn.functional.conv1d and its gradients")
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), GRID)
def test_equals_torch_with_its_gradients(k, stride, padding, dilation, groups):
    module = Conv1d(4, 6, k, stride, padding, dilation, groups).double()
    x = torch.randn(2, 4, 17, dtype=D, requires_grad=True)
    inputs = x, module.weight, module.bias
    ours, theirs = module(x), F.conv1d(*inputs, stride, padding, dilation, groups)
    torch.testing.assert_close(ours, theirs)
    g = torch.randn_like(theirs)
    for a, b in zip(torch.autograd.grad(ours, inputs, g), torch.autograd.grad(theirs, inputs, g)):
        torch.testing.assert_close(a, b)


@pytest.mark.oracle("torch.nn.Conv1d")
@pytest.mark.parametrize("padding", [0, 3, "same"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_starts_and_computes_as_torch_conv1d_in_every_padding_mode(mode, padding):
    for k, d, bias in [(3, 1, True), (4, 1, False), (3, 2, True), (4, 3, True)]:
        arguments = dict(kernel_size=k, padding=padding, dilation=d, bias=bias, padding_mode=mode)
        torch.manual_seed(1)
        module = Conv1d(2, 3, **arguments).double()
        torch.manual_seed(1)
        library = nn.Conv1d(2, 3, **arguments).double()
        torch.testing.assert_close(module.state_dict(), library.state_dict())
        x = torch.randn(2, 2, 12, dtype=D)
        torch.testing.assert_close(module(x), library(x))


@pytest.mark.oracle("numpy.convolve with the kernel flipped")
def test_is_cross_correlation_the_kernel_is_not_flipped():
    """A widely copied page calls it convolution and writes cross-correlation: for a fixed asymmetric filter that matters."""
    x, w = torch.randn(20, dtype=D), torch.tensor([1.0, 3.0, -2.0, 0.5], dtype=D)
    found = convolve(x[None, None], w[None, None])[0, 0].numpy()
    np.testing.assert_allclose(found, np.convolve(x, w.flip(0), "valid"), rtol=1e-12)
    assert np.abs(found - np.convolve(x, w, "valid")).max() > 1
    # "Difference to the next sample" becomes "difference to the previous one": the sign of every slope turns.
    rising, kernel = torch.arange(5.0, dtype=D), torch.tensor([-1.0, 1.0], dtype=D)
    assert convolve(rising[None, None], kernel[None, None]).eq(1).all()
    assert (np.convolve(rising, kernel, "valid") == -1).all()


@pytest.mark.oracle("torch.nn.functional.unfold (im2col) times the weights as a matrix")
def test_equals_a_matrix_of_windows_times_the_weights():
    module = Conv1d(3, 5, 4, stride=2, padding=3, dilation=2).double()
    x = torch.randn(2, 3, 15, dtype=D)
    columns = F.unfold(x[:, :, None], (1, 4), dilation=(1, 2), padding=(0, 3), stride=(1, 2))
    torch.testing.assert_close(module(x), module.weight.flatten(1) @ columns + module.bias[:, None])


@pytest.mark.oracle("adjoint identity with torch.nn.functional.conv_transpose1d")
@pytest.mark.parametrize(("stride", "padding", "dilation", "groups"), GRID)
def test_backward_is_the_transposed_convolution(stride, padding, dilation, groups):
    module = Conv1d(4, 6, 3, stride, padding, dilation, groups, bias=False).double()
    x = torch.randn(1, 4, 16, dtype=D, requires_grad=True)
    y = module(x)
    v = torch.randn_like(y)
    rest = (16 + 2 * padding - dilation * 2 - 1) % stride  # inputs at the end that no window reaches
    back = F.conv_transpose1d(v, module.weight, None, stride, padding, rest, groups, dilation)
    torch.testing.assert_close((y * v).sum(), (x * back).sum())
    torch.testing.assert_close(torch.autograd.grad(y, x, v)[0], back)


@pytest.mark.oracle("product of Fourier transforms")
def test_circular_padding_is_a_product_of_spectra():
    module = Conv1d(1, 1, 5, padding="same", bias=False, padding_mode="circular").double()
    x, kernel = torch.randn(1, 1, 16, dtype=D), torch.zeros(16, dtype=D)
    kernel[torch.arange(-2, 3)] = module.weight[0, 0].detach()
    product = torch.fft.fft(x[0, 0]) * torch.fft.fft(kernel).conj()
    torch.testing.assert_close(module(x)[0, 0], torch.fft.ifft(product).real)


def test_moves_with_its_input_away_from_the_borders():
    module, x = Conv1d(2, 3, 5, padding="same").double(), torch.randn(1, 2, 30, dtype=D)
    later, y = module(x.roll(4, -1)), module(x)
    torch.testing.assert_close(later[..., 6:-2], y[..., 2:-6])
    assert not torch.allclose(later[..., :2], y.roll(4, -1)[..., :2]), "at the border the padding shows"


def test_a_stride_moves_only_with_shifts_of_whole_strides():
    module, x = Conv1d(1, 1, 3, stride=2).double(), torch.randn(1, 1, 21, dtype=D)
    torch.testing.assert_close(module(x.roll(2, -1))[..., 1:], module(x)[..., :-1])
    assert not torch.allclose(module(x.roll(1, -1))[..., 1:], module(x)[..., :-1])


@pytest.mark.parametrize(("k", "at"), [(1, 0), (3, 1), (4, 1), (7, 3)])
def test_a_kernel_with_a_single_one_is_the_identity_and_even_kernels_pad_one_more_behind(k, at):
    module, x = Conv1d(2, 2, k, padding="same", bias=False).double(), torch.randn(2, 2, 9, dtype=D)
    with torch.no_grad():
        module.weight.zero_()[[0, 1], [0, 1], at] = 1
    torch.testing.assert_close(module(x), x, rtol=0, atol=0)


@pytest.mark.parametrize(("k", "d"), [(1, 3), (2, 1), (3, 2), (4, 3)])
def test_causal_padding_lets_nothing_of_the_future_through(k, d):
    module, x = Conv1d(1, 1, k, padding="causal", dilation=d).double(), torch.randn(1, 1, 14, dtype=D)
    jacobian = torch.autograd.functional.jacobian(module, x)[0, 0, :, 0, 0]
    allowed = {d * i for i in range(k)}
    for t, s in itertools.product(range(14), repeat=2):
        assert (jacobian[t, s] != 0) == (t - s in allowed)


def test_symmetric_padding_by_half_the_kernel_keeps_the_length_only_for_odd_kernels_at_stride_1_and_dilation_1():
    """A widely copied rule: padding = kernel_size // 2 keeps the length."""
    x = torch.zeros(1, 1, 40)
    for k, s, d in itertools.product(range(1, 7), (1, 2), (1, 2, 3)):
        kept = Conv1d(1, 1, k, s, k // 2, d)(x).shape == x.shape
        assert kept == (s == 1 and (k == 1 or (k % 2 == 1 and d == 1) or (k == 2 and d == 2))), (k, s, d)
        if s == 1:
            assert Conv1d(1, 1, k, padding="same", dilation=d)(x).shape == x.shape
            assert sum(same_padding(k, d)) == d * (k - 1)


def test_weights_are_stored_output_channel_first():
    """A widely copied layout is (k, C, O), TensorFlow's."""
    module = Conv1d(6, 4, 3, groups=2)
    assert module.weight.shape == nn.Conv1d(6, 4, 3, groups=2).weight.shape == (4, 3, 3)
    assert sum(p.numel() for p in Conv1d(64, 128, 3).parameters()) == 128 * 64 * 3 + 128 == 24_704


@pytest.mark.parametrize(("size", "k", "s", "p", "d", "expected"), [
    (64, 5, 1, 0, 1, 60), (64, 5, 1, 2, 1, 64), (64, 5, 2, 2, 1, 32), (63, 5, 2, 2, 1, 32), (10, 3, 3, 0, 4, 1), (9, 3, 1, 0, 4, 1),
])
def test_output_sizes(size, k, s, p, d, expected):
    assert output_size(size, k, s, p, d) == expected == numpy_output_size(size, k, s, p, d)
    assert F.conv1d(torch.zeros(1, 1, size), torch.zeros(1, 1, k), None, s, p, d).shape[-1] == expected


def test_by_default_every_window_inside_the_sequence_counts_once():
    x = torch.randn(1, 2, 9, dtype=D)
    module = Conv1d(2, 4, 3).double()
    torch.testing.assert_close(module(x), F.conv1d(x, module.weight, module.bias))
    torch.testing.assert_close(convolve(x, module.weight), F.conv1d(x, module.weight))
    assert output_size(9, 3) == 7 and unfold(x, (3,)).shape[2] == 7


def test_windows_are_a_view():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    windows = unfold(x, (2, 2), stride=(1, 2))
    assert windows.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
    assert windows[0, 0, 1, 1].tolist() == [[6, 7], [10, 11]]
    assert unfold(x, (2, 2), dilation=(2, 3))[0, 0].flatten().tolist() == [0, 3, 8, 11]


def test_numpy_variant_agrees(agree):
    for k, s, p, d in [(3, 1, 0, 1), (4, 2, 3, 1), (5, 3, 2, 2), (1, 1, 0, 3)]:
        module = Conv1d(2, 3, k, s, p, d).double()
        x = torch.randn(2, 20, dtype=D)
        weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
        agree(conv1d(x.numpy(), weight, bias, s, p, d), module(x[None])[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(in_channels=0), "in_channels=0 is below 1"),
        (dict(out_channels=0), "out_channels=0 is below 1"),
        (dict(groups=0), "groups=0 is below 1"),
        (dict(groups=2), "groups=2 does not divide in_channels=3 and out_channels=4"),
        (dict(groups=3), "groups=3 does not divide in_channels=3 and out_channels=4"),
        (dict(kernel_size=0), "kernel_size=0 is below 1"),
        (dict(kernel_size=(2, 2)), r"kernel_size=\(2, 2\) has 2 numbers; expected one, or 1"),
        (dict(stride=0), "stride=0 is below 1"),
        (dict(dilation=0), "dilation=0 is below 1"),
        (dict(padding=-1), "padding=-1 is below 0"),
        (dict(padding="valid"), "padding='valid' is not a number, 'same' or 'causal'"),
        (dict(padding="same", stride=2), "padding='same' with stride=2: a stride above 1 cannot keep the size"),
        (dict(padding_mode="mirror"), "padding_mode='mirror' is not 'zeros', 'reflect', 'replicate' or 'circular'"),
    ],
)
def test_bad_settings_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        Conv1d(**{**dict(in_channels=3, out_channels=4, kernel_size=3), **arguments})


def test_channels_on_the_last_axis_are_recognized():
    module = Conv1d(3, 1, 2)
    with pytest.raises(ValueError, match=r"x has shape \(2, 10, 3\), its 3 channels on the last axis; "
                                         r"expected \(batch, in_channels=3, length\): x.movedim\(-1, 1\)"):
        module(torch.zeros(2, 10, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 10\); expected \(batch, in_channels=3, length\)"):
        module(torch.zeros(2, 4, 10))
    with pytest.raises(ValueError, match=r"x has shape \(3, 10\); expected \(batch, in_channels, length\)"):
        module(torch.zeros(3, 10))
    assert module(torch.zeros(2, 3, 3)).shape == (2, 1, 2), "a square is taken at its word"


def test_an_input_shorter_than_the_kernels_span_is_an_error_and_one_that_just_fits_is_not():
    module = Conv1d(1, 1, 3, padding=1, dilation=4)
    assert module(torch.zeros(1, 1, 7)).numel() == 1
    with pytest.raises(ValueError, match="the input has 8 positions and 0 of padding per side; the kernel spans 9"):
        module(torch.zeros(1, 1, 6))
    with pytest.raises(ValueError, match="the input has 6 positions and 1 of padding per side; the kernel spans 9"):
        output_size(6, 3, padding=1, dilation=4)


def test_the_function_names_what_does_not_fit():
    x, w = torch.zeros(1, 4, 9), torch.zeros(6, 2, 3)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 9\); expected \(batch, in_channels=2, axis_1\)"):
        convolve(x, w)
    with pytest.raises(ValueError, match=r"bias has shape \(4,\); expected \(out_channels=6\)"):
        convolve(x, w, torch.zeros(4), groups=2)
    with pytest.raises(ValueError, match=r"x has shape \(1, 4, 9\); expected \(batch, channels, axis_1, axis_2\)"):
        unfold(x, (3, 3))
    with pytest.raises(TypeError, match="weight has dtype torch.int64"):
        convolve(x, w.long())
    with pytest.raises(ValueError, match="stride=0 is below 1"):
        unfold(x, (3,), stride=0)
    assert per_axis("padding", (0, 1), 2, least=0) == (0, 1)
