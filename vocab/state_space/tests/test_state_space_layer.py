import math

import numpy as np
import pytest
import torch

from snippets.state_space.state_space_layer import discretize as numpy_discretize
from snippets.state_space.state_space_layer import kernel as numpy_kernel
from snippets.state_space.state_space_layer import run as numpy_run
from vocab.state_space.hippo import hippo_legs
from vocab.state_space.mamba import Mamba
from vocab.state_space.state_space_layer import StateSpaceLayer, discretize, fft_convolve, ssm_kernel

D = torch.float64


def example():
    return StateSpaceLayer(3, 4).double(), (torch.randn(2, 5, 3, dtype=D),)


def layer(mode="recurrent", discretization="zoh"):
    made = StateSpaceLayer(3, 4, mode=mode, discretization=discretization).double()
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def system(N=4):
    return torch.randn(N, N, dtype=D) - 2 * torch.eye(N, dtype=D), torch.randn(N, dtype=D)


@pytest.mark.oracle("scipy.signal.cont2discrete")
@pytest.mark.parametrize("method", ["zoh", "bilinear", "euler"])
def test_sampling_equals_scipy(method):
    signal = pytest.importorskip("scipy.signal")
    A, B = system()
    steps = torch.tensor([[0.01, 0.3], [1.0, 2.5]], dtype=D)
    Ad, Bd = discretize(A, B, steps, method)
    for i in range(2):
        for j in range(2):
            parts = A.numpy(), B.numpy()[:, None], np.eye(4), np.zeros((4, 1))
            expected = signal.cont2discrete(parts, steps[i, j].item(), method)
            np.testing.assert_allclose(Ad[i, j], expected[0], rtol=1e-9, atol=1e-11)
            np.testing.assert_allclose(Bd[i, j], expected[1][:, 0], rtol=1e-9, atol=1e-11)


@pytest.mark.oracle("the formula with the inverse of A, and an integrator that has none")
def test_the_hold_is_the_textbook_formula_and_works_without_an_inverse_too():
    A, B = system()
    Ad, Bd = discretize(A, B, torch.tensor(0.7, dtype=D))
    torch.testing.assert_close(Bd, torch.linalg.inv(A) @ (Ad - torch.eye(4, dtype=D)) @ B)
    Ad, Bd = discretize(torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=D), torch.tensor([0.0, 1.0], dtype=D), torch.tensor(0.5, dtype=D))
    torch.testing.assert_close(Ad, torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=D))
    torch.testing.assert_close(Bd, torch.tensor([0.125, 0.5], dtype=D))  # t² / 2 and t


@pytest.mark.oracle("scipy.signal.dlsim")
@pytest.mark.parametrize("mode", ["recurrent", "convolution"])
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_every_channel_is_the_sampled_system_of_scipy(mode, discretization):
    signal = pytest.importorskip("scipy.signal")
    made, x = layer(mode, discretization), torch.randn(2, 30, 3, dtype=D)
    y = made(x).detach()
    for d in range(3):
        parts = made.A.detach().numpy(), made.B.detach().numpy()[:, None], np.eye(4), np.zeros((4, 1))
        Ad, Bd, *_ = signal.cont2discrete(parts, made.log_dt[d].exp().item(), discretization)
        C = made.C[d : d + 1].detach().numpy()
        for b in range(2):
            # scipy reads out the state before a sample, this layer the one after it.
            _, expected, _ = signal.dlsim((Ad, Bd, C @ Ad, C @ Bd + made.D[d].item(), 1.0), x[b, :, d].numpy())
            np.testing.assert_allclose(y[b, :, d], expected[:, 0], rtol=1e-9, atol=1e-10)


@pytest.mark.oracle("numpy.convolve with powers of the matrix")
@pytest.mark.parametrize("L", [1, 2, 3, 17, 64])
def test_recurrence_is_a_convolution_with_powers_of_the_matrix(L):
    made, x = layer("recurrent"), torch.randn(1, L, 3, dtype=D)
    Ad, Bd = discretize(made.A, made.B, made.log_dt.exp())
    K = ssm_kernel(Ad, Bd, made.C, L).detach().numpy()
    y, long = made(x).detach(), layer("convolution")
    long.load_state_dict(made.state_dict())
    torch.testing.assert_close(long(x), made(x), rtol=1e-10, atol=1e-10)
    for d in range(3):
        matrix = Ad[d].detach().numpy()
        powers = [made.C[d].detach().numpy() @ np.linalg.matrix_power(matrix, t) @ Bd[d].detach().numpy() for t in range(L)]
        np.testing.assert_allclose(K[d], powers, rtol=1e-9, atol=1e-11)
        channel = x[0, :, d].numpy()
        np.testing.assert_allclose(y[0, :, d], np.convolve(channel, powers)[:L] + made.D[d].item() * channel, rtol=1e-9, atol=1e-10)


@pytest.mark.oracle("the exponential function")
def test_one_state_answers_an_impulse_with_an_exponential():
    a, dt = -0.8, 0.25
    Ad, Bd = discretize(torch.tensor([[a]], dtype=D), torch.ones(1, dtype=D), torch.tensor(dt, dtype=D))
    K = ssm_kernel(Ad, Bd, torch.ones(1, dtype=D), 20)
    expected = [math.exp(a * dt * t) * (math.exp(a * dt) - 1) / a for t in range(20)]
    np.testing.assert_allclose(K, expected, rtol=1e-12)


def test_halving_the_step_and_repeating_the_input_changes_nothing_for_a_hold_only():
    for discretization, same in (("zoh", True), ("bilinear", False)):
        made, x = layer(discretization=discretization), torch.randn(1, 12, 3, dtype=D)
        made.log_dt.data += 2
        before = made(x)
        made.log_dt.data -= math.log(2)
        after = made(x.repeat_interleave(2, 1))[:, 1::2]
        assert torch.allclose(after, before, rtol=1e-9, atol=1e-10) == same


def test_starts_as_hippo_and_stays_stable_whatever_is_learned():
    made = StateSpaceLayer(64, 8)
    A, B = hippo_legs(8)
    torch.testing.assert_close(made.A.double(), A, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made.B.double(), B, rtol=1e-6, atol=0)
    assert 1e-3 <= made.log_dt.exp().min() < 2e-3 and 0.05 < made.log_dt.exp().max() <= 0.1
    assert torch.equal(made.D, torch.ones(64)) and 0.8 < made.C.std() < 1.2
    assert StateSpaceLayer(2).B.shape == (64,) and StateSpaceLayer(2).mode == "convolution" and StateSpaceLayer(2).discretization == "zoh"
    made = StateSpaceLayer(2, 6).double()
    for _ in range(20):
        for parameter in (made.skew, made.low_rank, made.log_decay):
            parameter.data = 3 * torch.randn_like(parameter)
        assert torch.linalg.eigvals(made.A).real.max() < 0
        for method in ("zoh", "bilinear"):
            Ad, _ = discretize(made.A, made.B, torch.tensor(5.0, dtype=D), method)
            assert torch.linalg.eigvals(Ad).abs().max() < 1


def test_euler_makes_a_stable_system_explode_and_the_others_do_not():
    A, B, dt = torch.tensor([[-3.0]], dtype=D), torch.ones(1, dtype=D), torch.tensor(1.0, dtype=D)
    last = {m: ssm_kernel(*discretize(A, B, dt, m), torch.ones(1, dtype=D), 100)[-1].abs().item() for m in ("zoh", "bilinear", "euler")}
    assert last["zoh"] < 1e-100 and last["bilinear"] < 1e-60 and last["euler"] > 1e29


def test_without_padding_the_end_of_a_sequence_runs_into_its_beginning():
    made, x = layer("convolution"), torch.zeros(1, 8, 3, dtype=D)
    x[:, -1] = 1
    assert made(x)[:, :-1].abs().max() < 1e-12
    K = ssm_kernel(*discretize(made.A, made.B, made.log_dt.exp()), made.C, 8)
    circular = torch.fft.irfft(torch.fft.rfft(x[0].T) * torch.fft.rfft(K), 8)
    assert circular[:, 0].abs().max() > 0.1


def test_a_nan_at_the_end_spoils_all_of_a_convolution_and_nothing_before_it_of_a_recurrence():
    x = torch.randn(1, 6, 3, dtype=D)
    x[:, -1] = torch.nan
    assert layer("convolution")(x).isnan().all()
    assert layer("recurrent")(x)[:, :-1].isfinite().all()


def test_it_is_linear_and_the_same_at_every_time_and_mamba_is_neither():
    x = torch.randn(1, 9, 3, dtype=D)
    late = torch.cat([torch.zeros(1, 1, 3, dtype=D), x[:, :-1]], 1)
    for mode in ("recurrent", "convolution"):
        made = layer(mode)
        torch.testing.assert_close(made(3 * x), 3 * made(x))
        torch.testing.assert_close(made(late)[:, 1:], made(x)[:, :-1])
    selective = Mamba(3, 4).double()
    assert not torch.allclose(selective(3 * x)[0], 3 * selective(x)[0], rtol=1e-2)


def test_the_step_sets_how_long_a_channel_remembers():
    made = StateSpaceLayer(2, 1, mode="convolution").double()
    made.log_dt.data = torch.tensor([0.01, 0.1], dtype=D).log()
    made.D.data.zero_()
    x = torch.zeros(1, 400, 2, dtype=D)
    x[:, 0] = 1
    y = made(x)[0] / made(x)[0, 0]
    torch.testing.assert_close(y[100, 0].item(), math.exp(-1))
    torch.testing.assert_close(y[10, 1].item(), math.exp(-1))


@pytest.mark.parametrize("mode", ["recurrent", "convolution"])
def test_samples_one_by_one_give_what_the_whole_sequence_gives(mode):
    made, x = layer(mode), torch.randn(2, 6, 3, dtype=D)
    state = None
    for t in range(6):
        y, state = made.step(x[:, t], state)
        torch.testing.assert_close(y, made(x)[:, t])


def test_numpy_variant_agrees(agree):
    A, B = system()
    C, x = torch.randn(4, dtype=D), torch.randn(40, dtype=D)
    for dt in (0.05, 0.4):
        for method in ("zoh", "bilinear", "euler"):
            Ad, Bd = numpy_discretize(A.numpy(), B.numpy(), dt, method)
            ours = discretize(A, B, torch.tensor(dt, dtype=D), method)
            agree(Ad, ours[0], atol=1e-12)
            agree(Bd, ours[1], atol=1e-12)
    made = layer()
    made.D.data.zero_()
    Ad, Bd = numpy_discretize(made.A.detach().numpy(), made.B.detach().numpy(), made.log_dt[1].exp().item())
    C = made.C[1].detach().numpy()
    expected = made(x[None, :, None].expand(1, 40, 3))[0, :, 1]
    agree(numpy_run(Ad, Bd, C, x.numpy()), expected, atol=1e-10)
    agree(np.convolve(x.numpy(), numpy_kernel(Ad, Bd, C, 40))[:40], expected, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(d_model=0), "d_model=0 is not a whole number above 0"),
        (dict(d_state=0), "d_state=0 is not a whole number above 0"),
        (dict(d_state=1.5), "d_state=1.5 is not"),
        (dict(discretization="euler"), "discretization='euler' is neither 'zoh' nor 'bilinear'"),
        (dict(mode="scan"), "mode='scan' is neither 'recurrent' nor 'convolution'"),
        (dict(dt_min=0.0), "dt_min=0.0 and dt_max=0.1 are not 0 < dt_min <= dt_max"),
        (dict(dt_min=0.2), "dt_min=0.2 and dt_max=0.1 are not"),
    ],
)
def test_bad_settings_say_which_and_why(settings, message):
    with pytest.raises(ValueError, match=message):
        StateSpaceLayer(**{"d_model": 2, **settings})


def test_wrong_shapes_name_the_expected_ones():
    made, x = layer(), torch.zeros(2, 5, 3, dtype=D)
    with pytest.raises(ValueError, match=r"x has shape \(5, 3\); expected \(batch, time, d_model=3\)"):
        made(x[0])
    with pytest.raises(ValueError, match=r"x has shape \(2, 5, 3\); expected \(batch, d_model=3\)"):
        made.step(x)
    with pytest.raises(ValueError, match=r"state has shape \(2, 3, 3\); expected \(batch=2, d_model=3, d_state=4\)"):
        made.step(x[:, 0], torch.zeros(2, 3, 3, dtype=D))
    A, B = system()
    with pytest.raises(ValueError, match=r"A has shape \(3, 4\); expected \(d_state=4, d_state=4\)"):
        discretize(A[:3], B, torch.ones(()))
    with pytest.raises(ValueError, match="method='foh' is none of"):
        discretize(A, B, torch.ones(()), "foh")
    with pytest.raises(TypeError, match="dt is a float; expected a tensor"):
        discretize(A, B, 0.1)
    with pytest.raises(ValueError, match="L=0 is below 1"):
        ssm_kernel(A, B, B, 0)
    with pytest.raises(ValueError, match=r"C has shape \(3,\)"):
        ssm_kernel(A, B, B[:3], 2)
    with pytest.raises(ValueError, match=r"Ad has shape \(3, 4\)"):
        ssm_kernel(A[:3], B, B, 2)
    with pytest.raises(ValueError, match=r"B has shape \(4, 4\); expected \(d_state\)"):
        discretize(A, A, torch.ones(()))


@pytest.mark.oracle("numpy.convolve")
def test_fft_convolution_equals_numpys_and_checks_its_arguments():
    x, kernel = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(3, 9, dtype=torch.float64)
    y = fft_convolve(x, kernel)
    for b in range(2):
        for d in range(3):
            np.testing.assert_allclose(y[b, :, d], np.convolve(x[b, :, d], kernel[d])[:9], atol=1e-12)
    with pytest.raises(ValueError, match=r"kernel has shape \(3, 8\); expected \(d_model=3, time=9\)"):
        fft_convolve(x, kernel[:, 1:])
    with pytest.raises(ValueError, match=r"x has shape \(9, 3\); expected \(batch, time, d_model\)"):
        fft_convolve(x[0], kernel)
