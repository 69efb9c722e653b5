"""Expert choice: every expert takes the tokens that suit it best, the same number each.

Source: Zhou et al. 2022, arXiv:2202.09368, section 3.2, equations 1 to 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect
from vocab.layers.mixture_of_experts import router_logits, run_experts, uniform_weight

__all__ = ["ExpertChoice"]

# B batch, T time, N = B·T tokens, D model width, F hidden width, E experts, k tokens per expert


class ExpertChoice(nn.Module):
    """Mixture of gated feed-forward networks in which experts choose tokens.

    Not causal: whether a token is taken depends on all tokens of the batch, later ones too.

    Args:
        d_model: Width D of input and output.
        d_ff: Hidden width F of one expert.
        n_experts: Experts E.
        capacity_factor: How many experts a token has on average; each expert takes ``round(N * capacity_factor / E)``.

    Shapes:
        x ``(B, T, D)`` -> y ``(B, T, D)`` and a dictionary: ``tokens_per_expert`` ``(E,)``, all equal, and
        ``experts_per_token`` ``(B * T,)``, from 0 to E.

    Raises:
        ValueError: If a setting cannot be, ``x`` does not fit, or an expert would take no token or more than there are.

    Examples:
        >>> layer = ExpertChoice(d_model=16, d_ff=32, n_experts=4, capacity_factor=1.0)
        >>> y, aux = layer(torch.randn(2, 6, 16))
        >>> aux["tokens_per_expert"].tolist(), int(aux["experts_per_token"].sum())
        ([3, 3, 3, 3], 12)
    """

    def __init__(self, d_model: int, d_ff: int, n_experts: int, *, capacity_factor: float = 2.0) -> None:
        super().__init__()
        for name, size in dict(d_model=d_model, d_ff=d_ff, n_experts=n_experts).items():
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        self.d_model, self.capacity_factor = d_model, capacity_factor
        self.router_ED = nn.Parameter(uniform_weight(n_experts, d_model))
        self.gate_up_E2FD = nn.Parameter(uniform_weight(n_experts, 2 * d_ff, d_model))
        self.down_EDF = nn.Parameter(uniform_weight(n_experts, d_model, d_ff))

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        expect("x", x, "batch time d_model", d_model=self.d_model)
        x_ND = x.flatten(0, 1)
        n, experts = len(x_ND), len(self.router_ED)
        k = round(n * self.capacity_factor / experts)
        if not 1 <= k <= n:
            raise ValueError(
                f"capacity_factor={self.capacity_factor} gives each of {experts} experts {k} of {n} tokens; "
                f"expected between 1 and {n}"
            )
        share_NE = router_logits(x_ND, self.router_ED).softmax(-1)
        gate_Ek, token_Ek = share_NE.T.topk(k)  # per expert over tokens: the only line that differs from token choice
        taken = token_Ek.flatten()
        out_PD = run_experts(x_ND[taken], [k] * experts, self.gate_up_E2FD, self.down_EDF)
        out_PD = out_PD * gate_Ek.flatten().to(x.dtype)[:, None]
        y_ND = torch.zeros_like(x_ND).index_add(0, taken, out_PD)
        return y_ND.view_as(x), {
            "tokens_per_expert": torch.full_like(token_Ek[:, 0], k),
            "experts_per_token": taken.new_zeros(n).index_add(0, taken, torch.ones_like(taken)),
        }
