"""Attention entropy: how many tokens a head really attends to.

Source: Zhai et al. 2023, arXiv:2303.06296, section 3 (entropy collapse).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.multi_head import MultiHeadAttention
from vocab.attention.scaled_dot_product import masked_softmax
from vocab.check import expect

__all__ = ["attention_entropy", "effective_tokens", "entropy_collapse_report", "relative_entropy"]

# B batch, H heads, T queries, S keys, d head width


def attention_entropy(
    q: Tensor, k: Tensor, *, mask: Tensor | None = None, scale: float | None = None, chunk_size: int = 1024
) -> Tensor:
    """The entropy of every row of attention weights, in nats: 0 for a single key, log n for n equal ones.

    It is ``logsumexp(s) - sum p s`` for a row of scores s with weights p. That has no logarithm of a weight, so a weight of
    0 needs no care. Queries go in chunks: no more than ``chunk_size`` rows of weights exist at once.

    Args:
        q: Queries ``(..., T, d)``.
        k: Keys ``(..., S, d)``.
        mask: Booleans, true where a key may be seen; broadcasts to ``(..., T, S)``.
        scale: Factor of the scores; ``1 / sqrt(d)`` if not given.
        chunk_size: Queries in a chunk; changes memory, not the result.

    Returns:
        ``(..., T)``, at least in float32; 0 for a query that sees no key.

    Raises:
        ValueError: If a shape does not fit, or ``chunk_size`` is not positive.

    Examples:
        >>> attention_entropy(torch.zeros(1, 4), torch.randn(8, 4)).exp()  # a query of zeros attends to all eight
        tensor([8.])
    """
    expect("q", q, "... queries width")
    expect("k", k, "... keys width", width=q.shape[-1])
    if mask is not None:
        expect("mask", mask, "... queries keys", dtype="bool")
        mask = mask.expand(*mask.shape[:-2], q.shape[-2], k.shape[-2])
    if chunk_size < 1:
        raise ValueError(f"chunk_size={chunk_size} is not positive")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    dtype = torch.promote_types(q.dtype, torch.float32)
    rows = []
    for start in range(0, q.shape[-2], chunk_size):
        scores = scale * q[..., start : start + chunk_size, :].to(dtype) @ k.to(dtype).transpose(-2, -1)
        seen = None if mask is None else mask[..., start : start + chunk_size, :]
        weights = masked_softmax(scores, seen)
        if seen is not None:
            empty = ~seen.any(-1, keepdim=True)
            # A row without any key would be -inf - 0.
            visible = scores.masked_fill(~seen & ~empty, -torch.inf)
            rows.append((visible.logsumexp(-1) - (weights * scores).sum(-1)).masked_fill(empty.squeeze(-1), 0.0))
        else:
            rows.append(scores.logsumexp(-1) - (weights * scores).sum(-1))
    return torch.cat(rows, -1)


def effective_tokens(entropy: Tensor) -> Tensor:
    """How many equally weighted tokens have this entropy.

    Args:
        entropy: Nats, any shape.

    Examples:
        >>> effective_tokens(torch.tensor(2.0).log())
        tensor(2.)
    """
    expect("entropy", entropy, "...")
    return entropy.exp()


def relative_entropy(entropy: Tensor, mask: Tensor | None = None, *, n_keys: int | None = None) -> Tensor:
    """Entropy as a share of the largest possible, so that rows that see few keys and rows that see many compare.

    Args:
        entropy: ``(..., T)`` nats.
        mask: Booleans ``(..., T, S)``, true where a key may be seen; none if all see ``n_keys``.
        n_keys: Keys that every query sees, where there is no mask.

    Returns:
        From 0 to 1; a row with a single key, which has no choice, is 1.

    Raises:
        ValueError: If not exactly one of ``mask`` and ``n_keys`` is given.

    Examples:
        >>> relative_entropy(torch.tensor([4.0]).log(), n_keys=16)
        tensor([0.5000])
    """
    expect("entropy", entropy, "... queries")
    if (mask is None) == (n_keys is None):
        raise ValueError("give either mask or n_keys")
    seen = torch.as_tensor(n_keys, dtype=entropy.dtype) if mask is None else mask.sum(-1).to(entropy.dtype)
    return torch.where(seen > 1, entropy / seen.clamp_min(2).log(), torch.ones_like(entropy))


def entropy_collapse_report(model: nn.Module, x: Tensor) -> list[dict[str, object]]:
    """Runs a model once and reports, for each of its attention layers and heads, how spread out the weights are.

    Args:
        model: Contains ``MultiHeadAttention`` or subclasses that compute their weights as it does.
        x: Its input.

    Returns:
        For each layer and head a dictionary: ``layer`` (its name in the model), ``head``, and ``mean`` and ``min`` of the
        entropy relative to its largest value. Rows with fewer than two keys are left out.

    Raises:
        ValueError: If no such layer was called.

    Examples:
        >>> report = entropy_collapse_report(MultiHeadAttention(4, 2), torch.zeros(1, 3, 4))
        >>> [(r["layer"], r["head"], round(r["mean"], 3)) for r in report]  # equal tokens: equal weights
        [('', 0, 1.0), ('', 1, 1.0)]
    """
    report: list[dict[str, object]] = []
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MultiHeadAttention)}

    def listen(name: str, weighted_mean):
        def heard(q, k, v, attn_mask):
            out, weights = weighted_mean(q, k, v, attn_mask)
            p = weights.detach().to(torch.float64)
            entropy = -(p * p.clamp_min(1e-300).log()).sum(-1)
            seen = torch.ones_like(p, dtype=torch.bool)
            if attn_mask is not None:
                seen = (attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf).expand(p.shape)
            share = relative_entropy(entropy, seen)
            for head in range(p.shape[1]):
                chosen = share[:, head][seen[:, head].sum(-1) > 1]
                if len(chosen):
                    numbers = dict(mean=chosen.mean().item(), min=chosen.min().item())
                    report.append(dict(layer=name, head=head, **numbers))
            return out, weights

        return heard

    for name, module in layers.items():
        module.weighted_mean = listen(name, module.weighted_mean)
    try:
        with torch.no_grad():
            model(x)
    finally:
        for module in layers.values():
            del module.weighted_mean
    if not report:
        raise ValueError("the model called no MultiHeadAttention layer that sees two keys or more")
    return report
