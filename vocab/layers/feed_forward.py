"""Position-wise feed-forward network: widen, bend, narrow, for each token by itself.

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.3, equation 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.activations.gelu import gelu
from vocab.activations.relu import relu
from vocab.activations.sigmoid import sigmoid
from vocab.activations.silu import silu
from vocab.activations.tanh import tanh
from vocab.check import expect
from vocab.layers.linear import Linear

__all__ = ["FeedForward", "activation_function"]

# B batch, T time, D model width, F hidden width


class FeedForward(nn.Module):
    """Two linear maps with a nonlinearity between: ``down(activation(up(x)))``.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F; ``4 * d_model`` if not given.
        activation: A name that ``activation_function`` knows.
        bias: Whether both maps have a bias.
        dropout: Share of hidden units set to zero in training.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a setting cannot be or ``x`` has another shape.

    Examples:
        >>> layer = FeedForward(d_model=8)
        >>> layer.up.weight.shape, layer(torch.zeros(1, 3, 8)).shape
        (torch.Size([32, 8]), torch.Size([1, 3, 8]))
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        activation: str = "gelu",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not from 0 to below 1")
        self.d_model, self.dropout, self.activation = d_model, dropout, activation_function(activation)
        d_ff = 4 * d_model if d_ff is None else d_ff
        self.up = Linear(d_model, d_ff, bias)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        hidden_BTF = self.activation(self.up(x))
        return self.down(F.dropout(hidden_BTF, self.dropout, self.training))


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": relu,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "silu": silu,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "identity": lambda x: x,
}


def activation_function(name: str) -> Callable[[Tensor], Tensor]:
    """Finds an elementwise function by its name.

    Args:
        name: ``"relu"``, ``"gelu"``, ``"gelu_tanh"``, ``"silu"``, ``"sigmoid"``, ``"tanh"`` or ``"identity"``.

    Raises:
        ValueError: If ``name`` is another word.

    Examples:
        >>> activation_function("relu")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation={name!r} is none of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]
