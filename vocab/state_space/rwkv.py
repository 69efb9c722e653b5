"""RWKV-4: a running average over the past, weighted by keys and a decay per channel, and a squared-ReLU layer; both see the token before.

Source: Peng et al. 2023, arXiv:2305.13048, section 3.1, and its appendix on the numerically stable recurrence; the averages without a
decay are those of Zhai et al. 2021, arXiv:2105.14103.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vocab.activations.squared_relu import squared_relu
from vocab.check import expect
from vocab.state_space.parallel_scan import associative_scan, linear_scan

__all__ = ["RWKVChannelMix", "RWKVTimeMix", "WKVState", "token_shift", "wkv"]

# B batch, T time, D model width and channels, F width of the channel mix


class WKVState(NamedTuple):
    """The running average as a fraction, scaled so that nothing overflows; each ``(B, D)``.

    Attributes:
        num: Weighted sum of values, divided by ``exp(scale)``.
        den: Sum of weights, divided by ``exp(scale)``.
        scale: The largest logarithm of a weight.
    """

    num: Tensor
    den: Tensor
    scale: Tensor


class RWKVTimeMix(nn.Module):
    """Mixes tokens: ``sigmoid(r) * wkv(k, v)``, each of r, k, v from the token and the one before it.

    Args:
        d_model: Width D.
        layer: Number of this layer, from 0: the first values differ with depth.
        n_layers: Number of layers in the model.

    Shapes:
        x ``(B, T, D)`` and a state, or None for an empty past -> y ``(B, T, D)`` and the state after the last token: the
        token ``(B, D)`` and a ``WKVState``.

    Raises:
        ValueError: If a number cannot be, or ``x`` or ``state`` has another shape.

    Examples:
        >>> mix, x = RWKVTimeMix(4), torch.randn(1, 6, 4)
        >>> first, state = mix(x[:, :4])
        >>> rest, state = mix(x[:, 4:], state)
        >>> torch.allclose(torch.cat([first, rest], 1), mix(x)[0], atol=1e-6)
        True
    """

    def __init__(self, d_model: int, *, layer: int = 0, n_layers: int = 1) -> None:
        super().__init__()
        depth, left = _place(d_model, layer, n_layers)
        channel = torch.arange(d_model)
        share = channel / d_model
        self.mix_k = nn.Parameter(share**left)
        self.mix_v = nn.Parameter(share**left + 0.3 * depth)
        self.mix_r = nn.Parameter(share ** (0.5 * left))
        # From exp(-5), a memory of some 150 tokens, to exp(3), none; deeper layers have more of the long ones.
        self.log_w = nn.Parameter(-5 + 8 * (channel / max(d_model - 1, 1)) ** (0.7 + 1.3 * depth))
        self.u = nn.Parameter(math.log(0.3) + 0.5 * ((channel + 1) % 3 - 1.0))
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, state: tuple[Tensor, WKVState] | None = None) -> tuple[Tensor, tuple[Tensor, WKVState]]:
        expect("x", x, "batch time d_model", d_model=len(self.u))
        last, average = (None, None) if state is None else state
        before = token_shift(x, last)
        k, v, r = (
            project(torch.lerp(before, x, mix))
            for project, mix in ((self.key, self.mix_k), (self.value, self.mix_v), (self.receptance, self.mix_r))
        )
        mean, average = wkv(k, v, self.log_w.exp(), self.u, state=average, return_state=True)
        return self.output(r.sigmoid() * mean), (x[:, -1], average)


class RWKVChannelMix(nn.Module):
    """The feed-forward layer: ``sigmoid(r) * W_v relu(W_k x)^2``, of the token and the one before it.

    Args:
        d_model: Width D.
        d_ff: Width F inside; four times ``d_model`` if not given.
        layer: Number of this layer, from 0.
        n_layers: Number of layers in the model.

    Shapes:
        x ``(B, T, D)`` and the token before it ``(B, D)``, or None -> y ``(B, T, D)`` and the last token ``(B, D)``.

    Raises:
        ValueError: If a number cannot be, or ``x`` or ``state`` has another shape.

    Examples:
        >>> mix, x = RWKVChannelMix(4), torch.randn(1, 6, 4)
        >>> first, state = mix(x[:, :4])
        >>> torch.allclose(mix(x[:, 4:], state)[0], mix(x)[0][:, 4:], atol=1e-6)
        True
    """

    def __init__(self, d_model: int, d_ff: int | None = None, *, layer: int = 0, n_layers: int = 1) -> None:
        super().__init__()
        _, left = _place(d_model, layer, n_layers)
        d_ff = 4 * d_model if d_ff is None else d_ff
        if not isinstance(d_ff, int) or d_ff < 1:
            raise ValueError(f"d_ff={d_ff!r} is not a whole number above 0")
        share = torch.arange(d_model) / d_model
        self.mix_k = nn.Parameter(share**left)
        self.mix_r = nn.Parameter(share**left)
        self.key = nn.Linear(d_model, d_ff, bias=False)
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        expect("x", x, "batch time d_model", d_model=len(self.mix_k))
        before = token_shift(x, state)
        r = self.receptance(torch.lerp(before, x, self.mix_r))
        return r.sigmoid() * self.value(squared_relu(self.key(torch.lerp(before, x, self.mix_k)))), x[:, -1]


def wkv(
    k: Tensor,
    v: Tensor,
    decay_w: Tensor,
    bonus_u: Tensor,
    *,
    state: WKVState | None = None,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, WKVState]:
    """Average of values up to each token, channel by channel, for keys of any size.

    Token i counts ``exp(k_i - (t - 1 - i) w)`` at a later token t, and ``exp(k_t + u)`` at t itself. Computes in 32 bits or
    more and returns the dtype of ``v``.

    Args:
        k: Keys ``(B, T, D)``: logarithms of weights.
        v: Values ``(B, T, D)``.
        decay_w: What a weight loses at each step ``(D,)``, above 0.
        bonus_u: What the present token is given ``(D,)``.
        state: After the tokens before; None if there are none.
        return_state: Whether the state after the last token is returned too.

    Returns:
        ``(B, T, D)``, and the state where asked for.

    Raises:
        ValueError: If a shape does not fit or there is no token.

    Examples:
        >>> k, v = torch.zeros(1, 3, 1), torch.tensor([[[2.0], [4.0], [9.0]]])
        >>> wkv(k, v, torch.tensor([1e-9]), torch.zeros(1)).flatten()  # equal weights: running means
        tensor([2., 3., 5.])
    """
    expect("k", k, "batch time channels")
    batch, time, channels = k.shape
    expect("v", v, "batch time channels", batch=batch, time=time, channels=channels)
    for name, x in (("decay_w", decay_w), ("bonus_u", bonus_u)):
        expect(name, x, "channels", channels=channels)
    if time < 1:
        raise ValueError(f"k has shape {tuple(k.shape)}; an average needs one token or more")
    dtype = torch.promote_types(v.dtype, torch.float32)
    out_dtype, (k, v, w, u) = v.dtype, (x.to(dtype) for x in (k, v, decay_w, bonus_u))
    if state is None:
        zero = k.new_zeros(batch, channels)
        state = WKVState(zero, zero, torch.full_like(zero, -math.inf))
    for name, part in zip(WKVState._fields, state):
        expect(f"state.{name}", part, "batch channels", batch=batch, channels=channels)
    num0, den0, scale0 = (part.to(dtype) for part in state)
    # The scale m_t = max(m_{t-1} - w, k_t) is a scan too, in which a maximum adds and an addition multiplies.
    first = torch.maximum(scale0 - w, k[:, 0])[:, None]
    _, scale = associative_scan(_louder, ((-w).expand_as(k), torch.cat([first, k[:, 1:]], 1)), 1)
    before = torch.cat([scale0[:, None], scale[:, :-1]], 1)
    kept, taken = (before - w - scale).exp(), (k - scale).exp()  # both at most 1
    num, den = linear_scan(kept, taken * v, num0, axis=1), linear_scan(kept, taken, den0, axis=1)
    old_num, old_den = (torch.cat([x0[:, None], x[:, :-1]], 1) for x0, x in ((num0, num), (den0, den)))
    top = torch.maximum(before, k + u)
    past, present = (before - top).exp(), (k + u - top).exp()
    out = ((past * old_num + present * v) / (past * old_den + present)).to(out_dtype)
    return (out, WKVState(num[:, -1], den[:, -1], scale[:, -1])) if return_state else out


def token_shift(x: Tensor, last: Tensor | None = None) -> Tensor:
    """Every token's predecessor.

    Args:
        x: ``(B, T, D)``.
        last: The token before the first ``(B, D)``; zeros if not given.

    Returns:
        ``(B, T, D)``.

    Raises:
        ValueError: If a shape does not fit.

    Examples:
        >>> token_shift(torch.tensor([[[1.0], [2.0], [3.0]]])).flatten()
        tensor([0., 1., 2.])
    """
    expect("x", x, "batch time d_model")
    if last is None:
        last = torch.zeros_like(x[:, 0])
    expect("last", last, "batch d_model", batch=len(x), d_model=x.shape[2])
    return torch.cat([last[:, None], x[:, :-1]], 1)


def _louder(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Joins steps ``m -> max(m + d, k)``."""
    (d1, k1), (d2, k2) = earlier, later
    return d1 + d2, torch.maximum(k1 + d2, k2)


def _place(d_model: int, layer: int, n_layers: int) -> tuple[float, float]:
    """Depth from 0 to 1, and what is left of it from 1 to nearly 0."""
    if not isinstance(d_model, int) or d_model < 1:
        raise ValueError(f"d_model={d_model!r} is not a whole number above 0")
    if not 0 <= layer < n_layers:
        raise ValueError(f"layer={layer} is not from 0 to n_layers - 1 = {n_layers - 1}")
    return layer / max(n_layers - 1, 1), 1 - layer / n_layers
