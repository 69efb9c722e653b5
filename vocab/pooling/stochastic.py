"""Stochastic pooling: one number of every window, drawn with a probability in proportion to its size.

Source: Zeiler and Fergus 2013, arXiv:1301.3557, equations 4 to 6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.pooling.max import check_window, windows

__all__ = ["StochasticPool2d"]

# B batch, C channels, H height, W width, k window, s stride


class StochasticPool2d(nn.Module):
    """Draws one activation per window in training, and takes its expected value in evaluation.

    An activation a is drawn with probability ``a / sum(a)``, so the expected value is ``sum(a**2) / sum(a)``. A window of zeros gives 0.

    Args:
        kernel_size: Side k of the window.
        stride: Step s from window to window; ``kernel_size`` if not given.

    Shapes:
        x ``(B, C, H, W)``, no number negative -> ``(B, C, H', W')`` with ``H' = (H - k) // s + 1``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If a size is out of range, ``x`` is smaller than a window, or holds a negative number (which is not looked for
            under ``torch.compile``).

    Examples:
        >>> StochasticPool2d(2).eval()(torch.tensor([1.0, 3.0, 0.0, 0.0]).view(1, 1, 2, 2))
        tensor([[[[2.5000]]]])
    """

    def __init__(self, kernel_size: int, stride: int | None = None) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        check_window(self.kernel_size, self.stride)

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pools ``x``.

        Args:
            x: Activations that are not negative, behind a ReLU for example.
            generator: Of the random draws; the global one if not given.
        """
        expect("x", x, "batch channels height width")
        if not torch.compiler.is_compiling() and (x < 0).any():
            raise ValueError(f"x holds {x.min().item():.3g}: a negative activation has no probability; put a ReLU before")
        a = windows(x, self.kernel_size, self.stride).flatten(-2)
        if not self.training:
            wide = a.to(torch.promote_types(a.dtype, torch.float32))
            total = wide.sum(-1)
            return (wide.square().sum(-1) / total.masked_fill(total == 0, 1.0)).to(x.dtype)
        # A race: divided by exponential waiting times, the largest is a draw in proportion to a. No sums, no rounding at their ends.
        waiting = torch.empty_like(a, memory_format=torch.contiguous_format).exponential_(generator=generator)
        winner = (a.detach() / waiting).argmax(-1, keepdim=True)
        return a.gather(-1, winner).squeeze(-1)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}"
