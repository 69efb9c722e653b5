"""Gated linear unit: one linear map of the input, multiplied by how far a second one opens a gate.

Source: Dauphin et al. 2017, arXiv:1612.08083, equation 1; as a feed-forward layer: Shazeer 2020, arXiv:2002.05202,
equations 5 and 6.
"""

from __future__ import annotations

from torch import Tensor, nn

from vocab.activations.sigmoid import sigmoid
from vocab.check import expect
from vocab.kernels.gated_unit import applies, fused
from vocab.layers.feed_forward import activation_function
from vocab.layers.linear import Linear

__all__ = ["GatedLinearUnit", "GatedFeedForward", "glu", "matched_width"]

# B batch, T time, D model width, F hidden width


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Multiplies the first half of a dimension by the sigmoid of its second half.

    Args:
        x: Values and, after them, as many gates.
        dim: The dimension that holds both.

    Shapes:
        x ``(..., 2 h, ...)`` -> ``(..., h, ...)``.

    Raises:
        ValueError: If the dimension's size is odd.

    Examples:
        >>> import torch
        >>> glu(torch.tensor([2.0, -3.0, 0.0, 100.0]))
        tensor([ 1., -3.])
    """
    expect("x", x, "...")
    if x.shape[dim] % 2:
        raise ValueError(f"x has size {x.shape[dim]} in dimension {dim}, which does not split into values and gates")
    value, gate = x.chunk(2, dim)
    return value * sigmoid(gate)


class GatedLinearUnit(nn.Module):
    """Linear layer whose outputs each have a gate: ``value(x) * activation(gate(x))``.

    Both maps are one matrix, so that a single product computes them; its first half of rows makes values, the
    second half gates.

    Args:
        in_features: Inputs.
        out_features: Outputs; the matrix has twice as many rows.
        activation: The function on the gate; a name that ``activation_function`` knows.
        bias: Whether values and gates have a bias.
        backend: ``"auto"``, ``"torch"`` or ``"triton"`` (one kernel for activation and product). The kernel has no ``"tanh"`` and
            no ``"identity"``.

    Shapes:
        x ``(..., in_features)`` -> ``(..., out_features)``.

    Raises:
        ValueError: If the activation is not known or ``x`` has another width.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> import torch
        >>> layer = GatedLinearUnit(4, 3)
        >>> layer.proj.weight.shape, layer(torch.zeros(2, 4)).shape
        (torch.Size([6, 4]), torch.Size([2, 3]))
    """

    def __init__(
        self, in_features: int, out_features: int, *, activation: str = "sigmoid", bias: bool = True, backend: str = "auto"
    ) -> None:
        super().__init__()
        self.activation = activation_function(activation)
        self.activation_name, self.backend = activation, backend
        self.proj = Linear(in_features, 2 * out_features, bias)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... in_features", in_features=self.proj.in_features)
        both = self.proj(x)
        if applies(both, self.activation_name, self.backend):
            return fused(both, order="up_gate", activation=self.activation_name, **self.constants())
        return self.combine(*both.chunk(2, -1))

    def combine(self, value: Tensor, gate: Tensor) -> Tensor:
        """What is made of the two maps; a variant of the unit replaces this.

        Args:
            value: What may pass.
            gate: How far, before the activation.
        """
        return value * self.activation(gate)

    def constants(self) -> dict[str, float]:
        """What the kernel must know of a variant besides its activation."""
        return {}


class GatedFeedForward(GatedLinearUnit):
    """Feed-forward layer of a Transformer with a gated hidden layer: ``down(up(x) * activation(gate(x)))``.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F; ``matched_width(d_model, multiple_of)`` if not given.
        activation: The function on the gate.
        multiple_of: What the hidden width is rounded up to, if it is not given.
        bias: Whether the maps have a bias.
        backend: See ``GatedLinearUnit``.

    Shapes:
        x ``(B, T, D)`` -> ``(B, T, D)``.

    Raises:
        ValueError: If a setting cannot be or ``x`` has another shape.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> sum(p.numel() for p in GatedFeedForward(d_model=48).parameters()) == 8 * 48**2
        True
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int | None = None,
        *,
        activation: str = "sigmoid",
        multiple_of: int = 1,
        bias: bool = False,
        backend: str = "auto",
    ) -> None:
        d_ff = matched_width(d_model, multiple_of) if d_ff is None else d_ff
        super().__init__(d_model, d_ff, activation=activation, bias=bias, backend=backend)
        self.down = Linear(d_ff, d_model, bias)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch time d_model", d_model=self.proj.in_features)
        return self.down(super().forward(x))


def matched_width(d_model: int, multiple_of: int = 1) -> int:
    """The hidden width at which three matrices have as many weights as two of width ``4 * d_model``.

    Args:
        d_model: Width of the layer's input and output.
        multiple_of: The result is rounded up to a multiple of it.

    Raises:
        ValueError: If ``multiple_of`` is below 1.

    Examples:
        >>> matched_width(4096), matched_width(4096, 256)
        (10922, 11008)
    """
    if multiple_of < 1:
        raise ValueError(f"multiple_of={multiple_of} is below 1")
    return -(-(8 * d_model // 3) // multiple_of) * multiple_of
