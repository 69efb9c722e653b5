"""xLSTM: cells with exponential gates, a scalar memory that mixes (sLSTM) and a matrix memory that does not (mLSTM).

Source: Beck et al. 2024, arXiv:2405.04517, section 2.2 (sLSTM and the stabilizer) and section 2.3 (mLSTM); the
parallel form in its appendix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.activations.sigmoid import sigmoid
from vocab.activations.tanh import tanh
from vocab.check import expect
from vocab.layers.linear import Linear
from vocab.recurrent.rnn import State, unroll

__all__ = ["MLSTM", "MLSTMState", "SLSTM", "SLSTMState", "mlstm"]

# B batch, T time, I input width, D model or hidden width, H heads, K key width, V value width of a head


class SLSTMState(NamedTuple):
    """What an sLSTM carries: four tensors ``(B, D)``.

    Attributes:
        h: The output, which the gates see at the next step.
        c: The memory, divided by ``exp(m)``.
        n: What has been written in all, divided by ``exp(m)``: the normalizer.
        m: The logarithm of the scale.
    """

    h: Tensor
    c: Tensor
    n: Tensor
    m: Tensor


class MLSTMState(NamedTuple):
    """What an mLSTM carries.

    Attributes:
        C: The memory ``(B, H, K, V)``, divided by ``exp(m)``.
        n: The weighted sum of keys ``(B, H, K)``, divided by ``exp(m)``.
        m: The logarithm of the scale ``(B, H)``.
    """

    C: Tensor
    n: Tensor
    m: Tensor


class SLSTM(nn.Module):
    """LSTM with an exponential input gate and a normalizer; the state is mixed within each head.

    Args:
        input_size: Width I of the input.
        hidden_size: Width D of the state.
        n_heads: Groups of units; a unit's gates see only its own group's last output.

    Shapes:
        x ``(B, T, I)`` and a state or None -> y ``(B, T, D)`` and the state after the last step.

    Raises:
        ValueError: If ``n_heads`` does not divide ``hidden_size`` or a shape does not fit.

    Examples:
        >>> y, state = SLSTM(4, 8, n_heads=2)(torch.randn(2, 6, 4))
        >>> y.shape, torch.equal(y[:, -1], state.h)
        (torch.Size([2, 6, 8]), True)
    """

    def __init__(self, input_size: int, hidden_size: int, n_heads: int = 1) -> None:
        super().__init__()
        if n_heads < 1 or hidden_size % n_heads:
            raise ValueError(f"hidden_size={hidden_size} is not a multiple of n_heads={n_heads}")
        self.input_size, self.hidden_size, self.n_heads = input_size, hidden_size, n_heads
        width = hidden_size // n_heads
        self.proj = Linear(input_size, 4 * hidden_size)  # rows of the gates i, f, of the candidate z, and of o
        self.recurrent = nn.Parameter(torch.empty(4, n_heads, width, width).uniform_(-(width**-0.5), width**-0.5))
        with torch.no_grad():
            self.proj.bias[hidden_size : 2 * hidden_size] = torch.linspace(3, 6, hidden_size)

    def forward(self, x: Tensor, state: SLSTMState | None = None) -> tuple[Tensor, SLSTMState]:
        expect("x", x, "batch time input_size", input_size=self.input_size)
        if state is None:
            zero = x.new_zeros(len(x), self.hidden_size)
            # A scale of zero: the first step then sets it, and the normalizer is never below 1.
            state = SLSTMState(zero, zero, zero, torch.full_like(zero, -math.inf))
        for name, part in zip(SLSTMState._fields, state):
            expect(f"state.{name}", part, "batch hidden_size", batch=len(x), hidden_size=self.hidden_size)
        y, last = unroll(self._step, self.proj(x), tuple(state))
        return y, SLSTMState(*last)

    def _step(self, x: Tensor, state: State) -> State:
        h, c, n, m = state
        h_BHd = h.unflatten(-1, (self.n_heads, -1))
        mixed = torch.einsum("bhd, ghed -> bghe", h_BHd, self.recurrent).flatten(1)
        log_i, f, z, o = (x + mixed).chunk(4, -1)
        keep, write, m = _stabilized(F.logsigmoid(f), log_i, m)
        c = keep * c + write * tanh(z)
        n = keep * n + write
        return sigmoid(o) * c / n, c, n, m


class MLSTM(nn.Module):
    """Layer whose memory is a matrix per head: pairs of key and value are added to it and read by a query.

    Args:
        d_model: Width D of input and output.
        n_heads: Heads H; keys and values have ``D / H`` numbers.
        chunk_size: Steps that are computed together; it changes the speed and not the result.

    Shapes:
        x ``(B, T, D)`` and a state or None -> y ``(B, T, D)`` and the state after the last step.

    Raises:
        ValueError: If ``n_heads`` does not divide ``d_model`` or a shape does not fit.

    Examples:
        >>> layer, x = MLSTM(8, n_heads=2), torch.randn(2, 6, 8)
        >>> y, state = layer(x[:, :4])
        >>> rest, _ = layer(x[:, 4:], state)
        >>> torch.allclose(torch.cat([y, rest], 1), layer(x)[0], atol=1e-5)
        True
    """

    def __init__(self, d_model: int, n_heads: int, *, chunk_size: int = 64) -> None:
        super().__init__()
        if n_heads < 1 or d_model % n_heads:
            raise ValueError(f"d_model={d_model} is not a multiple of n_heads={n_heads}")
        self.d_model, self.n_heads, self.chunk_size = d_model, n_heads, chunk_size
        self.qkv_proj = Linear(d_model, 3 * d_model)
        self.gate_proj = Linear(d_model, 2 * n_heads)  # input gates, then forget gates: one number per head
        self.out_gate = Linear(d_model, d_model)
        with torch.no_grad():
            self.gate_proj.bias[n_heads:] = torch.linspace(3, 6, n_heads)

    def forward(self, x: Tensor, state: MLSTMState | None = None) -> tuple[Tensor, MLSTMState]:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q, k, v = (p.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for p in self.qkv_proj(x).chunk(3, -1))
        log_i, f = self.gate_proj(x).transpose(1, 2).chunk(2, 1)
        h_BHTV, state = mlstm(q, k / math.sqrt(k.shape[-1]), v, log_i, F.logsigmoid(f), state, chunk_size=self.chunk_size)
        return sigmoid(self.out_gate(x)) * h_BHTV.transpose(1, 2).flatten(2), state


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_i: Tensor,
    log_f: Tensor,
    state: MLSTMState | None = None,
    *,
    chunk_size: int = 64,
) -> tuple[Tensor, MLSTMState]:
    """Runs ``C = f C + i k v^T``, ``n = f n + i k`` over time and reads ``q C / max(|q n|, 1)``, whatever the gates' size.

    Within a chunk all steps are computed as attention with decaying weights; from chunk to chunk the state is carried.
    A chunk of 1 is the recurrence, a chunk of T the parallel form.

    Args:
        q: Queries ``(B, H, T, K)``.
        k: Keys ``(B, H, T, K)``, scaled already.
        v: Values ``(B, H, T, V)``.
        log_i: Logarithms of the input gates ``(B, H, T)``, of any size.
        log_f: Logarithms of the forget gates ``(B, H, T)``, at most 0 for a memory that does not grow.
        state: Of the steps before; None if there are none.
        chunk_size: Steps per chunk.

    Returns:
        What was read ``(B, H, T, V)``, and the state after the last step.

    Raises:
        ValueError: If shapes do not fit or ``chunk_size`` is below 1.

    Examples:
        >>> k, v = torch.eye(2)[None, None], torch.tensor([[[[5.0], [7.0]]]])  # two pairs of one head
        >>> gate = torch.zeros(1, 1, 2)  # both are written and kept with weight 1
        >>> mlstm(k.flip(2), k, v, gate, gate)[0].flatten()  # the second query asks for the first key
        tensor([0., 5.])
    """
    expect("q", q, "batch heads time d_key")
    batch, heads, time, d_key = q.shape
    expect("k", k, "batch heads time d_key", batch=batch, heads=heads, time=time, d_key=d_key)
    expect("v", v, "batch heads time d_value", batch=batch, heads=heads, time=time)
    for name, gate in (("log_i", log_i), ("log_f", log_f)):
        expect(name, gate, "batch heads time", batch=batch, heads=heads, time=time)
    if chunk_size < 1 or time < 1:
        raise ValueError(f"chunk_size={chunk_size} or the number of steps, {time}, is below 1")
    d_value = v.shape[-1]
    if state is None:
        sizes = (batch, heads, d_key, d_value), (batch, heads, d_key), (batch, heads)
        C, n, m = q.new_zeros(sizes[0]), q.new_zeros(sizes[1]), q.new_full(sizes[2], -math.inf)
    else:
        C, n, m = state
        expect("state.C", C, "batch heads d_key d_value", batch=batch, heads=heads, d_key=d_key, d_value=d_value)
        expect("state.n", n, "batch heads d_key", batch=batch, heads=heads, d_key=d_key)
        expect("state.m", m, "batch heads", batch=batch, heads=heads)
    outputs = []
    for start in range(0, time, chunk_size):
        part = slice(start, start + chunk_size)
        h, C, n, m = _chunk(q[:, :, part], k[:, :, part], v[:, :, part], log_i[:, :, part], log_f[:, :, part], C, n, m)
        outputs.append(h)
    return torch.cat(outputs, 2), MLSTMState(C, n, m)


def _chunk(q, k, v, log_i, log_f, C, n, m):
    decay_BHT = log_f.cumsum(-1)
    steps = q.shape[2]
    # Weight at t of what step s <= t wrote, and of what the state held; their largest at each t becomes the scale.
    later = torch.ones(steps, steps, dtype=torch.bool, device=q.device).triu(1)
    log_w_BHTS = decay_BHT[..., :, None] - decay_BHT[..., None, :] + log_i[..., None, :]
    log_w_BHTS = log_w_BHTS.masked_fill(later, -math.inf)
    log_c_BHT = decay_BHT + m[..., None]
    m_BHT = torch.maximum(log_c_BHT, log_w_BHTS.amax(-1))
    w_BHTS, c_BHT = (log_w_BHTS - m_BHT[..., None]).exp(), (log_c_BHT - m_BHT).exp()

    scores_BHTS = (q @ k.transpose(-1, -2)) * w_BHTS
    read = scores_BHTS @ v + c_BHT[..., None] * (q @ C)
    norm = scores_BHTS.sum(-1) + c_BHT * (q @ n[..., None])[..., 0]
    h = read / torch.maximum(norm.abs(), (-m_BHT).exp())[..., None]  # 1, in the scale of this step

    written = w_BHTS[..., -1, :, None] * k
    C = c_BHT[..., -1, None, None] * C + written.transpose(-1, -2) @ v
    n = c_BHT[..., -1, None] * n + written.sum(-2)
    return h, C, n, m_BHT[..., -1]


def _stabilized(log_f: Tensor, log_i: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gates relative to a new scale, at which the larger of what is kept and what is written counts 1."""
    new = torch.maximum(log_f + m, log_i)
    return (log_f + m - new).exp(), (log_i - new).exp(), new
