"""Max pooling: the largest number of every window.

Source: Scherer, Müller and Behnke 2010, doi:10.1007/978-3-642-15825-4_10, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["MaxPool2d", "check_window", "max_unpool2d", "out_size", "windows"]

# B batch, C channels, H height, W width, k window, s stride, p padding, r dilation


class MaxPool2d(nn.Module):
    """Takes the maximum of every window.

    Args:
        kernel_size: Side k of the window.
        stride: Step s from window to window; ``kernel_size`` if not given.
        padding: Rows and columns of minus infinity on every side; at most half the window.
        dilation: Distance r of the numbers that form a window.
        ceil_mode: Whether a last window that sticks out is kept, as long as it starts inside.
        return_indices: Whether to return too where each maximum was, as ``row * W + column``.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, H', W')`` with ``H' = (H + 2p - r (k - 1) - 1) // s + 1``, rounded up with ``ceil_mode``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If a size is out of range or ``x`` is smaller than a window.

    Examples:
        >>> MaxPool2d(2)(torch.tensor([[1.0, 2.0, 0.0, 0.0], [5.0, 3.0, 0.0, -1.0]]).view(1, 1, 2, 4))
        tensor([[[[5., 0.]]]])
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        dilation: int = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.dilation, self.ceil_mode, self.return_indices = dilation, ceil_mode, return_indices
        check_window(self.kernel_size, self.stride, padding, dilation)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        expect("x", x, "batch channels height width")
        settings = self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        values, winner = windows(x, *settings, fill=-torch.inf).flatten(-2).max(-1)  # the first one, where several are equal
        if not self.return_indices:
            return values
        rows = torch.arange(values.shape[2], device=x.device)[:, None] * self.stride + winner // self.kernel_size * self.dilation
        columns = torch.arange(values.shape[3], device=x.device) * self.stride + winner % self.kernel_size * self.dilation
        return values, (rows - self.padding) * x.shape[3] + columns - self.padding

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}"


def max_unpool2d(y: Tensor, indices: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Puts pooled numbers back where they came from; everything else is zero.

    Args:
        y: Pooled numbers.
        indices: Where each was, ``row * W + column``.
        output_size: Height H and width W of the result; pooling forgets odd sizes, so it must be said.

    Shapes:
        y and indices ``(B, C, H', W')`` -> ``(B, C, H, W)``.

    Raises:
        TypeError: If ``y`` is no floating-point or ``indices`` no integer tensor.
        ValueError: If the shapes differ or an index lies outside.

    Examples:
        >>> max_unpool2d(torch.tensor([[[[7.0]]]]), torch.tensor([[[[2]]]]), (2, 2)).view(2, 2)
        tensor([[0., 0.],
                [7., 0.]])
    """
    expect("y", y, "batch channels height width")
    expect("indices", indices, "batch channels height width", dtype="int", **dict(zip(("batch", "channels", "height", "width"), y.shape)))
    H, W = output_size
    if indices.numel() and not 0 <= indices.min() <= indices.max() < H * W:
        raise ValueError(f"indices go from {indices.min()} to {indices.max()}; output_size={(H, W)} has 0 to {H * W - 1}")
    flat = y.new_zeros(*y.shape[:2], H * W)
    return flat.scatter(2, indices.flatten(2), y.flatten(2)).unflatten(2, (H, W))


def windows(
    x: Tensor, kernel_size: int, stride: int, padding: int = 0, dilation: int = 1, ceil_mode: bool = False, *, fill: float = 0.0
) -> Tensor:
    """All windows of a map, as a view where nothing is padded: what every pooling of windows reduces.

    Args:
        x: Maps.
        kernel_size: Side k of a window.
        stride: Step s.
        padding: Rows and columns added on every side.
        dilation: Distance r of the numbers in a window.
        ceil_mode: Whether a last window that sticks out is kept.
        fill: What is added: minus infinity for a maximum, 0 for a sum.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, H', W', k, k)``.

    Examples:
        >>> windows(torch.arange(4.0).view(1, 1, 1, 4).expand(1, 1, 2, 4), 2, 2)[0, 0, 0, 1]
        tensor([[2., 3.],
                [2., 3.]])
    """
    span = dilation * (kernel_size - 1) + 1
    after = []
    for n in x.shape[2:]:
        out = out_size(n, kernel_size, stride, padding, dilation, ceil_mode)
        after.append(max(padding, (out - 1) * stride + span - n - padding))
    if padding or max(after):
        x = F.pad(x, (padding, after[1], padding, after[0]), value=fill)
    return x.unfold(2, span, stride).unfold(3, span, stride)[..., ::dilation, ::dilation]


def out_size(n: int, kernel_size: int, stride: int, padding: int = 0, dilation: int = 1, ceil_mode: bool = False) -> int:
    """How many windows fit along one side.

    Args:
        n: Size of the side.
        kernel_size: Side k of a window.
        stride: Step s.
        padding: What is added at both ends.
        dilation: Distance r of the numbers in a window.
        ceil_mode: Whether a last window that sticks out counts, as long as it does not start behind the end.

    Raises:
        ValueError: If not a single window fits.

    Examples:
        >>> out_size(7, 2, 2), out_size(7, 2, 2, ceil_mode=True)
        (3, 4)
    """
    room = n + 2 * padding - dilation * (kernel_size - 1) - 1
    if room < 0:
        raise ValueError(f"x has a side of {n}, with padding {n + 2 * padding}; a window spans {dilation * (kernel_size - 1) + 1}")
    out = (room + (stride - 1 if ceil_mode else 0)) // stride + 1
    return out - 1 if (out - 1) * stride >= n + padding else out


def check_window(kernel_size: int, stride: int, padding: int = 0, dilation: int = 1) -> None:
    """Raises ``ValueError`` for windows that cannot be.

    Args:
        kernel_size: Side of the window.
        stride: Step.
        padding: What is added on every side.
        dilation: Distance of the numbers in a window.

    Examples:
        >>> check_window(2, 2, padding=2)
        Traceback (most recent call last):
        ValueError: padding=2 is more than half of kernel_size=2: a window could lie in the padding alone
    """
    for name, value in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
        if value < 1:
            raise ValueError(f"{name}={value} is below 1")
    if padding < 0:
        raise ValueError(f"padding={padding} is negative")
    if padding > kernel_size // 2:
        raise ValueError(f"padding={padding} is more than half of kernel_size={kernel_size}: a window could lie in the padding alone")
