"""What tests, the sm_90 compile gate, the benchmark and the pages need to know of an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["Build", "Cost", "Spec"]

POINTER = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64"}


@dataclass(frozen=True)
class Build:
    """One stored configuration of one kernel, as the ahead-of-time compiler wants it.

    Attributes:
        kernel: The jit function's name in the operation's file.
        signature: Type of every argument that is no constant: ``"*bf16"``, ``"i32"``, ``"fp64"``.
        constants: Every ``tl.constexpr`` argument, and the pointers that are ``None``.
        num_warps: Warps a program.
        num_stages: Depth of the software pipeline.
        tensor_cores: ``"wgmma"`` or ``"mma"`` where its products must have become these tensor core instructions: Hopper's own, for
            tiles of 64 rows or more, or the older ones.
        multiples: Integer arguments that are multiples of 16 in the sizes this is for: Triton then reads several numbers at a time.
        given: Which optional argument is given, where blocks and flags do not tell two configurations apart.
        max_registers: What a thread may use, where the launch says it.
        at: Whether the launcher takes this configuration for given sizes.
    """

    kernel: str
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int = 4
    num_stages: int = 1
    tensor_cores: str = ""
    multiples: tuple[str, ...] = ()
    given: str = ""
    max_registers: int | None = None
    at: Callable[[Mapping[str, int]], bool] = field(default=lambda sizes: True, compare=False)


@dataclass(frozen=True)
class Cost:
    """What one call must move and compute at the least."""

    bytes: float
    flops: float


@dataclass(frozen=True)
class Spec:
    """An operation with a kernel.

    Attributes:
        name: The file's name.
        summary: One sentence.
        run: ``run(*inputs, backend=...)``, the public function on what ``inputs`` returns.
        inputs: ``inputs(sizes, dtype, device)`` makes random arguments; tensors that need gradients come with them.
        dtypes: Those the kernel takes.
        shapes: Benchmark sizes by label; one of them is small.
        tails: Test sizes: nothing is a multiple of a block, something is 1, something is 0.
        probe: A size with several programs and a remainder that is cheap enough to interpret many times.
        cost: ``cost(sizes, dtype, direction)`` for the directions below.
        directions: ``"forward"``, ``"backward"``.
        baselines: Other implementations of ``run`` by name; ``torch.compile`` of the reference is always measured.
        targets: The speed-ups aimed at, by baseline and label. Proposals, not measurements.
        builds: Every stored configuration.
        operators: The registered operators' names.
        gpu: Sizes for the GPU that together use every stored configuration; none fills its blocks.
        variants: Options of ``run`` that together reach every branch of the kernels.
        smooth: Whether rounding changes the results by little. Where a threshold or a tie decides, the operation's own tests judge
            what it computes in half precision.
    """

    name: str
    summary: str
    run: Callable[..., Any]
    inputs: Callable[..., tuple]
    dtypes: tuple[torch.dtype, ...]
    shapes: Mapping[str, Mapping[str, int]]
    tails: tuple[Mapping[str, int], ...]
    probe: Mapping[str, int]
    cost: Callable[..., Cost]
    directions: tuple[str, ...]
    baselines: Mapping[str, Callable[..., Any]]
    targets: Mapping[str, Mapping[str, float]]
    builds: tuple[Build, ...]
    operators: tuple[str, ...]
    gpu: tuple[Mapping[str, int], ...]
    variants: tuple[Mapping[str, Any], ...] = ({},)
    smooth: bool = True


def random(shape: tuple[int, ...], dtype: torch.dtype, device: str, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Normal numbers drawn in float32 on the CPU, so that every dtype and device sees the same ones."""
    return (torch.randn(shape) * scale + shift).to(device=device, dtype=dtype)
