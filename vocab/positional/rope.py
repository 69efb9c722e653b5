"""Rotary position embedding: queries and keys are turned by an angle proportional to their position.

Source: Su et al. 2021, arXiv:2104.09864, equations 14 to 16 and 34.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.kernels.qk_norm_rope import applies, fused

__all__ = ["RotaryEmbedding", "convert_layout"]

# B batch, H query heads, G key/value heads, T time, d head width, r rotated width (r/2 pairs)


class RotaryEmbedding(nn.Module):
    """Turns each pair of coordinates of a query or key by ``position * base**(-2i/r)`` radians, i = 0 ... r/2 - 1.

    The dot product of a query at m with a key at n then depends on m - n only. It has no parameters and no
    buffers, and no longest position: angles are computed from ``position_ids`` at each call.

    Args:
        head_dim: Width d of one head.
        base: Pair i makes one turn in ``2 pi base**(2i/r)`` tokens.
        rotary_dim: Width r of the leading part that is turned; even; all of ``head_dim`` if not given.
        layout: Which coordinates form a pair: ``"half"`` is (i, i + r/2), as in GPT-NeoX and LLaMA checkpoints in
            transformers; ``"interleaved"`` is (2i, 2i + 1), as in the paper, GPT-J and Meta's own LLaMA files.
        scaling: Maps the r/2 angular rates, in radians per token, to others; for contexts longer than trained on.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (queries and keys in one launch).

    Shapes:
        q ``(B, H, T, d)``, k ``(B, G, T, d)`` -> the same.

    Raises:
        ValueError: If ``rotary_dim`` is odd or wider than a head, ``base`` is not positive, ``layout`` is unknown,
            or q, k and ``position_ids`` do not fit each other.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> rotary = RotaryEmbedding(head_dim=4)
        >>> q, k = torch.ones(1, 8, 3, 4), torch.ones(1, 2, 3, 4)
        >>> rotary(q, k)[0][0, 0].round(decimals=2)
        tensor([[ 1.0000,  1.0000,  1.0000,  1.0000],
                [-0.3000,  0.9900,  1.3800,  1.0100],
                [-1.3300,  0.9800,  0.4900,  1.0200]])
    """

    def __init__(
        self,
        head_dim: int,
        *,
        base: float = 10000.0,
        rotary_dim: int | None = None,
        layout: str = "half",
        scaling: Callable[[Tensor], Tensor] | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        rotary_dim = head_dim if rotary_dim is None else rotary_dim
        _check_width(rotary_dim, head_dim)
        if not base > 0:
            raise ValueError(f"base={base} is not positive")
        _check_layout("layout", layout)
        self.head_dim, self.rotary_dim, self.layout = head_dim, rotary_dim, layout
        self.base, self.scaling, self.backend = base, scaling, backend

    def forward(self, q: Tensor, k: Tensor, position_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Turns q and k, never v.

        Args:
            q: Queries ``(B, H, T, d)``.
            k: Keys of the same tokens, ``(B, G, T, d)``; what a cache returns is turned already.
            position_ids: Integers ``(T,)`` or ``(B, T)``; 0, 1, 2 ... if not given.

        Returns:
            The turned q and k, in their own dtypes.
        """
        expect("q", q, "batch heads time head_dim", head_dim=self.head_dim)
        expect("k", k, "batch kv_heads time head_dim", batch=q.shape[0], time=q.shape[2], head_dim=self.head_dim)
        angle = self.angles(q, position_ids)
        if applies(q, k, angle, self.backend):
            return fused(q, k, angle.cos(), angle.sin(), layout=self.layout)
        return self._turn(q, angle), self._turn(k, angle)

    def rotate(self, x_BHTd: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Turns queries or keys alone; ``-position_ids`` turns them back, and cached keys can be turned further."""
        expect("x_BHTd", x_BHTd, "batch heads time head_dim", head_dim=self.head_dim)
        angle = self.angles(x_BHTd, position_ids)
        if applies(x_BHTd, None, angle, self.backend):
            return fused(x_BHTd, None, angle.cos(), angle.sin(), layout=self.layout)[0]
        return self._turn(x_BHTd, angle)

    def _turn(self, x_BHTd: Tensor, angle: Tensor) -> Tensor:
        angle = angle.unsqueeze(-3)  # one for all heads
        turned, kept = x_BHTd.split((self.rotary_dim, self.head_dim - self.rotary_dim), -1)
        a, b = turned.chunk(2, -1) if self.layout == "half" else (turned[..., 0::2], turned[..., 1::2])
        pair = a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()
        turned = torch.cat(pair, -1) if self.layout == "half" else torch.stack(pair, -1).flatten(-2)
        return torch.cat((turned.to(kept.dtype), kept), -1)

    def angles(self, x_BHTd: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """The angles by which the pairs of ``x_BHTd`` are turned, ``(T, r / 2)`` or ``(B, T, r / 2)``."""
        batch, _, time, _ = x_BHTd.shape
        if position_ids is None:
            position_ids = torch.arange(time, device=x_BHTd.device)
        elif isinstance(position_ids, Tensor) and position_ids.ndim == 1:
            expect("position_ids", position_ids, "time", dtype="int", time=time)
        else:
            expect("position_ids", position_ids, "batch time", dtype="int", batch=batch, time=time)
        # bfloat16 cannot tell position 257 from 256, so angles are float32 at least, whatever the model's dtype.
        dtype = torch.promote_types(x_BHTd.dtype, torch.float32)
        # Not a buffer: model.bfloat16() would round a buffer of rates.
        pair = torch.arange(0, self.rotary_dim, 2, device=position_ids.device, dtype=dtype)
        rate = self.base ** (-pair / self.rotary_dim)
        if self.scaling is not None:
            rate = self.scaling(rate)
        return position_ids.to(dtype).unsqueeze(-1) * rate


def convert_layout(weight: Tensor, head_dim: int, *, to: str, rotary_dim: int | None = None) -> Tensor:
    """Reorders the rows of a query or key projection, so that it works with the other layout.

    Args:
        weight: ``(heads * head_dim, ...)``, as in ``nn.Linear``; a bias works too.
        head_dim: Width d of one head.
        to: The layout it shall have, ``"half"`` or ``"interleaved"``; it is taken to have the other one.
        rotary_dim: Width of the part that is turned; all of ``head_dim`` if not given.

    Returns:
        The same rows, reordered within each head.

    Raises:
        ValueError: If ``weight`` is not made of heads, or ``to`` or ``rotary_dim`` cannot be.
    """
    expect("weight", weight, "...")
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    _check_width(rotary_dim, head_dim)
    _check_layout("to", to)
    if weight.ndim == 0 or weight.shape[0] % head_dim:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; its rows are not a multiple of head_dim={head_dim}")
    order = torch.arange(head_dim, device=weight.device)
    order[:rotary_dim] = order[:rotary_dim].unflatten(0, (-1, 2) if to == "half" else (2, -1)).T.flatten()
    return weight.unflatten(0, (-1, head_dim))[:, order].flatten(0, 1)


def _check_width(rotary_dim: int, head_dim: int) -> None:
    if rotary_dim % 2 or not 0 < rotary_dim <= head_dim:
        raise ValueError(f"rotary_dim={rotary_dim} is not an even number from 2 to head_dim={head_dim}")


def _check_layout(name: str, layout: str) -> None:
    if layout not in ("half", "interleaved"):
        raise ValueError(f"{name}={layout!r} is neither 'half' nor 'interleaved'")
