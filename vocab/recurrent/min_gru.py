"""minGRU and minLSTM: recurrent cells whose gates do not look at the state, so that time can be computed in parallel.

Source: Feng et al. 2024, arXiv:2410.01201, sections 3.1 and 3.2 and appendix B (in log space); the scan in
log space: Heinsen 2023, arXiv:2311.06281.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.kernels.scan import applies
from vocab.layers.linear import Linear
from vocab.state_space.parallel_scan import linear_scan

__all__ = ["MinGRU", "MinLSTM", "log_scan"]

# B batch, T time, I input width, H hidden width


class MinGRU(nn.Module):
    """Recurrent layer ``h = (1 - z) * h + z * candidate`` with ``z`` and the candidate made from the input alone.

    Args:
        input_size: Width I of the input.
        hidden_size: Width H of the state and of the output.
        log_space: Whether candidates are made positive and the scan runs on logarithms, which cannot underflow.
            Otherwise candidates are a linear map, of either sign.
        bias: Whether the map has a bias; that of the gate sets how long the layer remembers at the start.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``. The kernel multiplies and adds, whatever ``log_space``: it divides by nothing.

    Shapes:
        x ``(B, T, I)``, h0 ``(B, H)`` or None -> y ``(B, T, H)`` and h_n ``(B, H)``.

    Raises:
        ValueError: If a shape does not fit, or a first state is not above 0 in log space (not checked in compiled code).
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> layer, x = MinGRU(4, 8), torch.randn(2, 6, 4)
        >>> y, h = layer(x[:, :5])
        >>> torch.allclose(layer.step(x[:, 5], h), layer(x)[1], atol=1e-6)
        True
    """

    maps = 2  # how many times H numbers are made from an input

    def __init__(
        self, input_size: int, hidden_size: int, *, log_space: bool = True, bias: bool = False, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.log_space, self.backend = input_size, hidden_size, log_space, backend
        self.proj = Linear(input_size, self.maps * hidden_size, bias)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """From inputs, the logarithms of what is kept and of what is written, and the candidate before its function.

        Args:
            x: ``(..., I)``.
        """
        gate, candidate = self.proj(x).chunk(2, -1)
        return -F.softplus(gate), -F.softplus(-gate), candidate  # log(1 - z), log z

    def forward(self, x: Tensor, h0: Tensor | None = None) -> tuple[Tensor, Tensor]:
        expect("x", x, "batch time input_size", input_size=self.input_size)
        self._check_state("h0", h0, x)
        log_keep, log_write, candidate = self.gates(x)
        if self.log_space and not applies(log_keep, candidate, 1, self.backend):
            y = log_scan(log_keep, log_write + _log_positive(candidate), None if h0 is None else h0.log())
        else:
            y = linear_scan(log_keep.exp(), self._written(log_write, candidate), h0, axis=1, backend=self.backend)
        return y, y[:, -1]

    def step(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """One step: the next state, which is also the output.

        Args:
            x: ``(B, I)``.
            h: ``(B, H)``; None before the first step.
        """
        expect("x", x, "batch input_size", input_size=self.input_size)
        self._check_state("h", h, x)
        log_keep, log_write, candidate = self.gates(x)
        written = self._written(log_write, candidate)
        return written if h is None else log_keep.exp() * h + written

    def _written(self, log_write: Tensor, candidate: Tensor) -> Tensor:
        return log_write.exp() * (_log_positive(candidate).exp() if self.log_space else candidate)

    def _check_state(self, name: str, h: Tensor | None, x: Tensor) -> None:
        if h is None:
            return
        expect(name, h, "batch hidden_size", batch=len(x), hidden_size=self.hidden_size)
        if self.log_space and not torch.compiler.is_compiling() and (h <= 0).any():
            raise ValueError(f"{name} holds {h.min().item():.4g}; in log space a state is above 0, and None is no past")


class MinLSTM(MinGRU):
    """Recurrent layer ``h = f' * h + i' * candidate`` with forget and input gate scaled to sum to 1.

    Args:
        input_size: Width I of the input.
        hidden_size: Width H of the state and of the output.
        log_space: As in ``MinGRU``.
        bias: As in ``MinGRU``.
        backend: As in ``MinGRU``.

    Examples:
        >>> MinLSTM(4, 8)(torch.randn(2, 6, 4))[0].shape
        torch.Size([2, 6, 8])
    """

    maps = 3

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        forget, write, candidate = self.proj(x).chunk(3, -1)
        # f / (f + i) is the sigmoid of log f - log i: the gates never have to be divided.
        odds = F.logsigmoid(forget) - F.logsigmoid(write)
        return F.logsigmoid(odds), F.logsigmoid(-odds), candidate


def _log_positive(v: Tensor) -> Tensor:
    """Logarithm of a function that is positive everywhere: v + 1/2 above 0, the sigmoid below."""
    return torch.where(v >= 0, (F.relu(v) + 0.5).log(), -F.softplus(-v))


def log_scan(log_a: Tensor, log_b: Tensor, log_h0: Tensor | None = None) -> Tensor:
    """All states of ``h_t = a_t * h_{t-1} + b_t`` for positive numbers given as logarithms: no product of small gates is ever formed.

    Args:
        log_a: ``(B, T, ...)``.
        log_b: ``(B, T, ...)``.
        log_h0: ``(B, ...)``; None for a first state of zero.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> log_scan(torch.full((1, 3), 0.5).log(), torch.zeros(1, 3))
        tensor([[1.0000, 1.5000, 1.7500]])
    """
    for name, x in [("log_a", log_a), ("log_b", log_b)]:
        expect(name, x, "...")
    if log_a.shape != log_b.shape or log_a.ndim < 2 or (log_h0 is not None and log_h0.shape != log_a[:, 0].shape):
        first = "none" if log_h0 is None else tuple(log_h0.shape)
        raise ValueError(
            f"log_a has shape {tuple(log_a.shape)}, log_b {tuple(log_b.shape)}, the first state {first}; "
            "expected (batch, time, ...) twice, and (batch, ...)"
        )
    total = log_a.cumsum(1)
    inner = torch.logcumsumexp(log_b - total, 1)
    if log_h0 is not None:
        inner = torch.logaddexp(inner, log_h0[:, None].expand_as(inner))
    return (total + inner).exp()
