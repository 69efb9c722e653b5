"""KV cache: keys and values of earlier tokens are kept, so that a new token computes only its own.

Source: Pope et al. 2022, arXiv:2211.05102, section 2 (what it costs); Kwon et al. 2023, arXiv:2309.06180,
section 4 (blocks and block tables).
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.attention.masks import causal_mask
from vocab.check import expect

__all__ = ["KVCache", "cache_bytes", "causal_mask"]

# B batch, G key/value heads, t new tokens, S tokens that can be seen, d head width


class KVCache:
    """Keys and values of every layer, allocated once and written in place.

    A policy is a map from a token's absolute position p to a slot in memory:

    - ``"static"``: slot p. Room for ``max_len`` tokens; more is an error. Reading copies nothing.
    - ``"rolling"``: slot p mod ``max_len``. The last ``max_len`` tokens, for attention with such a sliding window.
    - ``"paged"``: block ``table[p // block_size]``, slot p mod ``block_size`` in it. Blocks come from a pool when they
      are needed, in any order, so memory is taken as sequences grow.

    Whatever the policy, ``update`` returns keys in the order of their positions, the new ones last. So query i of t
    may see the keys up to S - t + i (``causal_mask``), and a single query sees all of them. All sequences of the
    batch advance together. Run it under ``torch.inference_mode``: with gradients on, it keeps all steps' graph alive.

    Args:
        n_layers: Layers; each has its own keys and values.
        batch: Sequences B.
        n_kv_heads: Key/value heads G, which may be fewer than query heads.
        head_dim: Width d of one head.
        max_len: Tokens of a sequence that can be held.
        dtype: Of the stored numbers; new keys and values must have it.
        policy: ``"static"``, ``"rolling"`` or ``"paged"``.
        block_size: Tokens in a block, for ``"paged"``.
        n_blocks: Blocks in the pool, for ``"paged"``; enough for all sequences at ``max_len`` if not given.
        device: Where it is stored.

    Attributes:
        lengths: Tokens seen by each layer; the absolute position of that layer's next token.
        window: Tokens that a query may look back on, itself included; ``None`` if all.

    Examples:
        >>> cache = KVCache(n_layers=1, batch=1, n_kv_heads=2, head_dim=4, max_len=3, policy="rolling")
        >>> for t in range(5):
        ...     k, v = cache.update(0, torch.full((1, 2, 1, 4), float(t)), torch.zeros(1, 2, 1, 4))
        >>> k[0, 0, :, 0], cache.lengths
        (tensor([2., 3., 4.]), [5])
    """

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        head_dim: int,
        max_len: int,
        dtype: torch.dtype = torch.float32,
        *,
        policy: str = "static",
        block_size: int = 16,
        n_blocks: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        sizes = dict(n_layers=n_layers, batch=batch, n_kv_heads=n_kv_heads, head_dim=head_dim, max_len=max_len)
        for name, size in {**sizes, "block_size": block_size}.items():
            if size < 1:
                raise ValueError(f"{name}={size} is not positive")
        if policy not in ("static", "rolling", "paged"):
            raise ValueError(f"policy={policy!r} is not 'static', 'rolling' or 'paged'")
        self.n_layers, self.batch, self.n_kv_heads, self.head_dim = n_layers, batch, n_kv_heads, head_dim
        self.max_len, self.policy, self.block_size = max_len, policy, block_size
        self.n_blocks = batch * -(-max_len // block_size) if n_blocks is None else n_blocks
        self.window = max_len if policy == "rolling" else None
        slots = (self.n_blocks * block_size, n_kv_heads) if policy == "paged" else (batch, n_kv_heads, max_len)
        self.store = torch.zeros(2, n_layers, *slots, head_dim, dtype=dtype, device=device)  # 2: keys, values
        self.reset()

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the keys and values of new tokens.

        Args:
            layer: Which layer they belong to.
            k: Keys ``(B, G, t, d)``, already rotated where positions are rotary.
            v: Values of the same shape.

        Returns:
            Keys and values ``(B, G, S, d)`` that the new tokens may see, themselves included.

        Raises:
            TypeError: If the dtype is not that of the cache.
            ValueError: If the shape does not fit, or there is no room.
        """
        sizes = dict(batch=self.batch, n_kv_heads=self.n_kv_heads, head_dim=self.head_dim)
        expect("k", k, "batch n_kv_heads time head_dim", **sizes)
        expect("v", v, "batch n_kv_heads time head_dim", **sizes, time=k.shape[2])
        for name, x in (("k", k), ("v", v)):
            if x.dtype != self.store.dtype:
                raise TypeError(f"{name} has dtype {x.dtype}; the cache holds {self.store.dtype}")
        if not 0 <= layer < self.n_layers:
            raise ValueError(f"layer={layer} is not one of the {self.n_layers} layers of the cache")
        start, end = self.lengths[layer], self.lengths[layer] + k.shape[2]
        if self.policy != "rolling" and end > self.max_len:
            raise ValueError(f"no room: {start} tokens and {k.shape[2]} new ones are more than max_len={self.max_len}")
        write = {"static": self._static, "rolling": self._rolling, "paged": self._paged}[self.policy]
        seen = write(self.store[:, layer], torch.stack((k, v)), start, end)
        self.lengths[layer] = end
        return seen[0], seen[1]

    def reset(self) -> None:
        """Forgets all tokens; a paged cache gives its blocks back."""
        self.lengths = [0] * self.n_layers
        self.free = list(range(self.n_blocks))
        self.table = torch.empty(self.batch, 0, dtype=torch.long, device=self.store.device)  # shared by all layers

    def _static(self, store: Tensor, new: Tensor, start: int, end: int) -> Tensor:
        store[..., start:end, :] = new
        return store[..., :end, :]

    def _rolling(self, store: Tensor, new: Tensor, start: int, end: int) -> Tensor:
        position = torch.arange(max(0, start - self.max_len + 1), end, device=store.device)
        # Read before writing: the first of several new tokens still sees old ones that the last of them overwrites.
        seen = torch.cat((store[..., position[position < start] % self.max_len, :], new), -2)
        kept = position[-self.max_len :]
        kept = kept[kept >= start]
        store[..., kept % self.max_len, :] = new[..., kept - start, :]
        return seen

    def _paged(self, store: Tensor, new: Tensor, start: int, end: int) -> Tensor:
        missing = -(-end // self.block_size) - self.table.shape[1]
        if self.batch * missing > len(self.free):
            free = f"{len(self.free)} of {self.n_blocks} are free"
            raise ValueError(f"no room: {self.batch * missing} blocks are needed and {free}")
        for _ in range(missing):
            taken = torch.tensor([self.free.pop() for _ in range(self.batch)], device=store.device)
            self.table = torch.cat((self.table, taken[:, None]), 1)
        position = torch.arange(end, device=store.device)
        slot_BS = self.table[:, position // self.block_size] * self.block_size + position % self.block_size
        store[:, slot_BS[:, start:]] = new.transpose(2, 3)
        # A paged attention kernel reads through the table; gathering first is the same result with a copy.
        return store[:, slot_BS].transpose(2, 3)


def cache_bytes(
    n_layers: int, n_kv_heads: int, head_dim: int, tokens: int, *, batch: int = 1, bytes_per_number: float = 2
) -> int:
    """Bytes of all keys and values: two numbers per layer, key/value head, coordinate, token and sequence.

    Args:
        n_layers: Layers.
        n_kv_heads: Key/value heads; query heads do not count.
        head_dim: Width of one head.
        tokens: Tokens held of each sequence.
        batch: Sequences.
        bytes_per_number: 2 for 16 bit, 1 for 8 bit, 0.5 for 4 bit (without the scales that these need).

    Examples:
        >>> cache_bytes(n_layers=80, n_kv_heads=8, head_dim=128, tokens=1)  # Llama 2 70B
        327680
    """
    return int(2 * n_layers * n_kv_heads * head_dim * tokens * batch * bytes_per_number)
