"""Squeeze-and-excitation: every channel is multiplied by a gate that the means of all channels decide.

Source: Hu et al. 2018, arXiv:1709.01507, section 3, equations 2 to 4.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["SqueezeExcitation"]

# B batch, C channels, H height, W width

_GATES = {"sigmoid": F.sigmoid, "hardsigmoid": F.hardsigmoid}
_ACTIVATIONS = {"relu": F.relu, "silu": F.silu}


class SqueezeExcitation(nn.Module):
    """Scales channels: ``x * gate(expand(activation(reduce(mean of x over space))))``.

    Args:
        channels: Channels C of input and output.
        reduction: How many times fewer numbers there are in between, but at least 8 of them (or C, if that is less).
        hidden_channels: That number itself, in place of ``reduction``.
        gate: ``"sigmoid"``, or ``"hardsigmoid"`` for quantized networks.
        activation: In between: ``"relu"``, or ``"silu"`` as in EfficientNet.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, H, W)``.

    Raises:
        ValueError: If a size is below 1, ``gate`` or ``activation`` is another word, or ``x`` has other channels.

    Examples:
        >>> import torch
        >>> SqueezeExcitation(256).reduce.weight.shape, SqueezeExcitation(32).reduce.weight.shape
        (torch.Size([16, 256]), torch.Size([8, 32]))
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        *,
        hidden_channels: int | None = None,
        gate: str = "sigmoid",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        for name, value in [("channels", channels), ("reduction", reduction)]:
            if value < 1:
                raise ValueError(f"{name}={value} is below 1")
        if gate not in _GATES:
            raise ValueError(f"gate={gate!r} is not 'sigmoid' or 'hardsigmoid'")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not 'relu' or 'silu'")
        if hidden_channels is None:
            hidden_channels = max(channels // reduction, min(8, channels))
        if hidden_channels < 1:
            raise ValueError(f"hidden_channels={hidden_channels} is below 1")
        self.channels, self.gate, self.activation = channels, gate, activation
        self.reduce = nn.Linear(channels, hidden_channels)
        self.expand = nn.Linear(hidden_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch channels height width", channels=self.channels)
        hidden = _ACTIVATIONS[self.activation](self.reduce(x.mean((2, 3))))
        return x * _GATES[self.gate](self.expand(hidden))[..., None, None]
