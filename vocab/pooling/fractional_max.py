"""Fractional max pooling: windows at random steps of one and two, so that a map shrinks by less than half.

Source: Graham 2014, arXiv:1412.6071, section 2; the sequence of starts is that of PyTorch (a pseudorandom one).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["FractionalMaxPool2d", "pooling_sequence"]

# B batch, C channels, H height, W width, oh and ow output height and width, k window


class FractionalMaxPool2d(nn.Module):
    """Takes maxima of windows that start at pseudorandom places; random in evaluation too, unless samples are fixed.

    Give exactly one of ``output_size`` and ``output_ratio``.

    Args:
        kernel_size: Side k of the window; 2 lets windows overlap in part.
        output_size: Height and width of the output; one number for both.
        output_ratio: Output size over input size, between 0 and 1; rounded down.
        random_samples: Numbers u from 0 to 1, ``(B, C, 2)``, for width and height of each map; drawn anew if not given.
        return_indices: Whether to return too where each maximum was, as ``row * W + column``.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, oh, ow)``.

    Raises:
        TypeError: If ``x`` or ``random_samples`` is no floating-point tensor.
        ValueError: If both or none of size and ratio are given, one is out of range, or a shape does not fit.

    Examples:
        >>> pool = FractionalMaxPool2d(2, output_ratio=0.7)
        >>> pool(torch.randn(1, 1, 20, 10)).shape
        torch.Size([1, 1, 14, 7])
    """

    def __init__(
        self,
        kernel_size: int = 2,
        *,
        output_size: int | tuple[int, int] | None = None,
        output_ratio: float | None = None,
        random_samples: Tensor | None = None,
        return_indices: bool = False,
    ) -> None:
        super().__init__()
        if kernel_size < 1:
            raise ValueError(f"kernel_size={kernel_size} is below 1")
        if (output_size is None) == (output_ratio is None):
            raise ValueError(f"output_size={output_size} and output_ratio={output_ratio}: give exactly one of them")
        if output_ratio is not None and not 0 < output_ratio < 1:
            raise ValueError(f"output_ratio={output_ratio} is not between 0 and 1")
        self.kernel_size, self.output_ratio, self.return_indices = kernel_size, output_ratio, return_indices
        self.output_size = (output_size, output_size) if isinstance(output_size, int) else output_size
        if random_samples is not None:
            expect("random_samples", random_samples, "batch channels axes", axes=2)
        self.register_buffer("random_samples", random_samples, persistent=False)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        expect("x", x, "batch channels height width")
        B, C, H, W = x.shape
        oh, ow = self.output_size or (int(H * self.output_ratio), int(W * self.output_ratio))
        u_BC2 = self.random_samples
        if u_BC2 is None:
            u_BC2 = torch.rand(B, C, 2, dtype=x.dtype, device=x.device)
        elif u_BC2.shape[:2] != (B, C):
            raise ValueError(f"random_samples has shape {tuple(u_BC2.shape)}; expected {(B, C, 2)} for x of shape {tuple(x.shape)}")
        window = torch.arange(self.kernel_size, device=x.device)
        rows = pooling_sequence(H, oh, self.kernel_size, u_BC2[..., 1])[..., None] + window
        columns = pooling_sequence(W, ow, self.kernel_size, u_BC2[..., 0])[..., None] + window
        index = (rows[:, :, :, None, :, None] * W + columns[:, :, None, :, None, :]).flatten(-2)
        values, winner = x.flatten(2).gather(2, index.flatten(2)).view(index.shape).max(-1)
        return (values, index.gather(-1, winner[..., None]).squeeze(-1)) if self.return_indices else values


def pooling_sequence(n_in: int, n_out: int, kernel_size: int, u: Tensor) -> Tensor:
    """Where windows start: ``floor((i + u) a) - floor(u a)`` with the mean step ``a = (n_in - k) / (n_out - 1)``.

    Args:
        n_in: Size of the input.
        n_out: Windows.
        kernel_size: Width k of a window.
        u: One number from 0 to 1 per sequence.

    Shapes:
        u ``(...)`` -> ``(..., n_out)``, integers from 0 to ``n_in - k``.

    Raises:
        TypeError: If ``u`` is no floating-point tensor.
        ValueError: If there are more windows than places for them, or none.

    Examples:
        >>> pooling_sequence(10, 6, 2, torch.tensor([0.0, 0.5]))
        tensor([[0, 1, 3, 4, 6, 8],
                [0, 2, 4, 5, 7, 8]])
    """
    expect("u", u, "...")
    last = n_in - kernel_size
    if not 1 <= n_out <= last + 1:
        raise ValueError(f"n_out={n_out} windows of kernel_size={kernel_size} have {last + 1} places in n_in={n_in}")
    if n_out == 1:
        return torch.full((*u.shape, 1), last, device=u.device)
    step = last / (n_out - 1)
    starts = ((torch.arange(n_out, device=u.device) + u[..., None]) * step).long() - (u[..., None] * step).long()
    starts[..., -1] = last  # exactly, where rounding might miss it
    return starts
