import math

import numpy as np
import pytest
import torch
from numpy.polynomial import legendre as npl

from snippets.state_space.hippo import expm, hippo, memory
from snippets.state_space.hippo import reconstruct as numpy_reconstruct
from vocab.state_space.hippo import HippoMemory, hippo_legs, hippo_legt, legendre, reconstruct

D = torch.float64


def example():
    return HippoMemory(4), (torch.randn(2, 6, dtype=D),)


def projection(f, N, start, end, points=200):
    """Coefficients of f on [start, end], by Gauss-Legendre quadrature."""
    x, w = npl.leggauss(points)
    values = f(start + (end - start) * (x + 1) / 2)
    return np.array([np.sqrt(2 * n + 1) * np.sum(w * values * npl.legval(x, np.eye(N)[n])) / 2 for n in range(N)])


def projection_of_steps(f, N):
    """The same for a signal that stands still between samples, by exact integrals of the polynomials."""
    edges = np.linspace(-1, 1, len(f) + 1)
    areas = [np.diff(npl.legval(edges, npl.legint(np.eye(N)[n]))) for n in range(N)]
    return np.array([np.sqrt(2 * n + 1) * np.sum(f * areas[n]) / 2 for n in range(N)])


@pytest.mark.oracle("the closed form of LegS, entry by entry")
def test_legs_has_the_entries_and_eigenvalues_of_the_paper():
    A, B = hippo_legs(7)
    for n in range(7):
        assert B[n].item() == math.sqrt(2 * n + 1)
        for k in range(7):
            expected = -math.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1) if n == k else 0
            assert A[n, k].item() == pytest.approx(expected, rel=1e-15)
    rates = torch.linalg.eigvals(A).real.sort().values
    torch.testing.assert_close(rates, -torch.arange(7.0, 0, -1, dtype=D), rtol=1e-9, atol=0)


@pytest.mark.oracle("the closed form of the Legendre memory unit")
def test_legt_is_the_legendre_memory_unit_in_other_units():
    A, B = hippo_legt(6)
    n = torch.arange(6, dtype=D)
    lmu_A = torch.empty(6, 6, dtype=D)
    for i in range(6):
        for j in range(6):
            lmu_A[i, j] = (2 * i + 1) * (-1.0 if i < j else (-1.0) ** (i - j + 1))
    units = (-1) ** n * (2 * n + 1).sqrt()
    torch.testing.assert_close(units[:, None] * A / units, lmu_A)
    torch.testing.assert_close(units * B, (2 * n + 1) * (-1) ** n)


@pytest.mark.oracle("the derivative of numpy's Legendre projection")
@pytest.mark.parametrize("method", ["legs", "legt"])
def test_the_matrices_are_the_derivative_of_the_projection(method):
    N, t, window, eps = 6, 1.7, 0.9, 1e-5

    def f(x):
        return 1 - 2 * x + 0.7 * x**3 - 0.2 * x**5

    def c(now):
        return projection(f, N, 0.0 if method == "legs" else now - window, now)

    A, B = (x.numpy() for x in (hippo_legs if method == "legs" else hippo_legt)(N))
    slope = (c(t + eps) - c(t - eps)) / (2 * eps)
    np.testing.assert_allclose(slope, (A @ c(t) + B * f(t)) / (t if method == "legs" else window), rtol=1e-7, atol=1e-8)


@pytest.mark.oracle("integrals of numpy's Legendre polynomials")
@pytest.mark.parametrize("N", [1, 2, 5, 16])
def test_legs_holds_the_exact_projection_of_a_signal_that_stands_still_between_samples(N):
    f = torch.randn(2, 40, dtype=D)
    c = HippoMemory(N)(f)
    for t in (1, 2, 7, 40):
        for b in range(2):
            np.testing.assert_allclose(c[b, t - 1], projection_of_steps(f[b, :t].numpy(), N), rtol=1e-8, atol=1e-9)


def test_coefficients_of_a_polynomial_come_closer_as_the_step_goes_to_zero():
    def f(x):
        return 1 - 3 * x + 2 * x**3

    exact, errors = projection(f, 6, 0, 1), []
    for T in (50, 100, 200):
        c = HippoMemory(6)(torch.from_numpy(f((np.arange(T) + 1) / T))[None])[0, -1].numpy()
        errors.append(np.abs(c - exact).max())
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2] and errors[2] < 0.02


def test_reconstruction_improves_with_more_coefficients():
    t = (torch.arange(300, dtype=D) + 0.5) / 300
    f = torch.sin(20 * t) + 0.5 * torch.cos(7 * t)
    errors = [(reconstruct(HippoMemory(N)(f[None])[0, -1], t) - f).square().mean().sqrt().item() for N in (4, 8, 12, 16)]
    assert errors[0] > 1.2 * errors[1] > 10 * errors[2] > 100 * errors[3]  # three periods need about ten polynomials


def test_legs_does_not_know_how_fast_time_runs():
    f = torch.randn(1, 30, dtype=D)
    slow = HippoMemory(8)(f.repeat_interleave(2, 1))
    torch.testing.assert_close(slow[:, 1::2], HippoMemory(8)(f))
    slow = HippoMemory(8, "legt", window=10)(f.repeat_interleave(2, 1))
    assert not torch.allclose(slow[:, 1::2], HippoMemory(8, "legt", window=10)(f), rtol=0.1)
    torch.testing.assert_close(slow[:, 1::2], HippoMemory(8, "legt", window=5)(f))


@pytest.mark.oracle("scipy.signal.dlsim")
def test_legt_is_the_linear_system_with_its_input_held():
    signal = pytest.importorskip("scipy.signal")
    A, B = (x.numpy() for x in hippo_legt(5))
    f = torch.randn(1, 25, dtype=D)
    discrete = signal.cont2discrete((A / 12, B[:, None] / 12, np.eye(5), np.zeros((5, 1))), 1.0, "zoh")
    _, _, states = signal.dlsim(discrete, np.append(f[0].numpy(), 0.0))  # states before each sample
    np.testing.assert_allclose(HippoMemory(5, "legt", window=12)(f)[0], states[1:], rtol=1e-8, atol=1e-10)


def test_legt_sees_its_window_and_forgets_the_rest():
    t = torch.arange(400, dtype=D)
    f = torch.sin(t / 10)
    c = HippoMemory(12, "legt", window=100)(f[None])[0, -1]
    where = (torch.arange(100, dtype=D) + 0.5) / 100
    torch.testing.assert_close(reconstruct(c, where), f[-100:], rtol=0, atol=0.02)
    f[:100] = 50.0  # three windows ago
    again = HippoMemory(12, "legt", window=100)(f[None])[0, -1]
    torch.testing.assert_close(again, c, rtol=0, atol=0.05)
    assert (HippoMemory(12)(f[None])[0, -1] - HippoMemory(12)(torch.sin(t / 10)[None])[0, -1]).abs().max() > 5


@pytest.mark.parametrize("settings", [dict(), dict(method="legt", window=5)])
def test_a_constant_is_the_first_coefficient_alone(settings):
    c = HippoMemory(6, **settings)(torch.full((1, 200), 3.0, dtype=D))[0, -1]
    torch.testing.assert_close(c, torch.tensor([3.0, 0, 0, 0, 0, 0], dtype=D))


@pytest.mark.oracle("numpy.polynomial.legendre")
def test_polynomials_are_those_of_numpy_and_orthonormal():
    t = torch.linspace(0, 1, 11, dtype=D)
    expected = npl.legvander(2 * t.numpy() - 1, 8) * np.sqrt(2 * np.arange(9) + 1)
    np.testing.assert_allclose(legendre(t, 9), expected, rtol=1e-12, atol=1e-13)
    x, w = npl.leggauss(20)
    basis = legendre(torch.from_numpy((x + 1) / 2), 9).numpy()
    np.testing.assert_allclose(basis.T @ (basis * w[:, None] / 2), np.eye(9), atol=1e-12)
    assert legendre(t, 1).shape == (11, 1)
    c = torch.randn(3, 9, dtype=D)
    np.testing.assert_allclose(reconstruct(c, t), c.numpy() @ expected.T, rtol=1e-11)


def test_half_precision_is_kept_in_single():
    assert HippoMemory(4)(torch.ones(1, 5).bfloat16()).dtype == torch.float32


def test_numpy_variant_agrees(agree):
    f = torch.randn(1, 60, dtype=D)
    t = torch.linspace(0, 1, 9, dtype=D)
    for N in (2, 9, 32):
        for window, make in ((None, hippo_legs), (20, hippo_legt)):
            for ours, theirs in zip(hippo(N, window is not None), make(N)):
                agree(ours, theirs)
            module = HippoMemory(N, "legs" if window is None else "legt", window=window)
            c = module(f)[0]
            agree(memory(f[0].numpy(), N, window), c, atol=1e-9)
            agree(numpy_reconstruct(c[-1].numpy(), t.numpy()), reconstruct(c[-1], t), atol=1e-9)
    A = torch.randn(4, 5, 5, dtype=D)
    agree(expm(A.numpy()), torch.linalg.matrix_exp(A))


def test_bad_settings_and_shapes_say_which_and_why():
    for N in (0, 2.5):
        for call in (hippo_legs, hippo_legt, HippoMemory, lambda N: legendre(torch.ones(2), N)):
            with pytest.raises(ValueError, match=f"N={N} is not a whole number above 0"):
                call(N)
    with pytest.raises(ValueError, match="method='lagt' is neither 'legs' nor 'legt'"):
        HippoMemory(4, "lagt")
    with pytest.raises(ValueError, match="window=5 with method='legs', whose window is the whole past"):
        HippoMemory(4, window=5)
    for window in (None, 0):
        with pytest.raises(ValueError, match=f"window={window} with method='legt'; expected a number of samples above 0"):
            HippoMemory(4, "legt", window=window)
    assert HippoMemory(4, "legt", window=0.5).window == 0.5
    with pytest.raises(ValueError, match=r"f has shape \(5,\); expected \(batch, time\)"):
        HippoMemory(4)(torch.ones(5))
    with pytest.raises(ValueError, match=r"t has shape \(\); expected \(points\)"):
        reconstruct(torch.ones(4), torch.tensor(0.5))
    with pytest.raises(TypeError, match="c has dtype"):
        reconstruct(torch.ones(4).long(), torch.ones(1))
