"""Sparse linear layer: most weights are zero for good, chosen by magnitude, one by one or in a pattern.

Source: Zhu and Gupta 2017, arXiv:1710.01878, section 3 (magnitude, by layer); 2:4 pattern: Mishra et al. 2021,
arXiv:2104.08378, section 3; blocks: Gray et al. 2017 (OpenAI technical report).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.layers.linear import Linear

__all__ = ["SparseLinear", "magnitude_mask", "stored_bytes"]

# I inputs, O outputs

_PATTERNS = ("unstructured", "block", "2:4")


class SparseLinear(nn.Module):
    """Linear layer with a fixed mask on its weight; what is masked is zero and stays so.

    The product is a dense one, in PyTorch: this class is for finding out what a mask costs in quality. What it saves
    needs compressed storage and a kernel that skips.

    Args:
        in_features: Inputs I.
        out_features: Outputs O.
        sparsity: Share of weights that are zero, from 0 to below 1; 0.9 if not given. In pattern 2:4 it is always 0.5.
        pattern: ``"unstructured"`` drops weights one by one, ``"block"`` square blocks, ``"2:4"`` two of every four
            neighbours in a row.
        block_size: Side of a block.
        bias: Whether a bias is added.

    Shapes:
        x ``(..., I)`` -> ``(..., O)``.

    Raises:
        ValueError: If the sparsity or pattern cannot be, the pattern does not divide the weight, or ``x`` does not fit.

    Examples:
        >>> layer = SparseLinear(64, 64, sparsity=0.75, pattern="block", block_size=16)
        >>> layer.density(), layer(torch.zeros(2, 64)).shape
        (0.25, torch.Size([2, 64]))
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        sparsity: float | None = None,
        pattern: str = "unstructured",
        block_size: int = 32,
        bias: bool = True,
    ) -> None:
        super().__init__()
        dense = Linear(in_features, out_features, bias)
        sparsity = _share(sparsity, pattern)
        self.in_features, self.pattern, self.block_size = in_features, pattern, block_size
        mask = magnitude_mask(dense.weight, sparsity, pattern, block_size=block_size)
        self.weight = nn.Parameter(torch.where(mask, dense.weight, 0).detach())
        self.bias = dense.bias
        self.register_buffer("mask", mask)

    @classmethod
    def from_dense(
        cls,
        linear: nn.Module,
        method: str = "magnitude",
        *,
        sparsity: float | None = None,
        pattern: str = "unstructured",
        block_size: int = 32,
    ) -> SparseLinear:
        """Makes a sparse copy of a layer.

        Args:
            linear: A layer with ``weight`` ``(O, I)`` and ``bias``, trained as a rule.
            method: ``"magnitude"`` keeps the largest weights; ``"random"`` any, as a baseline.
            sparsity: As in the class.
            pattern: As in the class.
            block_size: As in the class.

        Raises:
            ValueError: If ``method`` is another word.
        """
        if method not in ("magnitude", "random"):
            raise ValueError(f"method={method!r} is neither 'magnitude' nor 'random'")
        weight, bias = linear.weight.detach(), linear.bias
        settings = dict(sparsity=sparsity, pattern=pattern, block_size=block_size, bias=bias is not None)
        layer = cls(weight.shape[1], weight.shape[0], **settings).to(weight)
        if method == "magnitude":  # otherwise the mask stays that of the new layer's random weights
            layer.mask = magnitude_mask(weight, _share(sparsity, pattern), pattern, block_size=block_size)
        with torch.no_grad():
            layer.weight.copy_(torch.where(layer.mask, weight, 0))
            if bias is not None:
                layer.bias.copy_(bias)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.in_features)
        # An optimizer's momentum may move a weight that has been masked; its effect and gradient are zero all the same.
        y = x @ torch.where(self.mask, self.weight, 0).T
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def prune(self, sparsity: float) -> None:
        """Masks more weights, the smallest of those that are left.

        Args:
            sparsity: Share of weights that are zero afterwards; not below the present one.

        Raises:
            ValueError: If weights would have to come back.
        """
        if 1 - sparsity > self.density() + 1e-9:
            raise ValueError(f"sparsity={sparsity} is below the present {1 - self.density():.4g}; what is gone stays gone")
        weight = torch.where(self.mask, self.weight, 0)
        self.mask = magnitude_mask(weight, sparsity, self.pattern, block_size=self.block_size)
        self.weight.copy_(torch.where(self.mask, weight, 0))

    def density(self) -> float:
        """The share of weights that are kept."""
        return self.mask.double().mean().item()


@torch.no_grad()
def magnitude_mask(weight: Tensor, sparsity: float, pattern: str = "unstructured", *, block_size: int = 32) -> Tensor:
    """Which weights to keep: of all masks with the pattern, the one that changes the weight least (sum of squares).

    Args:
        weight: ``(O, I)``.
        sparsity: Share of weights, or of blocks, that go; rounded to a whole number of them.
        pattern: ``"unstructured"``, ``"block"`` or ``"2:4"``.
        block_size: Side of a block.

    Returns:
        A mask ``(O, I)``, true where a weight is kept.

    Raises:
        ValueError: If the sparsity is not from 0 to below 1 or the pattern does not divide the weight.

    Examples:
        >>> magnitude_mask(torch.tensor([[1.0, -4.0, 2.0, 3.0]]), 0.5, "2:4")
        tensor([[False,  True, False,  True]])
    """
    expect("weight", weight, "out_features in_features")
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity={sparsity} is not from 0 to below 1")
    if pattern not in _PATTERNS:
        raise ValueError(f"pattern={pattern!r} is none of {', '.join(_PATTERNS)}")
    rows, columns = weight.shape
    if pattern == "2:4":
        if sparsity != 0.5:
            raise ValueError(f"sparsity={sparsity} with pattern='2:4'; two of four is 0.5")
        if columns % 4:
            raise ValueError(f"in_features={columns} is not a multiple of 4, as pattern='2:4' needs")
        return _largest(weight.abs().view(rows, -1, 4), 2).view_as(weight)
    if pattern == "block":
        for name, size in dict(out_features=rows, in_features=columns).items():
            if size % block_size:
                raise ValueError(f"{name}={size} is not a multiple of block_size={block_size}")
        score = weight.square().unflatten(1, (-1, block_size)).unflatten(0, (-1, block_size)).sum((1, 3))
        kept = _largest(score.flatten(), round((1 - sparsity) * score.numel())).view_as(score)
        return kept.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)
    return _largest(weight.abs().flatten(), round((1 - sparsity) * weight.numel())).view_as(weight)


def _share(sparsity: float | None, pattern: str) -> float:
    if sparsity is not None:
        return sparsity
    return 0.5 if pattern == "2:4" else 0.9


def _largest(score: Tensor, n: int) -> Tensor:
    # By position, not by a threshold: with equal scores a threshold keeps too many.
    return torch.zeros_like(score, dtype=torch.bool).scatter(-1, score.topk(n).indices, True)


def stored_bytes(
    mask: Tensor, layout: str, *, value_bytes: int = 2, index_bytes: int = 4, block_size: int = 32
) -> int:
    """The size of a weight in a storage format.

    Args:
        mask: ``(O, I)``, true where a weight is kept.
        layout: ``"dense"``; ``"coo"``, two indices per value; ``"csr"``, one per value and one per row; ``"bsr"``, the
            same for blocks; ``"2:4"``, half of the values with two bits each.
        value_bytes: Size of a value; 2 for 16 bits.
        index_bytes: Size of an index.
        block_size: Side of a block; a block is stored whole if any of its weights is kept.

    Raises:
        ValueError: If the layout is another word or ``mask`` does not fit it.

    Examples:
        >>> stored_bytes(torch.ones(64, 64, dtype=torch.bool), "dense")
        8192
    """
    expect("mask", mask, "out_features in_features", dtype="bool")
    rows, columns = mask.shape
    kept = int(mask.sum())
    if layout == "dense":
        return mask.numel() * value_bytes
    if layout == "coo":
        return kept * (value_bytes + 2 * index_bytes)
    if layout == "csr":
        return kept * (value_bytes + index_bytes) + (rows + 1) * index_bytes
    if layout == "bsr":
        if rows % block_size or columns % block_size:
            raise ValueError(f"mask of shape {tuple(mask.shape)} does not split into blocks of block_size={block_size}")
        blocks = int(mask.unflatten(1, (-1, block_size)).unflatten(0, (-1, block_size)).any(3).any(1).sum())
        return blocks * (block_size**2 * value_bytes + index_bytes) + (rows // block_size + 1) * index_bytes
    if layout == "2:4":
        if columns % 4 or mask.view(rows, -1, 4).sum(-1).max() > 2:
            raise ValueError("mask keeps more than two of four neighbours; it has no layout '2:4'")
        return mask.numel() // 2 * value_bytes + mask.numel() // 8
    raise ValueError(f"layout={layout!r} is none of dense, coo, csr, bsr, 2:4")
