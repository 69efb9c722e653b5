"""Patch embedding: an image is cut into squares, and one linear map turns each into a token.

Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1, equation 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.convolution.conv1d import per_axis, unfold
from vocab.convolution.conv2d import Conv2d

__all__ = ["PatchEmbedding", "patchify", "unpatchify"]

# B batch, C channels, H height, W width, p side of a patch, R and S rows and columns of patches, N = R·S patches, D token width


class PatchEmbedding(nn.Module):
    """Turns an image into a row of tokens, one for each patch, from left to right and then from top to bottom.

    Args:
        img_size: Height and width of the images, or one number for both. None allows every multiple of ``patch_size``.
        patch_size: Side p of a patch.
        in_channels: Channels C.
        embed_dim: Width D of a token.
        cls_token: Whether a trained vector comes before the patches, for a model that reads its answer there.
        flatten: Whether the result is a row of tokens; otherwise it is a map.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, N, D)`` with ``N = H W / p²``, one more with ``cls_token``; ``(B, D, H / p, W / p)`` as a map.

    Raises:
        ValueError: If the image or ``img_size`` is no multiple of ``patch_size``, the image has another size or other
            channels, or a class token is asked for in a map.

    Examples:
        >>> embed = PatchEmbedding()
        >>> embed(torch.zeros(1, 3, 224, 224)).shape, sum(p.numel() for p in embed.parameters())
        (torch.Size([1, 196, 768]), 590592)
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] | None = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        embed_dim: int = 768,
        *,
        cls_token: bool = False,
        flatten: bool = True,
    ) -> None:
        super().__init__()
        if cls_token and not flatten:
            raise ValueError("cls_token=True with flatten=False: a map has no place for a further token")
        self.proj = Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)  # windows that touch and do not overlap
        self.patch_size, self.flatten = patch_size, flatten
        self.img_size = None if img_size is None else per_axis("img_size", img_size, 2)
        if self.img_size:
            _grid("img_size", *self.img_size, patch_size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim) * 0.02) if cls_token else None

    def forward(self, x: Tensor) -> Tensor:
        sizes = dict(zip(("height", "width"), self.img_size or ()))
        expect("x", x, "batch in_channels height width", in_channels=self.proj.in_channels, **sizes)
        _grid("x", *x.shape[2:], self.patch_size)
        map_BDRS = self.proj(x)
        if not self.flatten:
            return map_BDRS
        tokens_BND = map_BDRS.flatten(2).mT
        if self.cls_token is None:
            return tokens_BND
        return torch.cat([self.cls_token.expand(len(x), -1, -1), tokens_BND], 1)


def patchify(x: Tensor, p: int) -> Tensor:
    """Cuts images into patches and writes each out as a row: channel by channel, and in a channel line by line.

    This is the order of a convolution's kernel, so ``patchify(x, p) @ proj.weight.flatten(1).T`` is the embedding.

    Args:
        x: Images, ``(B, C, H, W)``.
        p: Side of a patch.

    Returns:
        ``(B, N, C p²)``.

    Raises:
        ValueError: If H or W is no multiple of ``p``.

    Examples:
        >>> patchify(torch.arange(16.0).view(1, 1, 4, 4), 2)[0, 1]  # the upper right patch
        tensor([2., 3., 6., 7.])
    """
    expect("x", x, "batch channels height width")
    _grid("x", *x.shape[2:], p)
    return unfold(x, (p, p), p).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, p: int, size: tuple[int, int]) -> Tensor:
    """Puts the patches of ``patchify`` back together.

    Args:
        patches: ``(B, N, C p²)``.
        p: Side of a patch.
        size: Height H and width W of the image: N patches may lie in several ways.

    Returns:
        ``(B, C, H, W)``.

    Raises:
        ValueError: If the patches do not fill such an image.

    Examples:
        >>> x = torch.randn(2, 3, 4, 6)
        >>> torch.equal(unpatchify(patchify(x, 2), 2, (4, 6)), x)
        True
    """
    R, S = _grid("size", *size, p)
    expect("patches", patches, "batch patches numbers_of_a_patch", patches=R * S)
    if patches.shape[2] % p**2:
        raise ValueError(f"patches has rows of {patches.shape[2]} numbers, which is no multiple of p² = {p**2}")
    return patches.unflatten(2, (-1, p, p)).unflatten(1, (R, S)).permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def _grid(name: str, height: int, width: int, p: int) -> tuple[int, int]:
    if p < 1:
        raise ValueError(f"p={p} is below 1")
    if height % p or width % p:
        raise ValueError(
            f"{name} is {height} by {width}, no multiple of the patch size {p}: "
            f"{height % p} rows and {width % p} columns would be left over; pad or crop it first"
        )
    return height // p, width // p
