"""Maximal update parametrization (muP): every layer learns at the same pace at every width, so learning rates carry over.

Source: Yang et al. 2022, arXiv:2203.03466, table 3 (initial variances and Adam's learning rates, without multipliers).
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["mup_init_", "mup_param_groups"]

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def mup_init_(model: nn.Module, base_width: int) -> nn.Module:
    """Scales a model's output weights in place from deviation ``1/sqrt(fan_in)`` to ``1/fan_in``, equal at the base width.

    The other layers must have been initialized as usual, with variance proportional to ``1 / fan_in``; so stay they.

    Args:
        model: Its matrices are registered in order: the first linear layer, or all embeddings, read the input; the last one
            writes the output; those between are hidden.
        base_width: The width at which hyperparameters were tuned.

    Returns:
        The model.

    Raises:
        ValueError: If ``base_width`` is below 1, there are fewer than two layers, or input and output share a weight.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 400), nn.ReLU(), nn.Linear(400, 2))
        >>> before = model[2].weight.std().item()
        >>> round(before / mup_init_(model, base_width=100)[2].weight.std().item(), 4)
        2.0
    """
    _, _, output, ratio = _roles(model, base_width)
    output.weight.mul_(ratio**-0.5)
    return model


def mup_param_groups(model: nn.Module, lr: float, base_width: int) -> list[dict]:
    """Makes parameter groups for Adam or AdamW: hidden and output matrices learn by ``lr · base_width / width``, the rest by ``lr``.

    Args:
        model: As for ``mup_init_``.
        lr: The learning rate found at the base width.
        base_width: The width at which it was found.

    Returns:
        Two groups: inputs, biases and scales of norms; hidden and output matrices.

    Raises:
        ValueError: As ``mup_init_``, or if ``lr`` is not above 0.

    Examples:
        >>> model = nn.Sequential(nn.Linear(3, 400), nn.ReLU(), nn.Linear(400, 2))
        >>> [group["lr"] for group in mup_param_groups(model, lr=0.01, base_width=100)]
        [0.01, 0.0025]
    """
    if not lr > 0:
        raise ValueError(f"lr={lr} is not above 0")
    _, hidden, output, ratio = _roles(model, base_width)
    matrices = [layer.weight for layer in (*hidden, output)]
    known = {id(weight) for weight in matrices}
    others = [p for p in model.parameters() if id(p) not in known]
    return [{"params": others, "lr": lr}, {"params": matrices, "lr": lr / ratio}]


def _roles(model, base_width):
    """Input layers, hidden layers, the output layer, and width / base_width."""
    if base_width < 1:
        raise ValueError(f"base_width={base_width} is below 1")
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    matrices = [m for m in model.modules() if isinstance(m, _MATRICES)]
    inputs = tables or matrices[:1]
    rest = matrices if tables else matrices[1:]
    if not rest:
        raise ValueError("model needs an input layer and an output layer, registered in this order")
    *hidden, output = rest
    if any(output.weight is layer.weight for layer in inputs):
        raise ValueError("input and output share a weight, which muP scales differently: untie them or multiply the logits instead")
    width = inputs[0].weight.shape[1] if tables else inputs[0].weight.shape[0]
    return inputs, hidden, output, width / base_width
