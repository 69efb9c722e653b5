"""Hill climbing: change the weights at random, and keep what is not worse.

Source: Rechenberg 1973, Evolutionsstrategie, for the 1/5 rule; Glasmachers 2020, doi:10.1162/evco_a_00248, algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["HillClimber", "flip_bits"]


class HillClimber:
    """The (1+1) evolution strategy: one parent, one child, the better one stays.

    ::

        child = w + sigma * normal noise
        if loss(child) <= loss(w): w = child
        sigma = sigma * exp(0.8 / d) after a success, sigma * exp(-0.2 / d) after a failure        d = 1 + n / 2

    The sizes of the steps balance where one child in five succeeds. No gradients are used.

    Args:
        params: Tensors that are changed in place; all of them are one point of ``n`` numbers.
        sigma: Standard deviation of the change of every number, at the start.
        adapt: ``"one-fifth"``, or ``None`` to keep ``sigma``.
        mutate: How a child is made, as ``mutate(tensor, sigma, generator)``; ``None`` adds normal noise.
        reevaluate: Whether the parent's loss is computed again at every step; for noisy losses.
        generator: Source of the noise.

    Raises:
        ValueError: If there are no parameters, or an option is out of range.

    Examples:
        >>> w = torch.tensor([3.0, -2.0])
        >>> climber = HillClimber([w], sigma=1.0, generator=torch.Generator().manual_seed(0))
        >>> losses = [climber.step(lambda: w.square().sum().item()) for _ in range(200)]
        >>> losses[-1] < 1e-6
        True
    """

    def __init__(
        self, params: Iterable[Tensor], sigma: float = 0.1, adapt: str | None = "one-fifth", *,
        mutate: Callable[[Tensor, float, torch.Generator | None], Tensor] | None = None, reevaluate: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.params = list(params)
        if not self.params:
            raise ValueError("params is empty")
        if not sigma > 0:
            raise ValueError(f"sigma={sigma} is not above 0")
        if adapt not in ("one-fifth", None):
            raise ValueError(f"adapt={adapt!r} is not 'one-fifth' or None")
        self.sigma, self.adapt, self.mutate, self.reevaluate, self.generator = sigma, adapt, mutate, reevaluate, generator
        self.loss: float | None = None  # of the parent, where it is known
        self.damping = 1 + sum(p.numel() for p in self.params) / 2

    @torch.no_grad()
    def step(self, loss_fn: Callable[[], float]) -> float:
        """Tries one child.

        Args:
            loss_fn: The loss of the parameters as they are.

        Returns:
            The loss of what was kept.
        """
        if self.loss is None or self.reevaluate:
            self.loss = float(loss_fn())
        parent = [p.clone() for p in self.params]
        for p in self.params:
            p.copy_(self.mutate(p, self.sigma, self.generator) if self.mutate else
                    p + self.sigma * torch.randn(p.shape, dtype=p.dtype, device=p.device, generator=self.generator))
        child = float(loss_fn())
        success = child <= self.loss or math.isnan(self.loss)  # equal is accepted: a plateau could not be crossed otherwise
        if success:
            self.loss = child
        else:
            for p, kept in zip(self.params, parent):
                p.copy_(kept)
        if self.adapt:
            self.sigma *= math.exp(((1.0 if success else 0.0) - 0.2) / self.damping)
        return self.loss

    def state_dict(self) -> dict[str, Any]:
        """Step size, the parent's loss, and the state of the generator, where there is one."""
        return {"sigma": self.sigma, "loss": self.loss, "generator": self.generator and self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where ``state_dict`` was taken, given the same parameters."""
        self.sigma, self.loss = state_dict["sigma"], state_dict["loss"]
        if self.generator is not None and state_dict["generator"] is not None:
            self.generator.set_state(state_dict["generator"])


def flip_bits(bits: Tensor, sigma: float, generator: torch.Generator | None = None) -> Tensor:
    """For designs of zeros and ones: flips each with the probability ``1 / n``, so one of them in the mean.

    Args:
        bits: Zeros and ones, of any dtype.
        sigma: Not used; the rate does not depend on it.
        generator: Source of the choices.

    Examples:
        >>> bits = torch.zeros(1000)
        >>> flipped = sum(flip_bits(bits, 0.0).sum().item() for _ in range(200)) / 200
        >>> 0.7 < flipped < 1.3
        True
    """
    chosen = torch.rand(bits.shape, device=bits.device, generator=generator) < 1 / bits.numel()
    return torch.where(chosen, 1 - bits, bits)
