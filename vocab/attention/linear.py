"""Linear attention: a similarity that is a product of features, so that sums over keys can be carried along.

Source: Katharopoulos et al. 2020, arXiv:2006.16236, equations 4 to 12 and 16 to 20; in chunks: Yang et al. 2024, arXiv:2312.06635,
section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.attention.multi_head import MultiHeadAttention, merge_heads, split_heads
from vocab.check import expect
from vocab.kernels.linear_attention import applies, fused

__all__ = ["LinearAttention", "linear_attention"]

# B batch, H heads, T tokens, D model width, m features, e width of values

FEATURE_MAPS = {"elu+1": lambda x: F.elu(x) + 1, "relu": F.relu}
State = tuple[Tensor, Tensor]


class LinearAttention(MultiHeadAttention):
    """Multi-head attention whose weights are ``phi(q) . phi(k)``, normalized per row, instead of a softmax.

    Causal, it is a recurrent network: the state holds a matrix and a vector per head, whatever the length.

    Args:
        d_model: Width D of the tokens.
        n_heads: Heads H.
        feature_map: phi: ``"elu+1"``, ``"relu"``, or a function of ``(..., d)`` with results that are not negative.
        causal: Whether a token sees itself and earlier tokens only.
        eps: Added to the sum of weights, for features that may all be zero.
        chunk_size: Tokens that are computed side by side; changes memory and speed, not the result.
        bias: Whether the projections have a bias.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``, for the causal form.

    Examples:
        >>> attention, x = LinearAttention(8, 2), torch.randn(1, 6, 8)
        >>> first, state = attention(x[:, :4])
        >>> torch.allclose(attention(x[:, 4:], state)[0], attention(x)[0][:, 4:], atol=1e-6)
        True
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        *,
        feature_map: str | Callable[[Tensor], Tensor] = "elu+1",
        causal: bool = True,
        eps: float = 1e-6,
        chunk_size: int = 64,
        bias: bool = True,
        backend: str = "auto",
    ) -> None:
        super().__init__(d_model, n_heads, bias=bias)
        if not callable(feature_map) and feature_map not in FEATURE_MAPS:
            raise ValueError(f"feature_map={feature_map!r} is not 'elu+1', 'relu' or a function")
        self.feature_map = FEATURE_MAPS.get(feature_map, feature_map)
        self.causal, self.eps, self.chunk_size, self.backend = causal, eps, chunk_size, backend

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Mixes the tokens.

        Args:
            x: ``(B, T, D)``.
            state: What an earlier call returned, if ``x`` goes on from there.

        Returns:
            ``(B, T, D)`` and the state.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch time d_model", d_model=self.d_model)
        q_BHTd, (k_BHTd, v_BHTd) = split_heads(self.q_proj(x), self.head_dim), self.keys_and_values(x)
        settings = dict(causal=self.causal, chunk_size=self.chunk_size, eps=self.eps, state=state, backend=self.backend)
        out_BHTe, state = linear_attention(self.feature_map(q_BHTd), self.feature_map(k_BHTd), v_BHTd, **settings)
        return self.o_proj(merge_heads(out_BHTe)), state


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    chunk_size: int = 64,
    eps: float = 0.0,
    state: State | None = None,
    backend: str = "auto",
) -> tuple[Tensor, State]:
    """Means of values with weights ``q_i . k_j / sum_l q_i . k_l``, in time and memory linear in T.

    Causal, the tokens go in chunks. Within a chunk the weights are computed as such, c x c of them; what came before it is
    read from the state. So memory is c² + m e instead of T² (all weights) or T m e (all states).

    Args:
        q: Features of the queries ``(..., T, m)``, not negative.
        k: Features of the keys ``(..., T, m)``, not negative.
        v: Values ``(..., T, e)``.
        causal: Whether query i sees keys 0 to i only.
        chunk_size: Tokens in a chunk.
        eps: Added to the sum of weights.
        state: Sums over earlier tokens: ``k^T v`` ``(..., m, e)`` and of ``k`` ``(..., m)``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: the kernel of the causal form, which has its own size of chunks.

    Returns:
        ``(..., T, e)`` and the state that includes these tokens.

    Raises:
        ValueError: If a shape does not fit, or ``chunk_size`` is not positive.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> ones, v = torch.ones(3, 1), torch.tensor([[2.0], [4.0], [9.0]])
        >>> linear_attention(ones, ones, v)[0].flatten()  # equal weights: running means
        tensor([2., 3., 5.])
    """
    expect("q", q, "... time features")
    expect("k", k, "... time features", time=q.shape[-2], features=q.shape[-1])
    expect("v", v, "... time value_width", time=q.shape[-2])
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} is not positive")
    if state is not None:
        expect("state[0]", state[0], "... features value_width", features=k.shape[-1], value_width=v.shape[-1])
        expect("state[1]", state[1], "... features", features=k.shape[-1])
    if applies(q, k, v, None, backend, _limit(q, k, v, state, causal)):
        return _by_kernel(q, k, v, eps, state)
    dtype = q.dtype
    q, k, v = (x.to(torch.promote_types(dtype, torch.float32)) for x in (q, k, v))  # long sums in half precision stop growing
    memory, total = _no_state(k, v) if state is None else state
    outs = []
    for q_c, k_c, v_c in zip(*(x.split(chunk_size if causal else x.shape[-2], -2) for x in (q, k, v))):
        after = memory + k_c.transpose(-2, -1) @ v_c, total + k_c.sum(-2)
        if causal:
            weights = (q_c @ k_c.transpose(-2, -1)).tril()
            sums, normalizer = weights @ v_c + q_c @ memory, weights.sum(-1) + (q_c @ total.unsqueeze(-1)).squeeze(-1)
        else:
            sums, normalizer = q_c @ after[0], (q_c @ after[1].unsqueeze(-1)).squeeze(-1)
        outs.append(sums / (normalizer + eps).unsqueeze(-1))
        memory, total = after
    return torch.cat(outs, -2).to(dtype), (memory, total)


def _no_state(k: Tensor, v: Tensor) -> State:
    return k.new_zeros(*k.shape[:-2], k.shape[-1], v.shape[-1]), k.new_zeros(*k.shape[:-2], k.shape[-1])


def _limit(q: Tensor, k: Tensor, v: Tensor, state: State | None, causal: bool) -> str | None:
    if not causal:
        return "it is for causal=True; without, two products are all"
    if q.dtype == torch.float16:
        return "float16 has no numbers small enough for features that are divided by the sum of weights"
    leading = {x.shape[:-2] for x in (q, k, v)} | ({state[0].shape[:-2], state[1].shape[:-1]} if state is not None else set())
    return None if len(leading) == 1 else "leading dimensions differ"


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, eps: float, state: State | None) -> tuple[Tensor, State]:
    wide_q, wide_k = (x.to(torch.promote_types(q.dtype, torch.float32)) for x in (q, k))
    memory, total = _no_state(wide_k, v) if state is None else state
    normalizer = (wide_q * (wide_k.cumsum(-2) + total.unsqueeze(-2))).sum(-1, keepdim=True) + eps
    # Divided before and not after: sums of thousands of values would lose digits in 16 bits.
    q = (wide_q / normalizer).to(q.dtype)
    heads = (q.shape[-3] if q.dim() > 2 else 1, *q.shape[-2:-1])
    time_first = (x.reshape(-1, *heads, x.shape[-1]).transpose(1, 2) for x in (q, k, v))
    out, after = fused(*time_first, None, memory.reshape(-1, heads[0], *memory.shape[-2:]))
    return out.transpose(1, 2).reshape(v.shape), (after.view(memory.shape), total + wide_k.sum(-2))
