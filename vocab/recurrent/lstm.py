"""LSTM: a recurrent cell with a second state that is added to, and gates that say what is kept, written and shown.

Source: Hochreiter and Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735; forget gate: Gers et al. 2000,
doi:10.1162/089976600300015015; order of gates and parameter names as in torch.nn.LSTM.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.activations.sigmoid import sigmoid
from vocab.activations.tanh import tanh
from vocab.recurrent.rnn import RecurrentLayers, State

__all__ = ["LSTM"]

# B batch, T time, I input width, H hidden width, L layers, times two if bidirectional


class LSTM(RecurrentLayers):
    """Recurrent layers with the cell ``c = f * c + i * g``, ``h = o * tanh(c)``.

    The gates i, f, o are sigmoids and the candidate g is a tanh of ``W_ih x + b_ih + W_hh h + b_hh``; the weights hold
    the rows of i, f, g, o in this order.

    Args:
        input_size: Width I of the input.
        hidden_size: Width H of the states.
        num_layers: Layers.
        bias: Whether there are biases.
        batch_first: Whether ``x`` is ``(B, T, I)``; PyTorch's default is the other.
        dropout: Between layers.
        bidirectional: Whether each layer also runs from the end.
        forget_bias: What the forget gate's biases add up to at the start; PyTorch's is about 0.

    Shapes:
        x ``(B, T, I)``, state ``(h, c)`` of ``(L, B, H)`` each, or None -> y ``(B, T, H)``, 2 H if bidirectional, and
        the last ``(h, c)``.

    Raises:
        ValueError: If a setting cannot be, or a shape or length does not fit.

    Examples:
        >>> lstm = LSTM(4, 8)
        >>> y, (h, c) = lstm(torch.randn(2, 6, 4))
        >>> y.shape, torch.equal(y[:, -1], h[0]), c.shape
        (torch.Size([2, 6, 8]), True, torch.Size([1, 2, 8]))
    """

    gates = 4
    states = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        forget_bias: float = 1.0,
    ) -> None:
        settings = dict(bias=bias, batch_first=batch_first, dropout=dropout, bidirectional=bidirectional)
        super().__init__(input_size, hidden_size, num_layers, **settings)
        if bias:
            with torch.no_grad():  # two biases are added: setting both would open the gate twice as far
                for suffix in self.suffixes:
                    getattr(self, "bias_ih" + suffix)[hidden_size : 2 * hidden_size] = forget_bias
                    getattr(self, "bias_hh" + suffix)[hidden_size : 2 * hidden_size] = 0

    def forward(
        self,
        x: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        *,
        lengths: Tensor | None = None,
        truncate: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Runs all layers over a batch of sequences.

        Args:
            x: ``(B, T, I)``, or ``(T, B, I)`` without ``batch_first``.
            state: ``h`` and ``c``, each ``(L, B, H)``; zero if not given.
            lengths: ``(B,)``, the true lengths of padded sequences.
            truncate: Gradients pass at most this many steps.

        Returns:
            The outputs of the last layer and the last ``(h, c)``.
        """
        if state is not None and len(state) != 2:
            raise ValueError(f"state has {len(state)} parts; expected two, h and c")
        y, (h_n, c_n) = self.run(x, state, ("state[0]", "state[1]"), lengths, truncate)
        return y, (h_n, c_n)

    def cell(self, x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        h, c = state
        i, f, g, o = (x + F.linear(h, weight, bias)).chunk(4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(c), c
