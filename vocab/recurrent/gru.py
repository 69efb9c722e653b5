"""GRU: a recurrent cell whose one state is a mixture of what it was and of a new candidate.

Source: Cho et al. 2014, arXiv:1406.1078, equations 5 to 8 (reset before the product); reset after the product, order
of gates and parameter names as in torch.nn.GRU.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from vocab.activations.sigmoid import sigmoid
from vocab.activations.tanh import tanh
from vocab.recurrent.rnn import RecurrentLayers, State

__all__ = ["GRU"]

# B batch, T time, I input width, H hidden width, L layers


class GRU(RecurrentLayers):
    """Recurrent layers with the cell ``h = (1 - z) * n + z * h``.

    The weights hold the rows of the reset gate r, the update gate z and the candidate n in this order.

    Args:
        input_size: Width I of the input.
        hidden_size: Width H of the state.
        num_layers: Layers.
        bias: Whether there are biases.
        batch_first: Whether ``x`` is ``(B, T, I)``; PyTorch's default is the other.
        dropout: Between layers.
        reset_after: Where the reset gate acts: on ``W_hn h + b_hn`` (PyTorch), or, if false, on ``h`` before the
            product (the paper). Weights of one do not fit the other.

    Shapes:
        x ``(B, T, I)``, h0 ``(L, B, H)`` or None -> y ``(B, T, H)`` and h_n ``(L, B, H)``.

    Raises:
        ValueError: If a setting cannot be, or a shape or length does not fit.

    Examples:
        >>> import torch
        >>> y, h = GRU(4, 8)(torch.randn(2, 6, 4))
        >>> y.shape, torch.equal(y[:, -1], h[0])
        (torch.Size([2, 6, 8]), True)
    """

    gates = 3

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        reset_after: bool = True,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout)
        self.reset_after = reset_after

    def cell(self, x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        (h,), H = state, self.hidden_size
        x_rz, x_n = x.split((2 * H, H), -1)
        if self.reset_after:
            h_rz, h_n = F.linear(h, weight, bias).split((2 * H, H), -1)  # one product for all three
            r, z = sigmoid(x_rz + h_rz).chunk(2, -1)
            n = tanh(x_n + r * h_n)
        else:
            (w_rz, w_n), (b_rz, b_n) = weight.split((2 * H, H)), (None, None) if bias is None else bias.split((2 * H, H))
            r, z = sigmoid(x_rz + F.linear(h, w_rz, b_rz)).chunk(2, -1)
            n = tanh(x_n + F.linear(r * h, w_n, b_n))  # has to wait for r: a second product
        return ((1 - z) * n + z * h,)
