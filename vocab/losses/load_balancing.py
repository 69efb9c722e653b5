"""Load balancing of a mixture of experts: by an auxiliary loss, or by a bias that no gradient reaches.

Source: Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6; the bias: Wang et al. 2024, arXiv:2408.15664, algorithm 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.losses.cross_entropy import same_shape, widen

__all__ = ["load_balancing_loss", "BiasBalancer", "dispatched", "move_bias"]

# T tokens, E experts, K experts per token


def load_balancing_loss(
    router_logits: Tensor, top_k: int = 1, coef: float = 1e-2, mask: Tensor | None = None, load: Tensor | None = None
) -> Tensor:
    """Computes ``coef * E * sum(f * P)`` of one layer, with the loads f of the experts and their mean probabilities P.

    It is ``coef`` where the loads are equal. The gradient flows through P alone: f counts. Logits of 16 bits are widened to 32;
    of no token the loss is 0.

    Args:
        router_logits: Logits of the router, before any bias.
        top_k: Experts K that each token uses.
        coef: Weight of the loss; 0.01 in Switch Transformers.
        mask: True for the tokens that count; all by default. Padding must not.
        load: Share of all assignments that each expert got, ``(E,)``. Needed where it is not simply the K largest logits of these
            tokens: with a bias or noise in the choice, or to use the average over all devices and micro-batches. Taken as a constant.

    Shapes:
        router_logits ``(..., E)``, mask ``(...)`` -> a scalar.

    Raises:
        ValueError: If ``top_k`` is not between 1 and E, ``coef`` is negative, or a shape does not fit.

    Examples:
        >>> load_balancing_loss(torch.zeros(6, 4), coef=1.0)  # an even router
        tensor(1.)
        >>> load_balancing_loss(torch.tensor([[0.0, 100, 0, 0]]).expand(6, 4), coef=1.0)  # all to one of four
        tensor(4.)
    """
    expect("router_logits", router_logits, "... experts")
    logits_TE = widen(router_logits)
    E = logits_TE.shape[-1]
    if not 1 <= top_k <= E:
        raise ValueError(f"top_k={top_k} is not between 1 and the number of experts, {E}")
    if not coef >= 0:
        raise ValueError(f"coef={coef} is not 0 or more")
    kept_T = torch.ones_like(logits_TE[..., 0], dtype=torch.bool) if mask is None else mask
    expect("mask", kept_T, "...", dtype="bool")
    same_shape("mask", kept_T, "the rows of router_logits", logits_TE[..., 0])

    kept_T1 = kept_T.unsqueeze(-1)
    logits_TE = torch.where(kept_T1, logits_TE, 0.0)  # before the softmax: padding may hold anything, infinity too
    if load is None:
        load = dispatched(logits_TE.topk(top_k).indices, E, kept_T, logits_TE.dtype)
    expect("load", load, "experts", experts=E)
    probability_TE = torch.where(kept_T1, logits_TE.softmax(-1), 0.0)
    mean_E = probability_TE.flatten(0, -2).sum(0) / kept_T.sum().clamp(min=1)
    return coef * E * (load.detach() * mean_E).sum()


class BiasBalancer(nn.Module):
    """Balances without a loss: a bias per expert joins the choice of experts, and moves against the load after each step.

    The weights with which outputs are added come from the scores without it, so no gradient knows of the bias. It is kept in
    32 bits; do not cast the module to fewer, where a step of 0.001 is lost.

    Args:
        n_experts: Number of experts E.
        update_rate: How far a bias moves per step, whatever the size of the imbalance.

    Shapes:
        scores ``(..., E)``, higher for better experts: sigmoids (DeepSeek) or a softmax -> the numbers of the chosen
        experts, ``(..., K)``.

    Raises:
        ValueError: If a setting is out of range or a shape does not fit.

    Examples:
        >>> balancer = BiasBalancer(n_experts=3, update_rate=0.25)
        >>> scores = torch.tensor([[0.9, 0.1, 0.2], [0.7, 0.3, 0.4]])
        >>> chosen = balancer(scores, top_k=1)
        >>> chosen.flatten().tolist(), balancer.step(dispatched(chosen, 3)).tolist()
        ([0, 0], [-0.25, 0.25, 0.25])
        >>> balancer(scores, top_k=1).flatten().tolist()
        [0, 2]
    """

    bias: Tensor

    def __init__(self, n_experts: int, update_rate: float = 1e-3) -> None:
        super().__init__()
        if n_experts < 1:
            raise ValueError(f"n_experts={n_experts} is below 1")
        if not update_rate > 0:
            raise ValueError(f"update_rate={update_rate} is not above 0")
        self.n_experts, self.update_rate = n_experts, update_rate
        self.register_buffer("bias", torch.zeros(n_experts))

    def forward(self, scores: Tensor, top_k: int = 1) -> Tensor:
        expect("scores", scores, "... n_experts", n_experts=self.n_experts)
        if not 1 <= top_k <= self.n_experts:
            raise ValueError(f"top_k={top_k} is not between 1 and n_experts={self.n_experts}")
        return (scores + self.bias).topk(top_k).indices

    def step(self, load: Tensor) -> Tensor:
        """Moves the biases after a training step.

        Args:
            load: ``(E,)``, shares or counts of the assignments that each expert got, averaged or added over all devices.

        Returns:
            The new biases.
        """
        expect("load", load, "n_experts", n_experts=self.n_experts)
        return move_bias(self.bias, load, self.update_rate)


def dispatched(chosen: Tensor, n_experts: int, mask: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """Share of all assignments that each expert got; zeros if there are none.

    Args:
        chosen: Numbers of the experts of each token, ``(..., K)``.
        n_experts: How many experts E there are.
        mask: ``(...)``, True for the tokens that count; all by default.
        dtype: That of the shares. The counting is done in whole numbers.

    Returns:
        ``(E,)``.

    Examples:
        >>> dispatched(torch.tensor([[0, 1], [0, 2]]), 4)
        tensor([0.5000, 0.2500, 0.2500, 0.0000])
    """
    expect("chosen", chosen, "... top_k", dtype="int")
    counts = torch.ones_like(chosen, dtype=torch.long)
    if mask is not None:
        counts = counts * mask.unsqueeze(-1)
    assigned_E = counts.new_zeros(n_experts).index_add(0, chosen.flatten(), counts.flatten())
    return assigned_E.to(dtype) / assigned_E.sum().clamp(min=1)


@torch.no_grad()
def move_bias(bias: Tensor, load: Tensor, rate: float) -> Tensor:
    """Lowers in place the bias of each expert with more than the mean load, and raises that of each with less.

    Args:
        bias: One number per expert, ``(E,)``.
        load: Shares or counts of assignments, ``(E,)``.
        rate: How far each moves.

    Examples:
        >>> move_bias(torch.zeros(3), torch.tensor([5.0, 2.0, 2.0]), 0.5)
        tensor([-0.5000,  0.5000,  0.5000])
    """
    return bias.add_(rate * (load.mean() - load).sign())
