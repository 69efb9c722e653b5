"""SwiGLU: the feed-forward layer whose hidden units are gated by a SiLU.

Source: Shazeer 2020, arXiv:2002.05202, equation 6; width and rounding: Touvron et al. 2023, arXiv:2302.13971,
section 2.2; limit and offset: gpt-oss, arXiv:2508.10925.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.activations.sigmoid import sigmoid
from vocab.check import expect
from vocab.kernels.gated_unit import applies, fused
from vocab.layers.gated_linear_unit import GatedFeedForward

__all__ = ["SwiGLU", "swiglu"]

# B batch, T time, D model width, F hidden width


class SwiGLU(GatedFeedForward):
    """Feed-forward layer ``down(silu(gate(x)) * up(x))``, as in PaLM, LLaMA, Mistral and Qwen.

    ``proj`` holds the rows of ``up`` and then those of ``gate``.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F; two thirds of ``4 * d_model``, rounded up, if not given.
        multiple_of: What F is rounded up to, if it is not given.
        bias: Whether the three maps have a bias.
        beta: Steepness of the sigmoid in the gate; 1 is SiLU.
        limit: See ``swiglu``.
        offset: See ``swiglu``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel for all between the matrices).

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a setting cannot be or ``x`` has another shape.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> layer = SwiGLU(d_model=96)
        >>> layer.proj.weight.shape, layer.down.weight.shape
        (torch.Size([512, 96]), torch.Size([96, 256]))
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        multiple_of: int = 256,
        bias: bool = False,
        beta: float = 1.0,
        limit: float | None = None,
        offset: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, d_ff, activation="silu", multiple_of=multiple_of, bias=bias, backend=backend)
        swiglu(torch.zeros(0), torch.zeros(0), limit=limit)  # a wrong limit should not wait for the first batch
        self.beta, self.limit, self.offset = beta, limit, offset

    def combine(self, value: Tensor, gate: Tensor) -> Tensor:
        return swiglu(gate, value, beta=self.beta, limit=self.limit, offset=self.offset, backend="torch")

    def constants(self) -> dict[str, float]:
        return {"beta": self.beta, "limit": self.limit or 0.0, "offset": self.offset}


def swiglu(
    gate: Tensor, up: Tensor, *, beta: float = 1.0, limit: float | None = None, offset: float = 0.0, backend: str = "auto"
) -> Tensor:
    """Multiplies ``up`` by the SiLU of ``gate``.

    Half precision is computed in float32 and rounded once at the end.

    Args:
        gate: Any shape.
        up: The same shape.
        beta: Steepness of the sigmoid; ``gate * sigmoid(beta * gate)``.
        limit: ``gate`` is cut off above it, ``up`` on both sides; None leaves them. gpt-oss has 7.
        offset: Added to ``up``, after the limit; gpt-oss has 1, with ``beta=1.702``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Raises:
        ValueError: If the shapes differ or ``limit`` is not above 0.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> swiglu(torch.tensor([20.0, 0.0, -20.0]), torch.tensor([3.0, 3.0, 3.0])).round(decimals=4)
        tensor([60.,  0., -0.])
    """
    expect("gate", gate, "...")
    expect("up", up, "...")
    if gate.shape != up.shape:
        raise ValueError(f"gate has shape {tuple(gate.shape)} and up {tuple(up.shape)}; expected the same")
    if limit is not None and limit <= 0:
        raise ValueError(f"limit={limit} is not above 0; None sets no limit")
    if applies(gate, "silu", backend, None if gate.dtype == up.dtype else f"gate is {gate.dtype} and up is {up.dtype}"):
        return fused(gate, up, activation="silu", beta=beta, limit=limit or 0.0, offset=offset)
    if limit is not None:  # not clamp, whose gradient on the limit itself depends on the version of PyTorch
        gate, up = gate.masked_fill(gate > limit, limit), up.masked_fill(up > limit, limit).masked_fill(up < -limit, -limit)
    dtype = torch.promote_types(gate.dtype, torch.float32)
    wide = gate.to(dtype)
    return (wide * sigmoid(beta * wide) * (up.to(dtype) + offset)).to(gate.dtype)
