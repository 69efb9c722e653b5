"""QLoRA: LoRA on a weight that is frozen in 4 bits, with levels at the quantiles of a normal distribution.

Source: Dettmers et al. 2023, arXiv:2305.14314, section 3 (NF4, double quantization) and appendix E (the 16 levels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.adapters.lora import LoRALinear
from vocab.check import expect

__all__ = ["NF4Tensor", "QLoRALinear", "quantize_nf4"]

# I inputs, O outputs, n numbers, b block

# Eight quantiles above and seven below zero, and zero itself, scaled to -1 ... 1.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
SCALE_BLOCK = 256  # scales that share a scale of their own


class NF4Tensor(nn.Module):
    """A tensor in 4 bits per number: codes, two in a byte, and a scale for each block. Made by ``quantize_nf4``.

    Args:
        codes: ``(ceil(n / 2),)`` bytes.
        scales: One for each block: float32; or 8-bit codes, with ``scale_scales`` and ``scale_mean``.
        shape: Of the original.
        block_size: Numbers that share a scale.
        scale_scales: Steps of the codes in ``scales``, one for each 256 of them.
        scale_mean: Mean that was taken off the scales before.

    Examples:
        >>> q = quantize_nf4(torch.randn(128, 128))
        >>> q.dequantize().shape, round(q.bits(), 3)
        (torch.Size([128, 128]), 4.127)
    """

    def __init__(
        self,
        codes: Tensor,
        scales: Tensor,
        shape: torch.Size,
        block_size: int,
        scale_scales: Tensor | None = None,
        scale_mean: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.shape, self.block_size = shape, block_size
        parts = dict(codes=codes, scales=scales, scale_scales=scale_scales, scale_mean=scale_mean)
        for name, part in parts.items():
            self.register_buffer(name, part)
        self.register_buffer("levels", torch.tensor(NF4, device=codes.device), persistent=False)

    def dequantize(self) -> Tensor:
        """The numbers that the codes stand for, in float32 and the original shape."""
        scales = self.scales
        if self.scale_scales is not None:
            steps = self.scale_scales.repeat_interleave(SCALE_BLOCK)[: len(scales)]
            scales = scales.float() * steps + self.scale_mean
        codes = torch.stack((self.codes >> 4, self.codes & 15), -1).flatten()
        values = self.levels[codes.long()] * scales.repeat_interleave(self.block_size)[: len(codes)]
        return values[: self.shape.numel()].view(self.shape)

    def bits(self) -> float:
        """Bits per number, scales included (padding and the one mean of the scales left out)."""
        each = 4 + 8 * self.scales.element_size() / self.block_size
        return each if self.scale_scales is None else each + 32 / (self.block_size * SCALE_BLOCK)


def quantize_nf4(w: Tensor, block_size: int = 64, double_quant: bool = True) -> NF4Tensor:
    """Rounds a tensor to the nearest of 16 levels, block by block, each divided by its largest absolute value.

    Args:
        w: Any shape; read row by row. The last block may be shorter.
        block_size: Numbers b that share a scale.
        double_quant: Whether the scales are rounded to 8 bits themselves, in blocks of 256.

    Returns:
        What ``dequantize`` makes numbers of again.

    Raises:
        ValueError: If ``w`` is empty or ``block_size`` odd or below 2.

    Examples:
        >>> quantize_nf4(torch.tensor([0.0, 1.0, -2.0, 0.1]), block_size=4, double_quant=False).dequantize()
        tensor([ 0.0000,  0.8814, -2.0000,  0.1592])
    """
    expect("w", w, "...")
    if w.numel() == 0:
        raise ValueError("w is empty")
    if block_size < 2 or block_size % 2:
        raise ValueError(f"block_size={block_size} is not an even number: two codes share a byte")
    flat = w.detach().float().flatten()
    flat = F.pad(flat, (0, -len(flat) % block_size))
    blocks = flat.view(-1, block_size)
    scales = blocks.abs().amax(1)
    levels = torch.tensor(NF4, device=w.device)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize((blocks / scales.clamp(min=1e-30)[:, None]).flatten(), middles).to(torch.uint8)
    packed = codes[0::2] << 4 | codes[1::2]
    if not double_quant:
        return NF4Tensor(packed, scales, w.shape, block_size)
    mean = scales.mean()
    centred = F.pad(scales - mean, (0, -len(scales) % SCALE_BLOCK)).view(-1, SCALE_BLOCK)
    steps = (centred.abs().amax(1) / 127).clamp(min=1e-30)
    rounded = (centred / steps[:, None]).round().to(torch.int8).flatten()[: len(scales)]
    return NF4Tensor(packed, rounded, w.shape, block_size, steps, mean)


class QLoRALinear(LoRALinear):
    """A linear layer whose weight is kept in 4 bits, and LoRA's trained change beside it.

    The weight is made of its codes in each forward pass; gradients go through it and never to it.

    Args:
        base: The layer to adapt; its weight is read and not kept.
        r: Rank of the change.
        alpha: The change is ``alpha / r * B @ A``.
        block_size: Weights that share a scale.
        compute_dtype: In which products are computed; the result has the dtype of the input.
        dropout: Share of inputs of A set to zero in training.

    Shapes:
        x ``(..., I)`` -> ``(..., O)``.

    Raises:
        TypeError: If ``base`` is no linear layer.
        ValueError: As ``LoRALinear`` and ``quantize_nf4``.

    Examples:
        >>> layer = QLoRALinear(nn.Linear(256, 128), r=4)
        >>> layer(torch.randn(2, 256)).shape, sum(p.numel() for p in layer.parameters() if p.requires_grad)
        (torch.Size([2, 128]), 1536)
    """

    def __init__(
        self,
        base: nn.Linear,
        r: int = 8,
        alpha: float = 16.0,
        *,
        block_size: int = 64,
        compute_dtype: torch.dtype = torch.bfloat16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(base, r, alpha, dropout=dropout)
        self.in_features, self.compute_dtype = base.in_features, compute_dtype
        self.weight = quantize_nf4(base.weight, block_size)
        self.register_buffer("bias", None if base.bias is None else base.bias.detach().clone())
        del self.base

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.in_features)
        wide = x.to(self.compute_dtype)
        weight, A, B = (t.to(self.compute_dtype) for t in (self.weight.dequantize(), self.A, self.B))
        bias = None if self.bias is None else self.bias.to(self.compute_dtype)
        change = F.dropout(wide, self.dropout, self.training) @ A.T @ B.T
        return (F.linear(wide, weight, bias) + self.scaling * change).to(x.dtype)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """Makes a plain layer in float32 with the change in it; rounding that to 4 bits again changes it once more."""
        weight = self.weight.dequantize() + self.change().float()
        merged = nn.Linear(weight.shape[1], weight.shape[0], bias=self.bias is not None, device=weight.device)
        merged.weight.copy_(weight)
        if self.bias is not None:
            merged.bias.copy_(self.bias)
        return merged

    def unmerge(self) -> QLoRALinear:
        """Nothing to do: merging makes another layer and leaves this one."""
        return self
