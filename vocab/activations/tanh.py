"""Tanh: squeezes any number between -1 and 1, odd and with slope 1 at 0.

Source: LeCun et al. 1998, doi:10.1007/3-540-49430-8_2, section 4.4, also for the scaled version.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Tanh", "lecun_tanh", "tanh"]


def tanh(x: Tensor) -> Tensor:
    """Computes (exp(x) - exp(-x)) / (exp(x) + exp(-x)) for each element without overflow and without cancellation.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, between -1 and 1.

    Examples:
        >>> tanh(torch.tensor([-1000.0, 0.0, 1.0]))
        tensor([-1.0000,  0.0000,  0.7616])
    """
    expect("x", x, "...")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    positive = wide >= 0
    # With t = exp(-2|x|) - 1, which expm1 gives to the last digit also near 0, tanh|x| is -t / (t + 2).
    t = torch.expm1(2 * torch.where(positive, -wide, wide))
    return (torch.where(positive, -t, t) / (t + 2)).to(x.dtype)


def lecun_tanh(x: Tensor) -> Tensor:
    """Scales tanh so that 1 stays 1 and -1 stays -1, for targets and inputs of unit size.

    Args:
        x: Any shape.

    Shapes:
        x ``(...)`` -> ``(...)``, between -1.7159 and 1.7159.

    Examples:
        >>> lecun_tanh(torch.tensor([0.0, 1.0, 100.0]))
        tensor([0.0000, 1.0000, 1.7159])
    """
    expect("x", x, "...")
    return 1.7159 * tanh(2 / 3 * x)


class Tanh(nn.Module):
    """The function ``tanh`` as a layer without parameters.

    Shapes:
        x ``(...)`` -> ``(...)``, between -1 and 1.

    Examples:
        >>> Tanh()(torch.tensor([0.5]))
        tensor([0.4621])
    """

    def forward(self, x: Tensor) -> Tensor:
        return tanh(x)
