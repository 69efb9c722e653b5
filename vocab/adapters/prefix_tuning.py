"""Prefix tuning: every layer of a frozen model gets trained keys and values to attend to, before those of the text.

Source: Li and Liang 2021, arXiv:2101.00190, sections 4.2 and 4.3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["PrefixTuning"]

# B batch, H heads, L prefix length, d head width


class PrefixTuning(nn.Module):
    """Makes the keys and values of ``prefix_length`` trained places for each layer, as a cache would hold them.

    They have no position of their own: text positions go on counting from 0. Attention must let every query see them:
    masks grow by L columns of true on the left, and a causal mask ends in the lower right corner.

    Args:
        n_layers: Layers of the model.
        n_heads: Key/value heads H of each.
        head_dim: Width d of one head.
        prefix_length: Trained places L.
        reparam_hidden: Width of the network through which the prefix is trained; None trains it directly.

    Raises:
        ValueError: If a size is below 1.

    Examples:
        >>> prefix = PrefixTuning(n_layers=2, n_heads=4, head_dim=8, prefix_length=5).collapse()
        >>> (k, v), _ = prefix(batch_size=3)
        >>> k.shape, sum(p.numel() for p in prefix.parameters())
        (torch.Size([3, 4, 5, 8]), 640)
    """

    def __init__(
        self, n_layers: int, n_heads: int, head_dim: int, prefix_length: int = 10, *, reparam_hidden: int | None = 512
    ) -> None:
        super().__init__()
        sizes = dict(n_layers=n_layers, n_heads=n_heads, head_dim=head_dim, prefix_length=prefix_length)
        for name, size in {**sizes, "reparam_hidden": 1 if reparam_hidden is None else reparam_hidden}.items():
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        self.n_layers, self.n_heads, self.head_dim, self.prefix_length = n_layers, n_heads, head_dim, prefix_length
        d_model, width = n_heads * head_dim, 2 * n_layers * n_heads * head_dim  # 2: keys and values
        self.prefix = nn.Parameter(0.02 * torch.randn(prefix_length, width if reparam_hidden is None else d_model))
        self.network = None
        if reparam_hidden is not None:
            self.network = nn.Sequential(nn.Linear(d_model, reparam_hidden), nn.Tanh(), nn.Linear(reparam_hidden, width))

    def forward(self, batch_size: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer.

        Args:
            batch_size: Sequences B; all get the same.

        Returns:
            For each layer ``k`` and ``v``, both ``(B, H, L, d)``, to be put before those of the text.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} is below 1")
        flat = self.prefix if self.network is None else self.network(self.prefix)
        each = flat.view(self.prefix_length, self.n_layers, 2, self.n_heads, self.head_dim).permute(1, 2, 3, 0, 4)
        return [tuple(part.expand(batch_size, -1, -1, -1) for part in layer) for layer in each]

    @torch.no_grad()
    def collapse(self) -> PrefixTuning:
        """Computes the prefix once and drops the network: what is stored after training."""
        if self.network is not None:
            self.prefix = nn.Parameter(self.network(self.prefix))
            self.network = None
        return self
