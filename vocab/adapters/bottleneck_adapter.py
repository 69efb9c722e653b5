"""Bottleneck adapter: a narrow two-layer network with a skip connection, put into every layer of a frozen model.

Source: Houlsby et al. 2019, arXiv:1902.00751, section 2.1 and figure 2; one adapter per layer: Pfeiffer et al. 2021,
arXiv:2005.00247.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.layers.feed_forward import activation_function

__all__ = ["Adapted", "BottleneckAdapter", "insert_adapters"]

# D model width, m bottleneck


class BottleneckAdapter(nn.Module):
    """Computes ``x + scale * up(activation(down(x)))``, nearly the identity at first.

    Args:
        d_model: Width D of its input and output.
        bottleneck: Width m in the middle.
        activation: Function in the middle; a name that ``activation_function`` knows.
        init_scale: Standard deviation of the first weights of ``up``; with 0 it starts as exactly the identity.
        scale: Factor of what is added.

    Shapes:
        x ``(..., D)`` -> ``(..., D)``.

    Raises:
        ValueError: If a width is below 1, ``init_scale`` is negative, or ``x`` has another width.

    Examples:
        >>> adapter = BottleneckAdapter(768, 64, init_scale=0.0)
        >>> x = torch.randn(2, 768)
        >>> torch.equal(adapter(x), x), sum(p.numel() for p in adapter.parameters())
        (True, 99136)
    """

    def __init__(
        self, d_model: int, bottleneck: int = 64, *, activation: str = "gelu", init_scale: float = 1e-3, scale: float = 1.0
    ) -> None:
        super().__init__()
        for name, width in (("d_model", d_model), ("bottleneck", bottleneck)):
            if width < 1:
                raise ValueError(f"{name}={width} is below 1")
        if init_scale < 0:
            raise ValueError(f"init_scale={init_scale} is negative")
        self.d_model, self.scale, self.activation = d_model, scale, activation_function(activation)
        self.down, self.up = nn.Linear(d_model, bottleneck), nn.Linear(bottleneck, d_model)
        nn.init.normal_(self.up.weight, std=init_scale)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        expect("x", x, "... d_model", d_model=self.d_model)
        return x + self.scale * self.up(self.activation(self.down(x)))


class Adapted(nn.Module):
    """A frozen module, and an adapter on its output.

    Args:
        module: What is adapted. If it returns several things, the first is adapted.
        adapter: Maps its output to one of the same shape.

    Examples:
        >>> Adapted(nn.Linear(4, 4), BottleneckAdapter(4, 2))(torch.zeros(1, 4)).shape
        torch.Size([1, 4])
    """

    def __init__(self, module: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.module, self.adapter = module, adapter

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor | tuple:
        """Calls the module and adapts what it returns.

        Args:
            args: Passed to the module.
            kwargs: Passed to the module.
        """
        out = self.module(*args, **kwargs)
        return (self.adapter(out[0]), *out[1:]) if isinstance(out, tuple) else self.adapter(out)


def insert_adapters(
    model: nn.Module,
    d_model: int,
    placement: str = "houlsby",
    *,
    attention: str = "attention",
    feed_forward: str = "feed_forward",
    **settings: float,
) -> list[str]:
    """Freezes a Transformer and puts adapters on what its sublayers return, before it is added to the residual stream.

    Normalization layers are left trainable, as in the paper.

    Args:
        model: A model whose layers have an attention and a feed-forward module; it is changed in place.
        d_model: Width of what those return.
        placement: ``"houlsby"`` adapts both, ``"pfeiffer"`` the feed-forward module only.
        attention: Name of the attention modules, the last part of their paths.
        feed_forward: Name of the feed-forward modules.
        settings: Further settings of ``BottleneckAdapter``.

    Returns:
        The paths of the modules that were adapted.

    Raises:
        ValueError: If the placement is unknown or no module has such a name.

    Examples:
        >>> from vocab.positional.nope import NoPEDecoderBlock
        >>> insert_adapters(nn.Sequential(NoPEDecoderBlock(8, 2)), 8, bottleneck=2)
        ['0.attention', '0.feed_forward']
    """
    if placement not in ("houlsby", "pfeiffer"):
        raise ValueError(f"placement={placement!r} is not 'houlsby' or 'pfeiffer'")
    wanted = {attention, feed_forward} if placement == "houlsby" else {feed_forward}
    found = [(path, m) for path, m in model.named_modules() if path.split(".")[-1] in wanted]
    if not found:
        raise ValueError(f"no module is called {' or '.join(sorted(wanted))}; name them with attention= and feed_forward=")
    model.requires_grad_(False)
    for module in model.modules():
        if "Norm" in type(module).__name__:
            module.requires_grad_(True)
    for path, module in found:
        parent, _, name = path.rpartition(".")
        adapter = BottleneckAdapter(d_model, **settings).to(next(model.parameters()))
        setattr(model.get_submodule(parent), name, Adapted(module, adapter))
    return [path for path, _ in found]
