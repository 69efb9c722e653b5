"""Perceiver attention: a small set of learned latents reads an input of any size.

Source: Jaegle et al. 2021, arXiv:2103.03206, section 3.1; the queries for outputs: Jaegle et al. 2022, arXiv:2107.14795, section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.attention.cross import CrossAttention
from vocab.check import expect

__all__ = ["PerceiverAttention", "PerceiverIOQuery"]

# B batch, S inputs, M latents, O outputs, C width of inputs, D width of latents


class PerceiverAttention(nn.Module):
    """Cross-attention from learned latents to the input: M S scores, and a result whose size does not depend on S.

    Args:
        num_latents: Latents M.
        d_latent: Their width D.
        d_input: Width C of the inputs.
        n_heads: Heads.
        bias: Whether the projections have a bias.

    Examples:
        >>> read = PerceiverAttention(num_latents=4, d_latent=8, d_input=3)
        >>> read(torch.randn(2, 1000, 3)).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, num_latents: int, d_latent: int, d_input: int, n_heads: int = 1, *, bias: bool = True) -> None:
        super().__init__()
        if num_latents < 1:
            raise ValueError(f"num_latents={num_latents} is not positive")
        # Drawn, not zero: latents that start alike ask the same, get the same, and have the same gradient for ever.
        self.latents = nn.Parameter(torch.empty(num_latents, d_latent))
        nn.init.trunc_normal_(self.latents, std=0.02)
        self.read = CrossAttention(d_latent, n_heads, d_context=d_input, bias=bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, latents: Tensor | None = None) -> Tensor:
        """Reads the input.

        Args:
            x: ``(B, S, C)``.
            mask: Booleans ``(B, S)``, true where there is an input and false where there is padding.
            latents: ``(B, M, D)``, from an earlier layer; the learned ones if not given.

        Returns:
            ``(B, M, D)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("x", x, "batch inputs d_input", d_input=self.read.d_context)
        if latents is None:
            latents = self.latents.expand(len(x), -1, -1)
        expect("latents", latents, "batch num_latents d_latent", batch=len(x), d_latent=self.read.d_model)
        if mask is not None:
            expect("mask", mask, "batch inputs", dtype="bool", batch=len(x), inputs=x.shape[1])
        return self.read(latents, x, context_mask=mask)


class PerceiverIOQuery(CrossAttention):
    """Cross-attention the other way: one query for each output that is wanted reads the latents.

    A query says which output it is: a pixel's position, a word's place, the name of a task.

    Args:
        d_query: Width of the queries.
        d_latent: Width D of the latents.
        d_out: Width of an output; ``d_query`` if not given.
        n_heads: Heads.
        bias: Whether the projections have a bias.

    Examples:
        >>> write = PerceiverIOQuery(d_query=6, d_latent=8, d_out=3)
        >>> write(torch.randn(2, 1000, 6), torch.randn(2, 4, 8)).shape
        torch.Size([2, 1000, 3])
    """

    def __init__(self, d_query: int, d_latent: int, d_out: int | None = None, n_heads: int = 1, *, bias: bool = True) -> None:
        super().__init__(d_query, n_heads, d_context=d_latent, bias=bias)
        self.o_proj = nn.Linear(d_query, d_query if d_out is None else d_out, bias=bias)

    def forward(self, queries: Tensor, latents: Tensor) -> Tensor:
        """Reads the latents.

        Args:
            queries: ``(B, O, d_query)``.
            latents: ``(B, M, D)``.

        Returns:
            ``(B, O, d_out)``.

        Raises:
            ValueError: If a shape does not fit.
        """
        expect("queries", queries, "batch outputs d_query", d_query=self.d_model)
        expect("latents", latents, "batch num_latents d_latent", batch=len(queries), d_latent=self.d_context)
        return super().forward(queries, latents)
