"""Leaky integrate-and-fire neuron: a membrane that leaks, integrates its input and spikes at a threshold.

Source: Lapicque 1907; Gerstner and Kistler 2002, Spiking Neuron Models, section 4.1. Surrogate derivatives: Zenke and Ganguli
2018, arXiv:1705.11146 (fast sigmoid); Fang et al. 2021, arXiv:2007.05785 (arctangent).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.kernels.lif import applies, fused

__all__ = ["LIF", "firing_rate"]

# T time steps, B batch, N neurons

SLOPES = {"fast_sigmoid": 25.0, "atan": 2.0}


class LIF(nn.Module):
    r"""A population of independent leaky integrate-and-fire neurons with constant parameters.

    Between spikes the membrane solves :math:`\tau\,\dot v = -(v - v_{rest}) + R\,I` exactly, for an input that is constant
    during a step. At ``v >= v_th`` the neuron spikes, resets and then is deaf for ``t_ref``.

    The gradient of a spike is a surrogate's. Reset and refractory period count as constants in the gradient.

    Args:
        tau: Time constant of the membrane, in the units of ``dt``.
        v_rest: Potential that the membrane decays to.
        v_th: Threshold.
        v_reset: Potential after a spike, below ``v_th``.
        R: Resistance: what one unit of constant input lifts the membrane by in the end.
        dt: Length of a step.
        t_ref: Refractory period, rounded up to whole steps.
        reset: ``"zero"`` sets the membrane to ``v_reset``; ``"subtract"`` lowers it by ``v_th - v_reset``, keeping what was
            above threshold.
        surrogate: ``"fast_sigmoid"`` or ``"atan"``.
        slope: Its steepness; 25 and 2 if not given.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (all time steps in one kernel).

    Shapes:
        current ``(T, B, N)`` -> spikes ``(T, B, N)`` of zeros and ones and the membrane after each step ``(T, B, N)``, in float32
        if ``current`` is half precision; state ``(B, N)`` twice.

    Raises:
        TypeError: If ``current`` or the state's membrane is no floating-point tensor.
        ValueError: If a constant is out of range, or a shape does not fit.

    Examples:
        >>> spikes, v = LIF(tau=20.0)(torch.full((100, 1, 1), 1.5))
        >>> spikes.nonzero()[:, 0].tolist()  # 20 ln 3 = 21.97, so every 22nd step
        [21, 43, 65, 87]
    """

    def __init__(
        self,
        *,
        tau: float = 20.0,
        v_rest: float = 0.0,
        v_th: float = 1.0,
        v_reset: float = 0.0,
        R: float = 1.0,
        dt: float = 1.0,
        t_ref: float = 0.0,
        reset: str = "zero",
        surrogate: str = "fast_sigmoid",
        slope: float | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for name, value in (("tau", tau), ("dt", dt)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value} is not a positive time")
        if not 0 <= t_ref < math.inf:
            raise ValueError(f"t_ref={t_ref} is not a time of zero or more")
        if not v_reset < v_th:
            raise ValueError(f"v_reset={v_reset} is not below v_th={v_th}: the neuron would spike for ever")
        if reset not in ("zero", "subtract"):
            raise ValueError(f"reset={reset!r}; expected 'zero' or 'subtract'")
        if surrogate not in SLOPES:
            raise ValueError(f"surrogate={surrogate!r}; expected 'fast_sigmoid' or 'atan'")
        slope = SLOPES[surrogate] if slope is None else slope
        if not 0 < slope < math.inf:
            raise ValueError(f"slope={slope} is not positive")
        self.v_rest, self.v_th, self.v_reset, self.reset = float(v_rest), float(v_th), float(v_reset), reset
        self.surrogate, self.slope, self.backend = surrogate, float(slope), backend
        self.decay = math.exp(-dt / tau)
        self.gain = -math.expm1(-dt / tau) * R  # (1 - decay) R, without cancellation for small steps
        self.refractory = math.ceil(t_ref / dt - 1e-9)  # 0.3 / 0.1 is three steps, not four

    def forward(
        self, current: Tensor, state: tuple[Tensor, Tensor] | None = None, *, return_state: bool = False
    ) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Runs all time steps.

        Args:
            current: Input of every step.
            state: What an earlier call returned as its state: membrane, and steps still refractory.
            return_state: Whether to return the state too, to go on later.
        """
        expect("current", current, "time batch neurons")
        v, wait = self._state(current, state)
        if applies(current, v, self.backend):
            spikes, history, wait = self._fused(current, v, wait)
        else:
            spikes, history = [], []
            for drive in current.to(v.dtype).unbind(0):
                spike, v, wait = self._step(drive, v, wait)
                spikes.append(spike)
                history.append(v)
            spikes, history = torch.stack(spikes).to(current.dtype), torch.stack(history)
        return (spikes, history, (history[-1], wait)) if return_state else (spikes, history)

    def _step(self, drive: Tensor, v: Tensor, wait: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        free = self.v_rest + self.decay * (v - self.v_rest) + self.gain * drive
        deaf = wait > 0
        free = torch.where(deaf, v, free)
        spike = torch.where(deaf, 0.0, _Spike.apply(free - self.v_th, self.surrogate, self.slope))
        fired = spike.detach() > 0
        lowered = free - (self.v_th - self.v_reset) if self.reset == "subtract" else self.v_reset
        return spike, torch.where(fired, lowered, free), torch.where(fired, self.refractory, (wait - 1).clamp(min=0))

    def _state(self, current: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        if len(current) == 0:
            raise ValueError(f"current has shape {tuple(current.shape)}; expected at least one time step")
        # A membrane adds up thousands of small steps: half precision would lose them.
        dtype = torch.promote_types(current.dtype, torch.float32)
        if state is None:
            wait = torch.zeros(current.shape[1:], dtype=torch.int32, device=current.device)
            return torch.full(current.shape[1:], self.v_rest, dtype=dtype, device=current.device), wait
        v, wait = state
        expect("state[0]", v, "batch neurons", batch=current.shape[1], neurons=current.shape[2])
        expect("state[1]", wait, "batch neurons", dtype="int", batch=current.shape[1], neurons=current.shape[2])
        if v.dtype != dtype:
            raise ValueError(f"state[0] has dtype {v.dtype}; expected {dtype} for a {current.dtype} input")
        return v, wait

    def _fused(self, current: Tensor, v: Tensor, wait: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        spikes, history, wait = fused(
            current.flatten(1), v.flatten(), wait.flatten().int(),
            decay=self.decay, gain=self.gain, v_rest=self.v_rest, v_th=self.v_th, v_reset=self.v_reset,
            refractory=self.refractory, subtract=self.reset == "subtract", surrogate=self.surrogate, slope=self.slope,
        )  # fmt: skip
        return spikes.view(current.shape), history.view(current.shape), wait.view(v.shape)


class _Spike(torch.autograd.Function):
    """A step forward, the derivative of a smooth step backward."""

    @staticmethod
    def forward(ctx, distance, surrogate, slope):
        ctx.save_for_backward(distance)
        ctx.surrogate, ctx.slope = surrogate, slope
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, grad):
        (distance,) = ctx.saved_tensors
        if ctx.surrogate == "atan":
            derivative = ctx.slope / 2 / (1 + (math.pi / 2 * ctx.slope * distance) ** 2)
        else:
            derivative = 1 / (1 + ctx.slope * distance.abs()) ** 2
        return grad * derivative, None, None


def firing_rate(
    current: Tensor, *, tau: float = 20.0, v_rest: float = 0.0, v_th: float = 1.0, v_reset: float = 0.0, R: float = 1.0, t_ref: float = 0.0
) -> Tensor:
    """Spikes per unit of time under constant input: the closed form that a simulation approaches as ``dt`` shrinks.

    Args:
        current: Constant inputs, any shape.
        tau: As in ``LIF``, like the others.
        v_rest: Resting potential.
        v_th: Threshold.
        v_reset: Potential after a spike.
        R: Resistance.
        t_ref: Refractory period.

    Returns:
        ``1 / (t_ref + tau ln((R I + v_rest - v_reset) / (R I + v_rest - v_th)))``, and zero up to the rheobase, where
        ``R I + v_rest`` does not exceed ``v_th``.

    Examples:
        >>> firing_rate(torch.tensor([1.0, 1.5, 3.0]), tau=20.0, t_ref=2.0)
        tensor([0.0000, 0.0417, 0.0989])
    """
    expect("current", current, "...")
    target = R * current + v_rest
    above = (target - v_th).clamp(min=0)
    # Dividing by zero at the rheobase gives an infinite wait and a rate of zero, which is the limit.
    return 1 / (t_ref + tau * torch.log((above + v_th - v_reset) / above))
