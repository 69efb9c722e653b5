"""Parameter-efficient fine-tuning: which parameters are trained, how many they are, and what memory that takes.

Source: He et al. 2022, arXiv:2110.04366 (the methods as one family); Ben Zaken et al. 2022, arXiv:2106.10199 (biases only);
memory per parameter: Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import nn

__all__ = ["count_parameters", "finetune_memory", "freeze_except"]


def freeze_except(model: nn.Module, patterns: Iterable[str]) -> list[str]:
    """Freezes a model but for the parameters whose names fit a pattern, and its running statistics with it.

    Args:
        model: Changed in place.
        patterns: Shell patterns of parameters' paths: ``"*.bias"`` is BitFit, ``"*.lora_*"`` adapters of that name.

    Returns:
        The paths of the parameters that are left trainable.

    Raises:
        ValueError: If a pattern fits no parameter: nothing would be trained, without a word.

    Examples:
        >>> freeze_except(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), ["*.bias"])
        ['0.bias', '1.bias']
    """
    patterns = list(patterns)
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"patterns: {pattern!r} fits no parameter; there are {', '.join(names[:4])} ...")
    left = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
        if parameter.requires_grad:
            left.append(name)
    return left


def count_parameters(model: nn.Module) -> dict[str, float]:
    """Counts parameters, a shared one once.

    Args:
        model: Any module.

    Returns:
        ``total``, ``trainable``, and their ``ratio``, trainable through total.

    Examples:
        >>> model = nn.Linear(9, 1).requires_grad_(False)
        >>> _ = model.bias.requires_grad_()
        >>> count_parameters(model)
        {'total': 10, 'trainable': 1, 'ratio': 0.1}
    """
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"total": total, "trainable": trainable, "ratio": trainable / total if total else 0.0}


def finetune_memory(
    n_params: float,
    n_trainable: float,
    *,
    param_bytes: float = 2,
    grad_bytes: float = 2,
    optimizer_bytes: float = 8,
    master_bytes: float = 4,
) -> dict[str, float]:
    """Computes what weights, gradients and optimizer take; activations come on top.

    Every parameter has a weight; only trainable ones have the rest. The defaults are AdamW in mixed precision.

    Args:
        n_params: Parameters of the model, the trainable ones included.
        n_trainable: Parameters that are trained.
        param_bytes: Of a weight: 2 in 16 bit, 0.5 in 4 bit. Trainable weights are taken to have as many.
        grad_bytes: Of a gradient.
        optimizer_bytes: Of the optimizer's state: two moments in 32 bit.
        master_bytes: Of the copy in 32 bit that the optimizer works on.

    Returns:
        Bytes of ``weights``, ``grads``, ``optimizer`` (master copy included) and their ``total``.

    Raises:
        ValueError: If there are more trainable parameters than parameters, or a number is negative.

    Examples:
        >>> finetune_memory(7e9, 7e9)["total"] / 7e9, finetune_memory(7e9, 0)["total"] / 7e9
        (16.0, 2.0)
    """
    numbers = dict(n_params=n_params, n_trainable=n_trainable, param_bytes=param_bytes, grad_bytes=grad_bytes,
                   optimizer_bytes=optimizer_bytes, master_bytes=master_bytes)
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name}={number} is negative")
    if n_trainable > n_params:
        raise ValueError(f"n_trainable={n_trainable} is more than n_params={n_params}")
    weights, grads = n_params * param_bytes, n_trainable * grad_bytes
    optimizer = n_trainable * (optimizer_bytes + master_bytes)
    return {"weights": weights, "grads": grads, "optimizer": optimizer, "total": weights + grads + optimizer}
