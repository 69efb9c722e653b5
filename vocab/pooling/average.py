"""Average pooling: the mean of every window.

Source: LeCun et al. 1998, doi:10.1109/5.726791, section II (subsampling).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.pooling.max import check_window, out_size, windows

__all__ = ["AvgPool2d"]

# B batch, C channels, H height, W width, k window, s stride, p padding


class AvgPool2d(nn.Module):
    """Takes the mean of every window.

    Args:
        kernel_size: Side k of the window.
        stride: Step s from window to window; ``kernel_size`` if not given.
        padding: Rows and columns of zeros on every side; at most half the window.
        ceil_mode: Whether a last window that sticks out is kept, as long as it starts inside.
        count_include_pad: Whether the zeros of the padding count in the mean; the default of PyTorch, and it darkens borders.
        divisor_override: What to divide sums by instead of the number of elements.

    Shapes:
        x ``(B, C, H, W)`` -> ``(B, C, H', W')`` with ``H' = (H + 2p - k) // s + 1``, rounded up with ``ceil_mode``.

    Raises:
        TypeError: If ``x`` is no floating-point tensor.
        ValueError: If a size is out of range or ``x`` is smaller than a window.

    Examples:
        >>> AvgPool2d(2)(torch.tensor([[1.0, 2.0, 0.0, 0.0], [5.0, 4.0, 0.0, -1.0]]).view(1, 1, 2, 4))
        tensor([[[[ 3.0000, -0.2500]]]])
    """

    def __init__(
        self,
        kernel_size: int,
        stride: int | None = None,
        padding: int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, kernel_size if stride is None else stride, padding
        self.ceil_mode, self.count_include_pad, self.divisor_override = ceil_mode, count_include_pad, divisor_override
        check_window(self.kernel_size, self.stride, padding)
        if divisor_override == 0:
            raise ValueError("divisor_override=0 would divide by zero")

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "batch channels height width")
        sums = windows(x, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode).sum((-2, -1))
        if self.divisor_override is not None:
            return sums / self.divisor_override
        rows, columns = (self._elements(n, x) for n in x.shape[2:])
        return sums / (rows[:, None] * columns)

    def _elements(self, n: int, x: Tensor) -> Tensor:
        """How many elements each window counts along a side of n."""
        out = out_size(n, self.kernel_size, self.stride, self.padding, ceil_mode=self.ceil_mode)
        first = torch.arange(out, device=x.device) * self.stride - self.padding
        # What ceil_mode adds behind the padding never counts; the padding itself does if asked for.
        pad = self.padding if self.count_include_pad else 0
        return ((first + self.kernel_size).clamp(max=n + pad) - first.clamp(min=-pad)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.kernel_size}, stride={self.stride}, padding={self.padding}, count_include_pad={self.count_include_pad}"
