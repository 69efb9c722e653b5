"""Perceptual loss: images compared by the features that a frozen network makes of them, and by their style.

Source: Johnson et al. 2016, arXiv:1603.08155, equations 2 to 4; unit-length features with weights per channel, Zhang et al. 2018,
arXiv:1801.03924, section 3; the Gram matrix, Gatys et al. 2015, arXiv:1508.06576.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, same_shape, widen

__all__ = ["PerceptualLoss", "gram", "unit_length"]

# B images, C channels, H x W positions of a feature map


class PerceptualLoss(nn.Module):
    """Squared difference of the features that a frozen network makes of two images, plus that of their styles.

    Of each layer, the mean squared difference over channels and positions, plus ``style_weight`` times the squared difference of the Gram
    matrices, summed over its entries. The network is copied, frozen, kept in eval mode and freed of in-place operations; yours is left as
    it is. Features of 16 bits are widened to 32.

    Args:
        feature_net: An ``nn.Sequential`` (like ``vgg16().features``), or a module that returns a mapping or a sequence of feature maps.
        layers: Which feature maps: names or numbers of the children of an ``nn.Sequential``, otherwise keys into what the module returns.
        weights: One number per layer, or one tensor ``(C,)`` per layer of factors for its channels; 1 by default. 0 or more.
        style_weight: Factor of the style part. With 0 the Gram matrices are not made.
        feature_weight: Factor of the feature part.
        unit_channels: Scale the features of each position to length 1 and *sum* over channels, as LPIPS does.
        mean: What is subtracted from each channel of the images first; (0.485, 0.456, 0.406) for networks trained on ImageNet, images 0 to 1.
        std: What they are then divided by; (0.229, 0.224, 0.225) there.
        reduction: ``"mean"`` over images (0 for none), ``"sum"``, or ``"none"``.

    Shapes:
        x ``(B, C, H, W)``, y ``(B, C, H, W)`` -> a scalar, or ``(B,)`` without reduction.

    Raises:
        ValueError: If a layer is not there, a number of weights does not fit, an option is out of range, or shapes differ.

    Examples:
        >>> edges = nn.Sequential(nn.Conv2d(1, 1, (1, 2), bias=False))
        >>> _ = edges[0].weight.data.copy_(torch.tensor([[[[-1.0, 1.0]]]]))
        >>> loss = PerceptualLoss(edges, layers=["0"])
        >>> x = torch.rand(1, 1, 4, 4)
        >>> loss(x, x + 0.5).item() < 1e-12  # brighter, but with the same edges
        True
    """

    def __init__(self, feature_net: nn.Module, layers: Sequence[str | int], weights: Sequence[float | Tensor] | None = None,
                 style_weight: float = 0.0, *, feature_weight: float = 1.0, unit_channels: bool = False,
                 mean: Sequence[float] | None = None, std: Sequence[float] | None = None, reduction: str = "mean") -> None:
        super().__init__()
        if not isinstance(feature_net, nn.Module):
            raise TypeError(f"feature_net is a {type(feature_net).__name__}; expected a torch.nn.Module")
        if isinstance(layers, (str, int)) or not len(layers):
            raise ValueError(f"layers={layers!r} is not a list of one layer or more")
        if isinstance(feature_net, nn.Sequential):
            layers, names = [str(layer) for layer in layers], [name for name, _ in feature_net.named_children()]
            for layer in layers:
                if layer not in names:
                    raise ValueError(f"layers names {layer!r}; feature_net has {', '.join(names)}")
        if weights is not None and len(weights) != len(layers):
            raise ValueError(f"weights has {len(weights)} entries for {len(layers)} layers")
        for name, value in (("style_weight", style_weight), ("feature_weight", feature_weight)):
            if not value >= 0:
                raise ValueError(f"{name}={value} is not 0 or more")
        if (mean is None) != (std is None) or (mean is not None and len(mean) != len(std)):
            raise ValueError(f"mean={mean} and std={std} are not one number per channel each, or both None")
        check_reduction(reduction)

        self.net = copy.deepcopy(feature_net).requires_grad_(False).eval()
        for module in self.net.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # would overwrite the feature map before it, which may be one of the layers
        self.layers, self.style_weight, self.feature_weight = list(layers), style_weight, feature_weight
        self.unit_channels, self.reduction = unit_channels, reduction
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, None if values is None else torch.tensor(values, dtype=torch.float64).view(-1, 1, 1), persistent=False)
        self.weights = [1.0] * len(layers) if weights is None else list(weights)
        for i, weight in enumerate(self.weights):
            if not torch.as_tensor(weight >= 0).all():
                raise ValueError(f"weights[{i}] holds a number below 0: the loss could be negative")
            if isinstance(weight, Tensor):
                expect(f"weights[{i}]", weight, "channels")
                if style_weight:
                    raise ValueError("weights of channels are for features alone; expected style_weight=0")
                self.register_buffer(f"weight_{i}", weight)
                self.weights[i] = None

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Sets the mode of this module, but not of its network: dropout or batch statistics would make the loss depend on chance."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        channels = {} if self.mean is None else {"channels": len(self.mean)}
        expect("x", x, "batch channels height width", **channels)
        expect("y", y, "batch channels height width", **channels)
        same_shape("y", y, "x", x)
        loss = widen(x).new_zeros(len(x))
        for i, (f_x, f_y) in enumerate(zip(self.features(x), self.features(y))):
            loss = loss + self.feature_weight * self._apart(i, f_x, f_y)
            if self.style_weight:
                loss = loss + self.style_weight * self.weights[i] * (gram(f_x) - gram(f_y)).square().sum((1, 2))
        return reduced(loss, self.reduction)

    def features(self, x: Tensor) -> list[Tensor]:
        """The feature maps of a batch of images, in the order of ``layers``.

        Args:
            x: The images.

        Shapes:
            x ``(B, C, H, W)`` -> for each layer ``(B, C', H', W')``.
        """
        if self.mean is not None:
            x = (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)
        if not isinstance(self.net, nn.Sequential):
            maps = self.net(x)
            if not isinstance(maps, (Mapping, list, tuple)):
                raise ValueError(f"feature_net returned a {type(maps).__name__}; expected a mapping or a sequence of feature maps")
            return [widen(maps[layer]) for layer in self.layers]
        maps = {}
        for name, module in self.net.named_children():
            x = module(x)
            if name in self.layers:
                maps[name] = x
            if len(maps) == len(set(self.layers)):
                break  # what comes after the last layer is not needed
        return [widen(maps[layer]) for layer in self.layers]

    def _apart(self, i: int, f_x: Tensor, f_y: Tensor) -> Tensor:
        """Distance of two feature maps of layer ``i``, one for each image."""
        if self.unit_channels:
            f_x, f_y = unit_length(f_x), unit_length(f_y)
        squared_BCHW = (f_x - f_y).square()
        weight = self.weights[i]
        if weight is None:
            weight = getattr(self, f"weight_{i}").to(f_x.dtype)
            if len(weight) != f_x.shape[1]:
                raise ValueError(f"weights[{i}] has {len(weight)} channels; layer {self.layers[i]!r} has {f_x.shape[1]}")
            weight = weight.view(-1, 1, 1)
        per_position = (weight * squared_BCHW).sum(1)
        if not self.unit_channels:
            per_position = per_position / f_x.shape[1]
        return per_position.mean((1, 2))


def gram(features: Tensor) -> Tensor:
    """How strongly each pair of channels occurs together, wherever that is: ``F F^T / (C H W)``.

    Args:
        features: Feature maps.

    Shapes:
        features ``(B, C, H, W)`` -> ``(B, C, C)``.

    Examples:
        >>> gram(torch.tensor([[[[1.0, 0.0]], [[1.0, 2.0]]]]))
        tensor([[[0.2500, 0.2500],
                 [0.2500, 1.2500]]])
    """
    expect("features", features, "batch channels height width")
    f_BCn = features.flatten(2)
    return f_BCn @ f_BCn.mT / (f_BCn.shape[1] * f_BCn.shape[2])


def unit_length(features: Tensor) -> Tensor:
    """Scales the channels of each position to length 1; a position with no response at all stays 0.

    Args:
        features: Feature maps.

    Shapes:
        features ``(B, C, H, W)`` -> ``(B, C, H, W)``.

    Examples:
        >>> unit_length(torch.tensor([[[[3.0]], [[4.0]]]])).flatten()
        tensor([0.6000, 0.8000])
    """
    # The constant is inside the root: outside it would protect the quotient, but not the root's slope at 0.
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + 1e-10)
