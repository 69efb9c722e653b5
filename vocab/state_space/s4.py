"""S4 and S4D: state space layers whose matrix is so structured that a kernel costs little more than its length.

Source: Gu et al. 2022, arXiv:2206.11893, sections 3 and 4 (S4D, its kernel and its poles); Gu, Goel and Re 2022, arXiv:2111.00396, section 3
and appendix C (the normal plus low-rank kernel).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.state_space.hippo import hippo_legs
from vocab.state_space.state_space_layer import discretize, fft_convolve, ssm_kernel

__all__ = ["S4D", "legs_nplr", "s4_kernel", "s4d_poles"]

# B batch, T time, D channels, N numbers of state per channel, M poles that are stored: N / 2 of conjugate pairs, or N real ones

INITS = ("lin", "inv", "real")


class S4D(nn.Module):
    """Runs every channel through a bank of N damped oscillators, each with a pole and a weight of its own.

    Channel by channel ``dh/dt = A h + x``, ``y = C h + D x`` with a diagonal A, sampled with a zero-order hold. A is kept as
    the logarithm of minus its real part, so that no training can make it unstable; B is 1, since C can do what it would.

    Args:
        d_model: Channels D.
        d_state: Numbers N of state per channel; even for complex poles, of which one of each conjugate pair is stored.
        init: First poles, ``"lin"``, ``"inv"`` or ``"real"``: see ``s4d_poles``.
        dt_min: Smallest first step; a channel remembers about 2 / step samples.
        dt_max: Largest first step.
        bidirectional: Whether a second set of weights C reads the sequence from its end; the outputs are added.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a size cannot be, ``init`` is another word, steps are not ``0 < dt_min <= dt_max``, or a shape does not fit.

    Examples:
        >>> layer, x = S4D(3, d_state=8), torch.randn(1, 6, 3)
        >>> y, state = layer.step(x[:, 0])
        >>> torch.allclose(y, layer(x)[:, 0], atol=1e-5)
        True
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        *,
        init: str = "lin",
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(d_model, int) or d_model < 1:
            raise ValueError(f"d_model={d_model!r} is not a whole number above 0")
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"dt_min={dt_min} and dt_max={dt_max} are not 0 < dt_min <= dt_max")
        poles_M = s4d_poles(d_state, init)
        self.bidirectional = bidirectional
        self.log_decay = nn.Parameter((-poles_M.real).log().to(torch.get_default_dtype()).repeat(d_model, 1))
        # Real poles stay real: there is nothing to turn.
        turns = poles_M.imag.to(torch.get_default_dtype()).repeat(d_model, 1)
        self.frequency = nn.Parameter(turns) if init != "real" else None
        parts = 1 if init == "real" else 2
        self.C = nn.Parameter(torch.randn(1 + bidirectional, d_model, len(poles_M), parts) / parts**0.5)
        self.D = nn.Parameter(torch.ones(d_model))
        self.log_dt = nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))

    @property
    def A(self) -> Tensor:
        """Poles ``(D, M)``, complex, with negative real parts."""
        wide = torch.promote_types(self.log_decay.dtype, torch.float32)  # the angle of a late power has no digits to lose
        real = -self.log_decay.to(wide).exp()
        return torch.complex(real, torch.zeros_like(real) if self.frequency is None else self.frequency.to(wide))

    def kernel(self, length: int) -> Tensor:
        """The response to a single 1 of each direction and channel, ``(1 or 2, D, length)``.

        Args:
            length: How many samples of it.
        """
        step_DM, weight_CDM = self._sampled()
        # exp(t dt A) for all t: the Vandermonde matrix, written out.
        powers_DMT = (step_DM[..., None] * torch.arange(length, device=step_DM.device)).exp()
        return torch.einsum("cdm,dmt->cdt", weight_CDM, powers_DMT).real

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=len(self.D))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))  # an FFT in 16 bits loses what is small
        kernels = self.kernel(x.shape[1])
        y = fft_convolve(wide, kernels[0])
        if self.bidirectional:
            y = y + fft_convolve(wide.flip(1), kernels[1]).flip(1)
        return (y + self.D * wide).to(x.dtype)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Takes one sample ``(B, D)``; gives its output and the state ``(B, D, M, 2)``, real and imaginary parts.

        Args:
            x: The sample.
            state: What the call before returned; None for the first sample.

        Raises:
            ValueError: If the layer is bidirectional, whose output needs the samples to come, or a shape does not fit.
        """
        expect("x", x, "batch d_model", d_model=len(self.D))
        if self.bidirectional:
            raise ValueError("bidirectional=True: an output needs all samples to come; step is for the causal layer")
        step_DM, weight_CDM = self._sampled()
        if state is None:
            state = torch.view_as_real(torch.zeros(len(x), *step_DM.shape, dtype=step_DM.dtype, device=x.device))
        expect("state", state, "batch d_model poles parts", batch=len(x), d_model=len(self.D), poles=step_DM.shape[1], parts=2)
        h_BDM = step_DM.exp() * torch.view_as_complex(state.contiguous()) + x[..., None]
        y = (weight_CDM[0] * h_BDM).sum(-1).real + self.D * x
        return y.to(x.dtype), torch.view_as_real(h_BDM)

    def _sampled(self) -> tuple[Tensor, Tensor]:
        """dt A ``(D, M)``, and what a state counts in the output: C, the hold, and 2 for the conjugate that is not stored."""
        A_DM = self.A
        step_DM = A_DM * self.log_dt.to(A_DM.real.dtype).exp()[:, None]
        hold_DM = step_DM.expm1() / A_DM
        if self.frequency is None:
            return step_DM, self.C[..., 0] * hold_DM
        return step_DM, 2 * torch.view_as_complex(self.C.to(A_DM.real.dtype).contiguous()) * hold_DM


def s4d_poles(d_state: int, init: str = "lin") -> Tensor:
    """First poles of a diagonal state space, complex128.

    ``"lin"``: ``-1/2 + i pi n``, a Fourier series on a window that fades. ``"inv"``: ``-1/2 + i N/pi (N/(2n+1) - 1)``, close to
    the eigenvalues of the normal part of HiPPO-LegS. ``"real"``: ``-(n + 1)``, the eigenvalues of HiPPO-LegS itself.

    Args:
        d_state: Numbers N of state; N / 2 poles for ``"lin"`` and ``"inv"``, N for ``"real"``.
        init: Which.

    Returns:
        ``(M,)``.

    Raises:
        ValueError: If ``d_state`` is below 1, or odd where poles come in pairs, or ``init`` is another word.

    Examples:
        >>> s4d_poles(6).imag / math.pi
        tensor([0., 1., 2.], dtype=torch.float64)
    """
    if init not in INITS:
        raise ValueError(f"init={init!r} is none of {INITS}")
    if not isinstance(d_state, int) or d_state < 1 or (init != "real" and d_state % 2):
        raise ValueError(f"d_state={d_state!r} is not a whole number above 0, and even for conjugate pairs")
    n = torch.arange(d_state if init == "real" else d_state // 2, dtype=torch.float64)
    if init == "real":
        return torch.complex(-(n + 1), torch.zeros_like(n))
    imag = math.pi * n if init == "lin" else d_state / math.pi * (d_state / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), imag)


def s4_kernel(C: Tensor, dt: float, L: int, *, mode: str = "nplr") -> Tensor:
    """Kernel ``C Ad^t Bd`` of S4: A and B of HiPPO-LegS, sampled by the bilinear rule.

    ``"nplr"`` evaluates the generating function of the kernel at the L roots of unity, where A in its diagonal plus
    rank-one form needs four sums over the poles each, and goes back by an FFT. ``"dense"`` multiplies matrices.

    Args:
        C: How the state is read ``(N,)``.
        dt: Time between samples.
        L: Length.
        mode: ``"nplr"`` or ``"dense"``.

    Returns:
        ``(L,)``.

    Raises:
        ValueError: If C is no vector, ``dt`` is not positive, ``L`` is below 1, or ``mode`` is another word.

    Examples:
        >>> C = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
        >>> torch.allclose(s4_kernel(C, 0.1, 9), s4_kernel(C, 0.1, 9, mode="dense"))
        True
    """
    expect("C", C, "d_state")
    if not dt > 0 or L < 1:
        raise ValueError(f"dt={dt} is not positive or L={L} is below 1")
    if mode not in ("nplr", "dense"):
        raise ValueError(f"mode={mode!r} is neither 'nplr' nor 'dense'")
    A, B = (x.to(C) for x in hippo_legs(len(C)))
    Ad, Bd = discretize(A, B, torch.tensor(dt, dtype=C.dtype), "bilinear")
    if mode == "dense":
        return ssm_kernel(Ad, Bd, C, L)
    poles, p, b, V = legs_nplr(len(C))
    poles, p, b, V = (x.to(torch.complex(C, C).dtype) for x in (poles, p, b, V))
    # At a root of unity the infinite sum and the first L terms differ by the factor I - Ad^L, which goes to C.
    c = (C - C @ torch.linalg.matrix_power(Ad, L)).to(V) @ V
    turn = -2 * math.pi * torch.arange(L, dtype=torch.float64) / L
    z = torch.polar(torch.ones_like(turn), turn).to(V)
    half = dt / 2 * (1 + z)
    # 1 / ((1 - z) - dt/2 (1 + z) pole): the inverse of the diagonal part. Not divided by 1 + z, which is 0 for z = -1.
    R_LN = 1 / ((1 - z)[:, None] - half[:, None] * poles)
    cb, cp, pb, pp = (R_LN @ w for w in (c * b, c * p, p.conj() * b, p.conj() * p))
    return torch.fft.ifft(dt * (cb - half * cp * pb / (1 + half * pp))).real  # Woodbury takes in the rank-one part


def legs_nplr(N: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """HiPPO-LegS as a normal matrix less one of rank one: ``A = V (diag(poles) - p p*) V*`` and ``B = V b``, complex128.

    Args:
        N: Numbers of state.

    Returns:
        poles ``(N,)``, all with real part -1/2; p ``(N,)``; b ``(N,)``; and the unitary V ``(N, N)``.

    Raises:
        ValueError: If ``N`` is below 1.

    Examples:
        >>> poles, p, b, V = legs_nplr(4)
        >>> A = V @ (torch.diag(poles) - torch.outer(p, p.conj())) @ V.mH
        >>> torch.allclose(A.real, hippo_legs(4)[0])
        True
    """
    A, B = hippo_legs(N)
    P = B / 2**0.5
    normal = A + torch.outer(P, P)  # -1/2 on the diagonal, antisymmetric elsewhere
    skew = (normal - normal.T) / 2
    frequency, V = torch.linalg.eigh(-1j * skew)  # Hermitian, so V is unitary: no eigenvectors that are nearly parallel
    return torch.complex(torch.full_like(frequency, -0.5), frequency), V.mH @ P.to(V), V.mH @ B.to(V), V
