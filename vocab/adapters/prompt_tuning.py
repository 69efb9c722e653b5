"""Prompt tuning: trained vectors are put before the embedded text of a frozen model.

Source: Lester, Al-Rfou and Constant 2021, arXiv:2104.08691, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vocab.check import expect

__all__ = ["PromptTuning"]

# B batch, T text tokens, n prompt tokens, D model width


class PromptTuning(nn.Module):
    """``n_tokens`` trained vectors that a frozen model reads like the embeddings of words before the text.

    Args:
        n_tokens: Trained vectors n; with 0 nothing is added.
        d_model: Width D of the model's embeddings.
        init: ``"random"`` draws them with standard deviation 0.02 (of ``embedding``, if that is given); ``"vocab"`` copies rows of
            ``embedding``.
        embedding: The model's table of word vectors ``(V, D)``; it is read, not kept.
        token_ids: Which rows ``"vocab"`` copies, one for each vector; drawn at random if not given.

    Shapes:
        input_embeds ``(B, T, D)``, attention_mask ``(B, T)`` -> ``(B, n + T, D)``, ``(B, n + T)``.

    Raises:
        ValueError: If a setting cannot be or a shape does not fit.

    Examples:
        >>> prompt = PromptTuning(5, 16)
        >>> embeds, mask = prompt(torch.zeros(2, 7, 16), torch.ones(2, 7, dtype=torch.bool))
        >>> embeds.shape, mask.shape, sum(p.numel() for p in prompt.parameters())
        (torch.Size([2, 12, 16]), torch.Size([2, 12]), 80)
    """

    def __init__(
        self,
        n_tokens: int,
        d_model: int,
        *,
        init: str = "random",
        embedding: Tensor | None = None,
        token_ids: Tensor | None = None,
    ) -> None:
        super().__init__()
        if n_tokens < 0:
            raise ValueError(f"n_tokens={n_tokens} is negative")
        if init not in ("random", "vocab"):
            raise ValueError(f"init={init!r} is not 'random' or 'vocab'")
        if embedding is not None:
            expect("embedding", embedding, "vocabulary d_model", d_model=d_model)
        if init == "vocab":
            if embedding is None:
                raise ValueError("init='vocab' needs the model's table as embedding")
            if token_ids is None:
                token_ids = torch.randint(len(embedding), (n_tokens,), device=embedding.device)
            expect("token_ids", token_ids, "n_tokens", dtype="int", n_tokens=n_tokens)
            first = embedding.detach()[token_ids].clone()
        else:
            std = 0.02 if embedding is None else embedding.detach().std().item()
            first = std * torch.randn(n_tokens, d_model)
        self.n_tokens, self.d_model = n_tokens, d_model
        self.prompt = nn.Parameter(first)

    def forward(self, input_embeds: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Puts the trained vectors before the text. Labels have to be moved by ``n_tokens`` too, see ``labels``.

        Args:
            input_embeds: The embedded text.
            attention_mask: Booleans or 0 and 1; padding may stand on either side of the text.
        """
        expect("input_embeds", input_embeds, "batch time d_model", d_model=self.d_model)
        kind = "bool" if getattr(attention_mask, "dtype", None) == torch.bool else "int"
        batch, time, _ = input_embeds.shape
        expect("attention_mask", attention_mask, "batch time", dtype=kind, batch=batch, time=time)
        prompt = self.prompt.to(input_embeds.dtype).expand(batch, -1, -1)
        seen = attention_mask.new_ones(batch, self.n_tokens)
        return torch.cat((prompt, input_embeds), 1), torch.cat((seen, attention_mask), 1)

    def labels(self, labels: Tensor, ignore_index: int = -100) -> Tensor:
        """Puts labels that the loss ignores before those of the text: nobody wrote the prompt.

        Args:
            labels: ``(B, T)``.
            ignore_index: What the loss leaves out.

        Returns:
            ``(B, n + T)``.
        """
        expect("labels", labels, "batch time", dtype="int")
        return torch.cat((labels.new_full((len(labels), self.n_tokens), ignore_index), labels), 1)
