"""Which keys a query may see. One convention everywhere: true means that the key may be seen.

Masks are booleans ``(..., T, S)``, queries by keys, and broadcast over batch and heads. Two of them are joined with ``&``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vocab.check import expect

__all__ = ["both", "causal_mask", "expect_mask", "padding_mask"]


# --8<-- [start:causal]
def causal_mask(
    n_queries: int,
    n_keys: int | None = None,
    window: int | None = None,
    *,
    convention: str = "keep",
    device: torch.device | None = None,
) -> Tensor:
    """Which keys the last ``n_queries`` of ``n_keys`` tokens may see: the diagonal ends in the lower right corner.

    ``torch.nn.functional.scaled_dot_product_attention(..., is_causal=True)`` puts it in the upper left one instead,
    where a single new query sees the very first token only.

    Args:
        n_queries: Rows.
        n_keys: Columns; as many as rows if not given.
        window: How many tokens a query may look back on, itself included; all if not given.
        convention: ``"keep"`` is true where seen, as everywhere in this library and in PyTorch's function; ``"block"``
            is true where hidden, as in ``torch.nn.MultiheadAttention``; ``"additive"`` is 0 where seen and -inf where not.
        device: Where to make it.

    Returns:
        ``(n_queries, n_keys)``: booleans, or float32 for ``"additive"``.

    Raises:
        ValueError: If there are more queries than keys, or ``window`` or ``convention`` cannot be.

    Examples:
        >>> causal_mask(2, 4).int()
        tensor([[1, 1, 1, 0],
                [1, 1, 1, 1]], dtype=torch.int32)
    """
    n_keys = n_queries if n_keys is None else n_keys
    if not 0 < n_queries <= n_keys:
        raise ValueError(f"n_queries={n_queries} is not from 1 to n_keys={n_keys}")
    if window is not None and window < 1:
        raise ValueError(f"window={window} hides every key, the query's own too; it is 1 or more")
    query = torch.arange(n_keys - n_queries, n_keys, device=device)
    back = query[:, None] - torch.arange(n_keys, device=device)
    seen = (back >= 0) & (back < (n_keys if window is None else window))
    if convention == "keep":
        return seen
    if convention == "block":
        return ~seen
    if convention == "additive":
        return torch.zeros(seen.shape, device=device).masked_fill(~seen, -torch.inf)
    raise ValueError(f"convention={convention!r} is not 'keep', 'block' or 'additive'")
# --8<-- [end:causal]


# --8<-- [start:padding]
def padding_mask(lengths: Tensor, n_keys: int) -> Tensor:
    """Hides what was put behind shorter sequences to make a batch: key ``s`` is seen if it is before the length.

    Args:
        lengths: ``(B,)`` integers, the tokens of each sequence, from 1 to ``n_keys``.
        n_keys: Columns S, the length to which all were padded.

    Returns:
        Booleans ``(B, 1, 1, S)``, the same for every head and query.

    Raises:
        ValueError: If a length is not from 1 to ``n_keys``.

    Examples:
        >>> padding_mask(torch.tensor([2, 3]), 3)[:, 0, 0].int()
        tensor([[1, 1, 0],
                [1, 1, 1]], dtype=torch.int32)
    """
    expect("lengths", lengths, "batch", dtype="int")
    if lengths.numel() and not 0 < lengths.min() <= lengths.max() <= n_keys:
        raise ValueError(f"lengths are from {lengths.min()} to {lengths.max()}; allowed are 1 to n_keys={n_keys}")
    return (torch.arange(n_keys, device=lengths.device) < lengths[:, None])[:, None, None]
# --8<-- [end:padding]


def both(attn_mask: Tensor | None, seen: Tensor) -> Tensor:
    """Joins a mask of either kind with a boolean one: a key is seen if both say so.

    Args:
        attn_mask: Booleans, true where seen; or numbers that are added to the scores; or None.
        seen: Booleans, true where seen.

    Returns:
        A mask of the kind of ``attn_mask``; booleans for None.
    """
    if attn_mask is None:
        return seen
    expect_mask(attn_mask)
    return attn_mask & seen if attn_mask.dtype == torch.bool else attn_mask.masked_fill(~seen, -torch.inf)


def expect_mask(attn_mask: Tensor) -> None:
    """Raises ``TypeError`` unless a mask holds booleans or floating-point numbers.

    Args:
        attn_mask: The argument of that name.
    """
    expect("attn_mask", attn_mask, "...", dtype="bool" if getattr(attn_mask, "dtype", None) == torch.bool else "float")
