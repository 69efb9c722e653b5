"""Global average pooling: one number per channel, the mean over all positions.

Source: Lin, Chen and Yan 2013, arXiv:1312.4400, section 3.2; class activation maps: Zhou et al. 2016, arXiv:1512.04150, equation 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["GlobalAvgPool2d", "class_activation_map", "masked_mean"]

# B batch, C channels, H height, W width, T tokens, D width of a token, K classes


class GlobalAvgPool2d(nn.Module):
    """Takes the mean of every channel over the whole image, whatever its size.

    Args:
        keepdim: Whether height and width stay, with size 1.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C)``, or ``(B, C, 1, 1)`` with ``keepdim``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If ``x`` has other dimensions or no pixels.

    Examples:
        >>> GlobalAvgPool2d()(torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2))
        tensor([[3.]])
    """

    def __init__(self, keepdim: bool = False) -> None:
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch channels height width")
        if 0 in x.shape[2:]:
            raise ValueError(f"x has shape {tuple(x.shape)}: there is no pixel to average")
        return x.mean((-2, -1), keepdim=self.keepdim)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the tokens that the mask keeps; the usual way from token vectors to a sentence vector.

    A row without any kept token gives zeros, not NaN: its sum is empty and is divided by one.

    Args:
        x: Tokens. What stands at masked places does not matter, NaN included.
        mask: True where a token counts, false at padding.

    Shapes:
        x ``(B, T, D)``, mask ``(B, T)`` -> ``(B, D)``.

    Raises:
        TypeError: If ``x`` is no floating-point or ``mask`` no boolean tensor.
        ValueError: If the shapes do not fit.

    Examples:
        >>> x = torch.tensor([[[1.0], [3.0], [100.0]]])
        >>> masked_mean(x, torch.tensor([[True, True, False]]))
        tensor([[2.]])
    """
    expect("x", x, "batch time width")
    expect("mask", mask, "batch time", dtype="bool", batch=x.shape[0], time=x.shape[1])
    total = x.masked_fill(~mask[..., None], 0.0).sum(1)  # multiplying by 0 instead would keep a NaN of the padding
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def class_activation_map(features: Tensor, fc_weight: Tensor, class_id: int) -> Tensor:
    """Where in the image the evidence for a class is: the classifier's weights applied at every position.

    Its mean is the logit of the class less the bias, since the mean of a weighted sum is the weighted sum of means.

    Args:
        features: The map in front of the global average.
        fc_weight: Weights of the linear classifier behind it.
        class_id: Which class.

    Shapes:
        features ``(C, H, W)``, fc_weight ``(K, C)`` -> ``(H, W)``.

    Raises:
        TypeError: If an argument is no floating-point tensor.
        ValueError: If the channels do not fit or there is no such class.

    Examples:
        >>> features = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
        >>> class_activation_map(features, torch.tensor([[1.0, 10.0]]), 0)
        tensor([[ 1., 20.]])
    """
    expect("features", features, "channels height width")
    expect("fc_weight", fc_weight, "classes channels", channels=features.shape[0])
    if not 0 <= class_id < fc_weight.shape[0]:
        raise ValueError(f"class_id={class_id} is not from 0 to {fc_weight.shape[0] - 1}")
    return torch.einsum("c,chw->hw", fc_weight[class_id], features)
