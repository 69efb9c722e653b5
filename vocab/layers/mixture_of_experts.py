"""Sparse mixture of experts: a router sends each token to a few of many feed-forward networks.

Source: Shazeer et al. 2017, arXiv:1701.06538, section 2; gated experts as in Jiang et al. 2024, arXiv:2401.04088,
section 2.1; capacity and balance loss: Fedus et al. 2021, arXiv:2101.03961, equations 3 to 6; router z-loss:
Zoph et al. 2022, arXiv:2202.08906; balance by a bias: Wang et al. 2024, arXiv:2408.15664, algorithm 1.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.kernels.moe import applies, combine, grouped, permute, route
from vocab.losses.load_balancing import load_balancing_loss, move_bias
from vocab.losses.z_loss import z_loss

__all__ = ["MixtureOfExperts", "router_logits", "run_experts"]

# B batch, T time, D model width, F hidden width of an expert, E experts, K experts per token
# N = B·T tokens, P = K·N pairs of a token and an expert

_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu}


class MixtureOfExperts(nn.Module):
    """Feed-forward layer of which each token uses ``top_k`` of ``n_experts`` gated networks.

    An expert computes ``down(activation(gate(x)) * up(x))``; the outputs of a token's experts are added with the
    router's weights. Compute follows ``top_k``, memory follows ``n_experts``.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F of one expert.
        n_experts: Experts E among which the router chooses.
        top_k: Experts K that each token uses.
        capacity_factor: An expert takes at most ``ceil(capacity_factor * N * K / E)`` tokens. First choices go before
            second ones, early tokens before late ones; what comes too late is left out of the sum. None: no limit.
        normalize_gates: Whether the weights of a token's experts sum to 1 (Mixtral). Otherwise they are the chosen
            entries of the softmax over all experts (Switch).
        router_noise: Standard deviation of the noise that is added to the router's logits in training.
        shared_experts: Experts that every token uses besides, with weight 1 (DeepSeek).
        balance: ``"loss"``: the load-balancing loss carries a gradient; add it to the training loss, times 0.01.
            ``"bias"``: a bias per expert takes part in the choice, not in the weights; call ``update_bias`` after each
            step. None: neither; the loss is only reported.
        activation: ``"silu"``, ``"gelu"`` or ``"relu"``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: kernels for sending and adding up, and one grouped product for all experts.

    Shapes:
        x ``(B, T, D)`` -> y ``(B, T, D)`` and a dictionary: ``load_balancing_loss`` (1 when balanced), ``z_loss``
        (the mean squared log-sum-exp of the logits), ``load`` ``(E,)``, each expert's share of the pairs before any
        is dropped, and ``dropped``, how many pairs were.

    Raises:
        ValueError: If ``top_k`` is not between 1 and ``n_experts``, another setting cannot be, or ``x`` does not fit.
        RuntimeError: If ``backend="triton"`` cannot run here; the message says why.

    Examples:
        >>> moe = MixtureOfExperts(d_model=16, d_ff=32, n_experts=4, top_k=2)
        >>> y, aux = moe(torch.randn(2, 5, 16))
        >>> y.shape, float(aux["load"].sum())
        (torch.Size([2, 5, 16]), 1.0)
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        n_experts: int = 8,
        top_k: int = 2,
        *,
        capacity_factor: float | None = None,
        normalize_gates: bool = True,
        router_noise: float = 0.0,
        shared_experts: int = 0,
        balance: str | None = None,
        activation: str = "silu",
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(f"top_k={top_k} is not between 1 and n_experts={n_experts}")
        if capacity_factor is not None and capacity_factor <= 0:
            raise ValueError(f"capacity_factor={capacity_factor} is not above 0; None sets no limit")
        if router_noise < 0 or shared_experts < 0:
            raise ValueError(f"router_noise={router_noise} or shared_experts={shared_experts} is below 0")
        if balance not in (None, "loss", "bias"):
            raise ValueError(f"balance={balance!r} is none of None, 'loss', 'bias'")
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is none of {', '.join(_ACTIVATIONS)}")
        if top_k == 1 and normalize_gates:
            message = "top_k=1 with normalize_gates=True: every gate is 1 and the router learns nothing"
            warnings.warn(message, stacklevel=2)
        self.d_model, self.top_k, self.capacity_factor = d_model, top_k, capacity_factor
        self.normalize_gates, self.router_noise, self.balance = normalize_gates, router_noise, balance
        self.activation, self.backend = _ACTIVATIONS[activation], backend
        self.router_ED = nn.Parameter(uniform_weight(n_experts, d_model))
        self.gate_up_E2FD = nn.Parameter(uniform_weight(n_experts, 2 * d_ff, d_model))
        self.down_EDF = nn.Parameter(uniform_weight(n_experts, d_model, d_ff))
        if balance == "bias":
            self.register_buffer("bias_E", torch.zeros(n_experts))
        if shared_experts:  # side by side they are one expert that is so many times as wide
            self.shared_gate_up = nn.Parameter(uniform_weight(2 * d_ff * shared_experts, d_model))
            self.shared_down = nn.Parameter(uniform_weight(d_model, d_ff * shared_experts, fan_in=d_ff))
        self.shared_experts = shared_experts

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        x_ND = x.flatten(0, 1)
        logits_NE = self._logits(x_ND)
        gate_NK, expert_NK = self._route(logits_NE)

        # Pairs in order of rank, then token: a stable sort by expert keeps that order, so it also decides who is late.
        expert_P = expert_NK.T.flatten()
        order_P = expert_P.argsort(stable=True)
        count_E = torch.zeros_like(logits_NE[0], dtype=torch.long).index_add(0, expert_P, torch.ones_like(expert_P))
        kept_P = self._within_capacity(expert_P[order_P], count_E)

        if applies(x_ND, self.top_k, self.backend):
            y_ND = self._by_kernel(x_ND, expert_NK, gate_NK, kept_P)
        else:
            n, gate_P = len(x_ND), gate_NK.T.flatten()
            weights = self.gate_up_E2FD, self.down_EDF
            sorted_PD = run_experts(x_ND[order_P % n], count_E.tolist(), *weights, self.activation)
            sorted_PD = sorted_PD * torch.where(kept_P, gate_P[order_P], 0).to(x.dtype)[:, None]
            y_ND = sorted_PD[order_P.argsort()].unflatten(0, (self.top_k, n)).sum(0)
        if self.shared_experts:
            y_ND = y_ND + _gated(x_ND, self.shared_gate_up, self.shared_down, self.activation)

        share_E = count_E.to(logits_NE.dtype) / len(expert_P)
        balance = load_balancing_loss(logits_NE, self.top_k, coef=1.0, load=share_E)
        return y_ND.view_as(x), {
            "load_balancing_loss": balance if self.balance == "loss" else balance.detach(),
            "z_loss": z_loss(logits_NE, 1.0),
            "load": share_E,
            "dropped": (~kept_P).sum(),
        }

    def _by_kernel(self, x_ND: Tensor, expert_NK: Tensor, gate_NK: Tensor, kept_P: Tensor) -> Tensor:
        place_NK, ends_E = route(expert_NK, len(self.router_ED))
        gate_PF, up_PF = grouped(permute(x_ND, place_NK), self.gate_up_E2FD, ends_E).chunk(2, -1)
        sorted_PD = grouped(self.activation(gate_PF) * up_PF, self.down_EDF, ends_E)
        return combine(sorted_PD, place_NK, torch.where(kept_P[place_NK], gate_NK, 0))

    def update_bias(self, load: Tensor, rate: float = 1e-3) -> None:
        """Makes experts with more than their share a little less likely to be chosen, and the others more.

        Args:
            load: ``(E,)`` of the last step; averaged over all devices if there are several.
            rate: Step size; the size of the imbalance plays no part.

        Raises:
            ValueError: If the layer is not balanced by a bias.
        """
        if self.balance != "bias":
            raise ValueError(f"balance={self.balance!r}; update_bias is for balance='bias'")
        expect("load", load, "n_experts", n_experts=len(self.bias_E))
        move_bias(self.bias_E, load, rate)

    def _logits(self, x_ND: Tensor) -> Tensor:
        logits_NE = router_logits(x_ND, self.router_ED)
        if self.training and self.router_noise:
            logits_NE = logits_NE + self.router_noise * torch.randn_like(logits_NE)
        return logits_NE

    def _route(self, logits_NE: Tensor) -> tuple[Tensor, Tensor]:
        scores_NE = logits_NE.softmax(-1)
        chosen_by = scores_NE + self.bias_E if self.balance == "bias" else scores_NE
        expert_NK = chosen_by.topk(self.top_k).indices
        if self.normalize_gates:
            return logits_NE.gather(-1, expert_NK).softmax(-1), expert_NK
        return scores_NE.gather(-1, expert_NK), expert_NK

    def _within_capacity(self, sorted_P: Tensor, count_E: Tensor) -> Tensor:
        if self.capacity_factor is None:
            return torch.ones_like(sorted_P, dtype=torch.bool)
        first_E = count_E.cumsum(0) - count_E
        place_P = torch.arange(len(sorted_P), device=sorted_P.device) - first_E[sorted_P]
        # Less a hair: 1.1 * 20 / 2 is a little more than 11 in floating point, and 11 is meant.
        return place_P < math.ceil(self.capacity_factor * len(sorted_P) / len(count_E) - 1e-9)


def router_logits(x: Tensor, router: Tensor) -> Tensor:
    """How much each token wants each expert, in 32 bits also where all else has 16, and under autocast.

    Rounding to 16 bits moves logits across each other, and a token to another expert.

    Args:
        x: Tokens ``(N, D)``.
        router: One direction per expert, ``(E, D)``.

    Returns:
        ``(N, E)``.

    Examples:
        >>> router_logits(torch.ones(1, 2).bfloat16(), torch.eye(2).bfloat16())
        tensor([[1., 1.]])
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.to(dtype), router.to(dtype))


def run_experts(
    rows: Tensor, counts: list[int], gate_up: Tensor, down: Tensor, activation: Callable[[Tensor], Tensor] = F.silu
) -> Tensor:
    """Each gated expert on its own rows.

    Args:
        rows: ``(P, D)``, those of the first expert first.
        counts: How many rows each of the E experts has.
        gate_up: ``(E, 2 F, D)``, gates and then ups.
        down: ``(E, D, F)``.
        activation: The function on the gate.

    Returns:
        ``(P, D)``, in the same order.

    Examples:
        >>> run_experts(torch.ones(3, 2), [1, 2], torch.zeros(2, 8, 2), torch.zeros(2, 2, 4)).shape
        torch.Size([3, 2])
    """
    return torch.cat([_gated(*each, activation) for each in zip(rows.split(counts), gate_up, down)])


def _gated(x: Tensor, gate_up: Tensor, down: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(activation(gate) * up, down)


def uniform_weight(*shape: int, fan_in: int | None = None) -> Tensor:
    """A weight as a linear layer starts with."""
    bound = (fan_in or shape[-1]) ** -0.5
    return torch.empty(shape).uniform_(-bound, bound)
