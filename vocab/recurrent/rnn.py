"""Vanilla recurrent network, and what all recurrent layers here share: running a cell over time.

Source: Elman 1990, doi:10.1207/s15516709cog1402_1; layout, parameter names and starting values as in torch.nn.RNN;
truncated backpropagation: Williams and Peng 1990, doi:10.1162/neco.1990.2.4.490.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.activations.relu import relu
from vocab.activations.tanh import tanh
from vocab.check import expect

__all__ = ["RNN", "RecurrentLayers", "unroll"]

# B batch, T time, I input width, H hidden width, G gates of a cell, L layers, times two if they run both ways

State = tuple[Tensor, ...]

_NONLINEARITIES = {"tanh": tanh, "relu": relu, "identity": lambda x: x}


def unroll(
    step: Callable[[Tensor, State], State],
    inputs: Tensor,
    state: State,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    truncate: int | None = None,
) -> tuple[Tensor, State]:
    """Runs a cell over time, for sequences of different lengths, in either direction.

    Args:
        step: The cell: takes the input of one time ``(B, ...)`` and the state, gives the new state, whose first part is
            the output.
        inputs: ``(B, T, ...)``.
        state: What the cell starts from; tensors ``(B, ...)``.
        lengths: ``(B,)``; beyond its length a sequence keeps its state, and its outputs are zero. None: all are T long.
        reverse: Whether time runs from the last step to the first. Padding then comes first and leaves no trace.
        truncate: Gradients pass at most this many steps: the state is detached after every so many. None: all.

    Returns:
        The outputs ``(B, T, ...)`` and the state after the last step of each sequence.

    Raises:
        ValueError: If there is no time step, a length is not from 1 to T, or ``truncate`` is below 1.

    Examples:
        >>> add = lambda x, state: (state[0] + x,)
        >>> y, (last,) = unroll(add, torch.ones(2, 3, 1), (torch.zeros(2, 1),), lengths=torch.tensor([3, 1]))
        >>> y[..., 0].tolist(), last[:, 0].tolist()
        ([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]], [3.0, 1.0])
    """
    time = inputs.shape[1]
    if time < 1:
        raise ValueError(f"inputs has shape {tuple(inputs.shape)}: there is no time step")
    if truncate is not None and truncate < 1:
        raise ValueError(f"truncate={truncate} is below 1; None lets gradients pass all steps")
    if lengths is not None:
        expect("lengths", lengths, "batch", dtype="int", batch=len(inputs))
        if not torch.compiler.is_compiling() and ((lengths < 1) | (lengths > time)).any():
            raise ValueError(f"lengths={lengths.tolist()} holds a number that is not from 1 to {time}, the number of steps")
    outputs: list[Tensor] = []
    for count in range(time):
        t = time - 1 - count if reverse else count
        if truncate is not None and count % truncate == 0 and count:
            state = tuple(part.detach() for part in state)
        new = step(inputs[:, t], state)
        output = new[0]
        if lengths is not None:
            within = t < lengths
            new = tuple(_where(within, after, before) for after, before in zip(new, state))
            output = _where(within, output, torch.zeros_like(output))
        state = new
        outputs.append(output)
    return torch.stack(outputs[::-1] if reverse else outputs, 1), state


def _where(within: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(within.view(-1, *[1] * (yes.ndim - 1)), yes, no)


class RecurrentLayers(nn.Module):
    """Stacked recurrent layers; a subclass says what the cell does.

    Parameters have the names and shapes of PyTorch's recurrent modules, so their state dicts fit.

    Args:
        input_size: Width I of the input.
        hidden_size: Width H of the state and of the output of one direction.
        num_layers: Layers; each reads the outputs of the one before.
        bias: Whether there are the two biases ``bias_ih`` and ``bias_hh``.
        batch_first: Whether ``x`` is ``(B, T, I)``; otherwise ``(T, B, I)``.
        dropout: Share of outputs set to zero between layers, in training; not along time, and not after the last.
        bidirectional: Whether each layer also runs from the end; outputs are put side by side.

    Examples:
        >>> class Sum(RecurrentLayers):
        ...     def cell(self, x, state, weight, bias):
        ...         return (state[0] + x,)
        >>> Sum(2, 3)(torch.zeros(1, 4, 2))[0].shape
        torch.Size([1, 4, 3])
    """

    gates = 1  # how many times H rows each weight has
    states = 1  # how many tensors make up the state

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
    ) -> None:
        super().__init__()
        for name, size in dict(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers).items():
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout} is not from 0 to below 1")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.batch_first, self.dropout, self.directions = batch_first, dropout, 1 + bidirectional
        self.suffixes = [f"_l{layer}{'_reverse' * way}" for layer in range(num_layers) for way in range(self.directions)]
        bound, rows = hidden_size**-0.5, self.gates * hidden_size
        for i, suffix in enumerate(self.suffixes):
            inputs = input_size if i < self.directions else hidden_size * self.directions
            shapes = dict(weight_ih=(rows, inputs), weight_hh=(rows, hidden_size), bias_ih=(rows,), bias_hh=(rows,))
            for name, shape in shapes.items():
                made = nn.Parameter(torch.empty(shape).uniform_(-bound, bound)) if bias or "weight" in name else None
                self.register_parameter(name + suffix, made)

    def cell(self, x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        """One step of one layer.

        Args:
            x: ``(B, G H)``, the input of this step, already mapped by ``weight_ih`` and ``bias_ih``.
            state: Tensors ``(B, H)``.
            weight: ``weight_hh``.
            bias: ``bias_hh``.
        """
        raise NotImplementedError

    def forward(
        self, x: Tensor, h0: Tensor | None = None, *, lengths: Tensor | None = None, truncate: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Runs all layers over a batch of sequences.

        Args:
            x: ``(B, T, I)``, or ``(T, B, I)`` without ``batch_first``.
            h0: ``(L, B, H)``; zero if not given.
            lengths: ``(B,)``, the true lengths of padded sequences.
            truncate: Gradients pass at most this many steps.

        Returns:
            The outputs of the last layer, like ``x`` with H numbers (2 H for both directions), and the last states
            ``(L, B, H)``.

        Raises:
            ValueError: If a shape or length does not fit.
        """
        y, (h_n,) = self.run(x, None if h0 is None else (h0,), ("h0",), lengths, truncate)
        return y, h_n

    def run(
        self, x: Tensor, start: State | None, names: tuple[str, ...], lengths: Tensor | None, truncate: int | None
    ) -> tuple[Tensor, State]:
        """The same for any number of state tensors, each ``(L, B, H)``.

        Args:
            x: The input.
            start: The first states.
            names: What to call them in messages.
            lengths: As in ``forward``.
            truncate: As in ``forward``.
        """
        expect("x", x, "batch time input_size" if self.batch_first else "time batch input_size", input_size=self.input_size)
        y_BTI = x if self.batch_first else x.transpose(0, 1)
        sizes = dict(layers=len(self.suffixes), batch=len(y_BTI), hidden_size=self.hidden_size)
        if start is None:
            start = (y_BTI.new_zeros(tuple(sizes.values())),) * self.states
        for name, part in zip(names, start):
            expect(name, part, "layers batch hidden_size", **sizes)
        last: list[State] = []
        for first in range(0, len(self.suffixes), self.directions):
            ways = []
            for i in range(first, first + self.directions):
                w_ih, w_hh, b_ih, b_hh = (
                    getattr(self, name + self.suffixes[i]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                )
                y, state = unroll(
                    lambda x_t, state: self.cell(x_t, state, w_hh, b_hh),  # noqa: B023, called before the loop goes on
                    F.linear(y_BTI, w_ih, b_ih),  # all steps at once: nothing here depends on the state
                    tuple(part[i] for part in start),
                    lengths=lengths,
                    reverse=i > first,
                    truncate=truncate,
                )
                ways.append(y)
                last.append(state)
            y_BTI = torch.cat(ways, -1)
            if first + self.directions < len(self.suffixes):
                y_BTI = F.dropout(y_BTI, self.dropout, self.training)
        y = y_BTI if self.batch_first else y_BTI.transpose(0, 1)
        return y, tuple(torch.stack(parts) for parts in zip(*last))


class RNN(RecurrentLayers):
    """Recurrent layers with the cell ``h = f(W_ih x + b_ih + W_hh h + b_hh)``.

    Args:
        input_size: Width I of the input.
        hidden_size: Width H of the state.
        num_layers: Layers.
        nonlinearity: ``f``: ``"tanh"``, ``"relu"``, or ``"identity"`` for looking at what the weights alone do.
        bias: Whether there are biases.
        batch_first: Whether ``x`` is ``(B, T, I)``; PyTorch's default is the other.
        dropout: Between layers.

    Shapes:
        x ``(B, T, I)``, h0 ``(L, B, H)`` or None -> y ``(B, T, H)`` and h_n ``(L, B, H)``.

    Raises:
        ValueError: If a setting cannot be, or a shape or length does not fit.

    Examples:
        >>> rnn, x = RNN(4, 8), torch.randn(2, 6, 4)
        >>> y, h = rnn(x[:, :3])
        >>> rest, _ = rnn(x[:, 3:], h)
        >>> torch.allclose(torch.cat([y, rest], 1), rnn(x)[0], atol=1e-6)
        True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(f"nonlinearity={nonlinearity!r} is none of {', '.join(_NONLINEARITIES)}")
        super().__init__(input_size, hidden_size, num_layers, bias=bias, batch_first=batch_first, dropout=dropout)
        self.nonlinearity = _NONLINEARITIES[nonlinearity]

    def cell(self, x: Tensor, state: State, weight: Tensor, bias: Tensor | None) -> State:
        return (self.nonlinearity(x + F.linear(state[0], weight, bias)),)
