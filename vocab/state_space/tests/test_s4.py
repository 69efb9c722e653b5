import math

import numpy as np
import pytest
import torch

from snippets.state_space import s4 as numpy_variant
from vocab.state_space.hippo import hippo_legs
from vocab.state_space.s4 import S4D, legs_nplr, s4_kernel, s4d_poles
from vocab.state_space.state_space_layer import discretize, ssm_kernel

D = torch.float64


def example():
    return S4D(2, 4).double(), (torch.randn(2, 6, 2, dtype=D),)


def layers():
    return [S4D(3, 6, init=init).double() for init in ("lin", "inv", "real")]


def as_real_system(layer, channel):
    """A channel as a dense real system: a block [[a, -b], [b, a]] for each pole a + ib."""
    A, C = layer.A[channel].detach(), layer.C[0, channel].detach()
    blocks = torch.block_diag(*[torch.stack([torch.stack([p.real, -p.imag]), torch.stack([p.imag, p.real])]) for p in A])
    B = torch.tensor([1.0, 0.0], dtype=D).repeat(len(A))
    if layer.frequency is None:
        read = torch.stack([C[:, 0], 0 * C[:, 0]], 1)
    else:
        read = 2 * torch.stack([C[:, 0], -C[:, 1]], 1)
    return blocks, B, read.flatten(), layer.log_dt[channel].exp().detach(), layer.D[channel].detach()


@pytest.mark.oracle("the recurrence, sample by sample")
def test_convolution_equals_steps():
    for layer in layers():
        x = torch.randn(2, 40, 3, dtype=D)
        state, outputs = None, []
        for t in range(40):
            y, state = layer.step(x[:, t], state)
            outputs.append(y)
        torch.testing.assert_close(torch.stack(outputs, 1), layer(x), rtol=1e-8, atol=1e-8)


@pytest.mark.oracle("scipy.signal.cont2discrete and dlsim")
def test_each_channel_is_a_system_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    for layer in layers():
        x = torch.randn(1, 30, 3, dtype=D)
        y = layer(x).detach()
        for channel in range(3):
            A, B, C, dt, skip = (v.numpy() for v in as_real_system(layer, channel))
            Ad, Bd, _, _, _ = signal.cont2discrete((A, B[:, None], C[None], np.zeros((1, 1))), float(dt), "zoh")
            # scipy reads the state before a sample comes in; here the sample counts at once.
            system = Ad, Bd, (C @ Ad)[None], (C @ Bd)[:, None] + float(skip), float(dt)
            _, expected, _ = signal.dlsim(system, x[0, :, channel].numpy())
            np.testing.assert_allclose(y[0, :, channel], expected[:, 0], rtol=1e-8, atol=1e-8)


@pytest.mark.oracle("the dense kernel C Ad^t Bd")
def test_diagonal_kernel_equals_the_dense_one():
    for layer in layers():
        kernel = layer.kernel(50)
        assert kernel.shape == (1, 3, 50)
        for channel in range(3):
            A, B, C, dt, _ = as_real_system(layer, channel)
            torch.testing.assert_close(kernel[0, channel], ssm_kernel(*discretize(A, B, dt), C, 50), rtol=1e-7, atol=1e-10)


@pytest.mark.oracle("the dense kernel of the same A")
@pytest.mark.parametrize("L", [1, 2, 3, 63, 64])
@pytest.mark.parametrize("N", [1, 2, 8])
def test_the_normal_plus_low_rank_kernel_equals_the_dense_one(N, L):
    C = torch.randn(N, dtype=D)
    for dt in (0.001, 0.1, 1.0):
        torch.testing.assert_close(s4_kernel(C, dt, L), s4_kernel(C, dt, L, mode="dense"), rtol=1e-9, atol=1e-12)


@pytest.mark.oracle("scipy.signal.dlti: the response to an impulse")
def test_the_dense_kernel_is_the_impulse_response_of_scipy():
    signal = pytest.importorskip("scipy.signal")
    A, B = hippo_legs(8)
    C = torch.randn(8, dtype=D)
    Ad, Bd, *_ = signal.cont2discrete((A.numpy(), B.numpy()[:, None], C.numpy()[None], np.zeros((1, 1))), 0.1, "bilinear")
    _, (h,) = signal.dimpulse((Ad, Bd, C.numpy()[None], np.zeros((1, 1)), 0.1), n=65)
    for mode in ("dense", "nplr"):
        np.testing.assert_allclose(s4_kernel(C, 0.1, 64, mode=mode), h[1:, 0], rtol=1e-8, atol=1e-12)


def test_legs_is_a_normal_matrix_less_one_of_rank_one():
    for N in (1, 2, 7, 16):
        poles, p, b, V = legs_nplr(N)
        A, B = hippo_legs(N)
        eye = torch.eye(N, dtype=D).to(V)
        torch.testing.assert_close(V.mH @ V, eye)
        torch.testing.assert_close(V @ (torch.diag(poles) - torch.outer(p, p.conj())) @ V.mH, A.to(V))
        torch.testing.assert_close(V @ b, B.to(V))
        assert torch.equal(poles.real, torch.full((N,), -0.5, dtype=D))


def test_first_poles_are_those_of_the_paper():
    n = torch.arange(4, dtype=D)
    lin, inv, real = (s4d_poles(8, init) for init in ("lin", "inv", "real"))
    torch.testing.assert_close(lin, torch.complex(torch.full((4,), -0.5, dtype=D), math.pi * n))
    assert inv.imag.tolist() == pytest.approx([8 / math.pi * 7, 8 / math.pi * 5 / 3, 8 / math.pi * 3 / 5, 8 / math.pi / 7])
    assert torch.equal(inv.real, torch.full((4,), -0.5, dtype=D))
    assert real.tolist() == [-1, -2, -3, -4, -5, -6, -7, -8]
    for layer, expected in zip((S4D(2, 8, init=i).double() for i in ("lin", "inv", "real")), (lin, inv, real)):
        torch.testing.assert_close(layer.A, expected.expand(2, -1), rtol=1e-6, atol=1e-6)
    assert S4D(1).A.shape == (1, 32)


@pytest.mark.oracle("eigenvalues of HiPPO-LegS and of its normal part")
def test_inverse_poles_are_close_to_the_normal_part_and_real_ones_are_those_of_legs():
    frequency = legs_nplr(64)[0].imag
    frequency = frequency[frequency > 0].flip(0)
    ratio = s4d_poles(64, "inv").imag / frequency
    assert 0.77 < ratio.min() and ratio.max() < 1.23 and 0.98 < ratio[0] < 0.99
    assert (s4d_poles(64, "lin").imag[1:] / frequency.flip(0)[1:])[-1] < 0.2
    eigenvalues = torch.linalg.eigvals(hippo_legs(8)[0]).real.sort(descending=True).values
    torch.testing.assert_close(s4d_poles(8, "real").real, eigenvalues)


def test_the_eigenvectors_of_legs_itself_are_nearly_parallel():
    """Why S4 does not diagonalize LegS: the change of basis would have entries of astronomical size."""
    condition = [torch.linalg.cond(torch.linalg.eig(hippo_legs(N)[0]).eigenvectors) for N in (4, 8, 16)]
    assert condition[0] < 1e3 < 1e4 < condition[1] and condition[2] > 1e10


def test_both_directions_are_a_forward_and_a_reversed_pass():
    both = S4D(3, 6, bidirectional=True).double()
    forth, back = S4D(3, 6).double(), S4D(3, 6).double()
    for layer, i in ((forth, 0), (back, 1)):
        layer.load_state_dict({name: p[i : i + 1] if name == "C" else p for name, p in both.state_dict().items()})
    with torch.no_grad():
        back.D.zero_()
    x = torch.randn(2, 9, 3, dtype=D)
    torch.testing.assert_close(both(x), forth(x) + back(x.flip(1)).flip(1))
    assert both.kernel(5).shape == (2, 3, 5)


def test_the_layer_is_linear_and_blocks_are_not():
    """A widely copied text calls models of it linear. The layer is, in its input; a block adds a nonlinearity after it."""
    layer, (x,) = example()
    y = torch.randn_like(x)
    torch.testing.assert_close(layer(x + 3 * y), layer(x) + 3 * layer(y))
    block = lambda v: v + torch.nn.functional.gelu(layer(v))  # noqa: E731
    assert not torch.allclose(block(x + 3 * y), block(x) + 3 * block(y), rtol=0.1)


def test_it_stays_stable_whatever_is_learned():
    for layer in layers():
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(3 * torch.randn_like(p))
        assert (layer.A.real < 0).all()
        kernel = layer.kernel(4000)
        assert kernel.isfinite().all() and (kernel[..., -1].abs() <= kernel.abs().amax(-1)).all()


def test_half_the_rate_with_twice_the_step_is_the_same_system():
    """A held input sampled half as often: dt is what ties a kernel to a rate."""
    layer, _ = example()
    x = torch.randn(1, 20, 2, dtype=D)
    fine = layer(x.repeat_interleave(2, 1))[:, 1::2]
    with torch.no_grad():
        layer.log_dt += math.log(2)
    torch.testing.assert_close(layer(x), fine)


def test_memory_is_about_two_over_the_step():
    layer = S4D(1, 2, dt_min=0.01, dt_max=0.01).double()  # one pole at -1/2: pure decay
    kernel = layer.kernel(201)[0, 0]
    torch.testing.assert_close((kernel[200] / kernel[0]).item(), math.exp(-1), rtol=1e-6, atol=0)


def test_layer_starts_as_the_paper_says():
    layer = S4D(2000, 4)
    dt = layer.log_dt.exp()
    assert 0.999e-3 < dt.min() < 1.05e-3 and 0.095 < dt.max() < 0.1001 and 0.009 < dt.median() < 0.0112
    assert torch.equal(layer.D, torch.ones(2000)) and layer.C.shape == (1, 2000, 2, 2)
    assert layer.C.square().sum(-1).mean().item() == pytest.approx(1, abs=0.05)
    assert S4D(2, 4, init="real").C.shape == (1, 2, 4, 1) and S4D(2, 4, init="real").frequency is None
    assert 0.9 < S4D(500, 4, init="real").C.square().mean() < 1.1


def test_sixteen_bits_are_computed_in_thirty_two():
    layer = S4D(2, 8, dt_min=0.01, dt_max=0.1)
    x = torch.randn(1, 300, 2)
    exact = layer(x)
    half = layer.bfloat16()
    y = half(x.bfloat16())
    assert y.dtype == torch.bfloat16 and half.kernel(5).dtype == torch.float32
    step, state = half.step(x[:, 0].bfloat16())
    assert step.dtype == torch.bfloat16 and state.dtype == torch.float32
    assert (y - exact).abs().max() < 0.2 * exact.abs().max()


def test_numpy_variant_agrees(agree):
    layer = S4D(1, 8, init="inv").double()
    with torch.no_grad():
        layer.D.zero_()
    C, dt = torch.view_as_complex(layer.C[0, 0].detach()).numpy(), layer.log_dt.exp().item()
    A = layer.A[0].detach().numpy()
    agree(numpy_variant.kernel(A, C, dt, 50), layer.kernel(50)[0, 0])
    x = torch.randn(1, 30, 1, dtype=D)
    agree(numpy_variant.run(A, C, dt, x[0, :, 0].numpy()), layer(x)[0, :, 0], atol=1e-12)
    for init in ("lin", "inv"):
        np.testing.assert_allclose(numpy_variant.poles(8, init), s4d_poles(8, init))


def test_numpy_fit_finds_the_weights_of_a_kernel():
    A = numpy_variant.poles(8)
    C = np.random.default_rng(0).normal(size=4) + 0j
    target = numpy_variant.kernel(A, C, 0.05, 200)
    np.testing.assert_allclose(numpy_variant.kernel(A, numpy_variant.fit(A, 0.05, target), 0.05, 200), target, atol=1e-3 * np.abs(target).max())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(d_model=0), "d_model=0 is not a whole number above 0"),
        (dict(d_model=1.5), "d_model=1.5 is not"),
        (dict(d_model=2, d_state=0), "d_state=0 is not a whole number above 0"),
        (dict(d_model=2, d_state=5), "d_state=5 is not a whole number above 0, and even for conjugate pairs"),
        (dict(d_model=2, d_state=0, init="real"), "d_state=0 is not"),
        (dict(d_model=2, init="fourier"), r"init='fourier' is none of \('lin', 'inv', 'real'\)"),
        (dict(d_model=2, dt_min=0.2), "dt_min=0.2 and dt_max=0.1 are not 0 < dt_min <= dt_max"),
        (dict(d_model=2, dt_min=0.0), "dt_min=0.0 and"),
    ],
)
def test_settings_that_cannot_be_say_which_and_why(arguments, message):
    with pytest.raises(ValueError, match=message):
        S4D(**arguments)


def test_the_smallest_layers_work():
    assert S4D(1, 2, dt_min=0.1)(torch.randn(1, 1, 1)).isfinite().all()
    assert S4D(1, 1, init="real")(torch.randn(1, 3, 1)).isfinite().all()


def test_wrong_shapes_name_the_expected_ones():
    layer, (x,) = example()
    with pytest.raises(ValueError, match=r"x has shape \(6, 2\); expected \(batch, time, d_model=2\)"):
        layer(x[0])
    with pytest.raises(ValueError, match=r"x has shape \(2, 6, 2\); expected \(batch, d_model=2\)"):
        layer.step(x)
    _, state = layer.step(x[:, 0])
    for bad in (state[:1], state[:, :1], state[:, :, :1], state[..., :1]):
        with pytest.raises(ValueError, match=r"state has shape .*; expected \(batch=2, d_model=2, poles=2, parts=2\)"):
            layer.step(x[:, 0], bad)
    with pytest.raises(ValueError, match="bidirectional=True: an output needs all samples to come"):
        S4D(2, 4, bidirectional=True).step(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"C has shape \(1, 4\); expected \(d_state\)"):
        s4_kernel(torch.ones(1, 4), 0.1, 4)
    with pytest.raises(ValueError, match="dt=0.0 is not positive or L=4 is below 1"):
        s4_kernel(torch.ones(4), 0.0, 4)
    with pytest.raises(ValueError, match="dt=0.1 is not positive or L=0 is below 1"):
        s4_kernel(torch.ones(4), 0.1, 0)
    with pytest.raises(ValueError, match="mode='fft' is neither 'nplr' nor 'dense'"):
        s4_kernel(torch.ones(4), 0.1, 4, mode="fft")
