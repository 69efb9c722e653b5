"""Bidirectional recurrent network: one network reads from the start, another from the end.

Source: Schuster and Paliwal 1997, doi:10.1109/78.650093, section III.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["Bidirectional", "reverse_within"]

# B batch, T time, I input width, H hidden width


class Bidirectional(nn.Module):
    """Runs two causal sequence layers over the input, one of them backwards, and joins their outputs step by step.

    Args:
        cell_factory: Makes a layer from input and hidden size: ``RNN``, ``LSTM``, ``GRU``, or anything that takes
            ``(B, T, I)`` and returns ``(B, T, H)``, or a tuple that begins with it, and does not look ahead.
        input_size: Width I of the input.
        hidden_size: Width H of one direction.
        merge: ``"concat"`` puts both side by side, the forward one first; ``"sum"`` adds them.
        num_layers: Such pairs on top of each other; each sees both directions of the one below.

    Shapes:
        x ``(B, T, I)``, lengths ``(B,)`` or None -> ``(B, T, 2 H)``, or ``(B, T, H)`` for the sum. Beyond its length a
        sequence's outputs are zero.

    Raises:
        ValueError: If ``merge`` is another word, a size is below 1, or a shape or length does not fit.

    Examples:
        >>> from vocab.recurrent.lstm import LSTM
        >>> both = Bidirectional(LSTM, input_size=4, hidden_size=8)
        >>> both(torch.randn(2, 6, 4), lengths=torch.tensor([6, 3])).shape
        torch.Size([2, 6, 16])
    """

    def __init__(
        self,
        cell_factory: Callable[[int, int], nn.Module],
        input_size: int,
        hidden_size: int,
        *,
        merge: str = "concat",
        num_layers: int = 1,
    ) -> None:
        super().__init__()
        if merge not in ("concat", "sum"):
            raise ValueError(f"merge={merge!r} is neither 'concat' nor 'sum'")
        if num_layers < 1:
            raise ValueError(f"num_layers={num_layers} is below 1")
        self.input_size, self.merge = input_size, merge
        width = 2 * hidden_size if merge == "concat" else hidden_size
        sizes = [input_size] + [width] * (num_layers - 1)
        self.ahead = nn.ModuleList(cell_factory(size, hidden_size) for size in sizes)
        self.back = nn.ModuleList(cell_factory(size, hidden_size) for size in sizes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        expect("x", x, "batch time input_size", input_size=self.input_size)
        _check_lengths(x, lengths)
        for ahead, back in zip(self.ahead, self.back):
            first = _output(ahead(x))
            second = reverse_within(_output(back(reverse_within(x, lengths))), lengths)
            x = torch.cat([first, second], -1) if self.merge == "concat" else first + second
            if lengths is not None:
                x = torch.where(_within(x, lengths)[..., None], x, 0)
        return x


def reverse_within(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Reverses each sequence within its own length; padding stays where it is.

    A plain flip would put the padding first, and a network that reads it would start from what it made of padding.

    Args:
        x: ``(B, T, ...)``.
        lengths: ``(B,)``, from 0 to T; None: all are T long.

    Raises:
        ValueError: If lengths do not fit.

    Examples:
        >>> x = torch.tensor([[[1.0], [2.0], [3.0], [0.0]]])
        >>> reverse_within(x, torch.tensor([3])).flatten()
        tensor([3., 2., 1., 0.])
    """
    _check_lengths(x, lengths)
    if lengths is None:
        return x.flip(1)
    t = torch.arange(x.shape[1], device=x.device)
    source_BT = torch.where(_within(x, lengths), lengths[:, None] - 1 - t, t)
    return x[torch.arange(len(x), device=x.device)[:, None], source_BT]


def _within(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device) < lengths[:, None]


def _check_lengths(x: Tensor, lengths: Tensor | None) -> None:
    if lengths is None:
        return
    expect("lengths", lengths, "batch", dtype="int", batch=len(x))
    if not torch.compiler.is_compiling() and ((lengths < 0) | (lengths > x.shape[1])).any():
        raise ValueError(f"lengths={lengths.tolist()} holds a number that is not from 0 to {x.shape[1]}, the number of steps")


def _output(result: Tensor | tuple) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]
