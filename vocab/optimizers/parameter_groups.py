"""Parameter groups: which parameters decay, and how fast each layer learns.

Source: layer-wise rates: Howard and Ruder 2018, arXiv:1801.06146, section 3.2; no decay of biases and gains: as in the code of BERT, arXiv:1810.04805.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

__all__ = ["depths", "param_groups"]


def param_groups(
    model: nn.Module, lr: float, weight_decay: float, *, no_decay: Sequence[str] = ("bias", "norm"), layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Sorts the parameters of a model into groups for any optimizer of torch.

    Every parameter is in exactly one group, tied ones once, frozen ones too, so that they can be thawed later. Each group has ``params``,
    ``lr``, ``weight_decay`` and a ``name``.

    Args:
        model: Whose parameters.
        lr: Learning rate; with ``layer_decay`` that of the last layer.
        weight_decay: Of all parameters but those without.
        no_decay: Words. A parameter has no decay if one of them is in its name or in the name of its module's class, in any case of letters.
            Add ``"embed"`` to spare embeddings.
        layer_decay: What the rate is multiplied by from each layer to the one before it, in (0, 1]; ``None`` for one rate. Layers come from
            the names, see :func:`depths`.

    Raises:
        TypeError: If ``model`` is no module, or ``no_decay`` is a single string.
        ValueError: If a number is out of range or the model has no parameters.

    Examples:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
        >>> for group in param_groups(model, lr=0.1, weight_decay=0.01, layer_decay=0.5):
        ...     print(group["name"], group["lr"], group["weight_decay"], len(group["params"]))
        layer 1, decay 0.025 0.01 1
        layer 1, no decay 0.025 0.0 1
        layer 2, no decay 0.05 0.0 2
        layer 3, decay 0.1 0.01 1
        layer 3, no decay 0.1 0.0 1
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(no_decay, str):
        raise TypeError(f"no_decay={no_decay!r} is one string; expected several, like ({no_decay!r},)")
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"{name}={value} is not 0 or more")
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay={layer_decay} is not in (0, 1]; None means one rate for all")
    named = dict(model.named_parameters())  # tied parameters come once, by identity
    if not named:
        raise ValueError(f"model {type(model).__name__} has no parameters")
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    words = [word.lower() for word in no_decay]
    depth = depths(list(named))
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        owner = name.rpartition(".")[0]
        spared = any(word in text.lower() for word in words for text in (name, kinds[owner]))
        layer = depth[name] if layer_decay is not None else 0
        if (layer, spared) not in groups:
            rate = lr if layer_decay is None else lr * layer_decay ** (max(depth.values()) - layer)
            label = "no decay" if spared else "decay"
            groups[layer, spared] = {"params": [], "lr": rate, "weight_decay": 0.0 if spared else weight_decay,
                                     "name": label if layer_decay is None else f"layer {layer}, {label}"}
        groups[layer, spared]["params"].append(parameter)
    return list(groups.values())


def depths(names: Sequence[str]) -> dict[str, int]:
    """The layer of each parameter, from names in the order of the model.

    A name up to its first number, ``blocks.3``, is a layer; layers count from 1 as they appear, so that a decoder's come after the encoder's. Names
    without a number are part of the layer before them: those that come first, like embeddings, are layer 0, and those behind all numbered
    ones, like a head, are one layer more.

    Args:
        names: Names of parameters.

    Examples:
        >>> depths(["embed.weight", "blocks.0.up.weight", "blocks.0.norm.bias", "blocks.4.up.weight", "head.weight"])
        {'embed.weight': 0, 'blocks.0.up.weight': 1, 'blocks.0.norm.bias': 1, 'blocks.4.up.weight': 2, 'head.weight': 3}
    """
    blocks = {name: _block(name) for name in names}
    last = max((i for i, name in enumerate(names) if blocks[name]), default=len(names))
    seen: dict[str, int] = {}
    found, layer = {}, 0
    for i, name in enumerate(names):
        if blocks[name]:
            layer = seen.setdefault(blocks[name], len(seen) + 1)
        found[name] = len(seen) + 1 if i > last else layer
    return found


def _block(name: str) -> str:
    """The name up to its first number; empty if it has none."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: i + 1])
    return ""
