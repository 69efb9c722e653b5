"""Kullback-Leibler divergence between categorical distributions, for Gaussian codes, and estimated from samples.

Source: Kullback and Leibler 1951, doi:10.1214/aoms/1177729694, section 2; the estimators: Schulman 2020, Approximating KL Divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.check import expect
from vocab.losses.cross_entropy import reduced, same_shape, widen

__all__ = ["kl_div", "kl_estimates", "kl_normal"]


def kl_div(p_logits: Tensor, q_logits: Tensor, direction: str = "forward", reduction: str = "batchmean") -> Tensor:
    """Computes KL(p || q) of the softmaxes of two sets of logits, in nats.

    A class that the first distribution excludes (logit -inf) adds 0; one that only the second excludes makes the result infinite.

    Args:
        p_logits: Logits, or log-probabilities, of the truth, the teacher, the policy.
        q_logits: Those of its approximation.
        direction: ``"forward"`` for KL(p || q), ``"reverse"`` for KL(q || p).
        reduction: ``"batchmean"`` (over all rows), ``"sum"``, or ``"none"`` for one number per row.

    Shapes:
        p_logits ``(..., C)``, q_logits ``(..., C)`` -> a scalar, or ``(...)`` without reduction.

    Raises:
        ValueError: If ``direction`` or ``reduction`` is another word or the shapes differ.

    Examples:
        >>> p, q = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
        >>> kl_div(p, q), kl_div(p, q, "reverse")
        (tensor(0.1308), tensor(0.1438))
    """
    expect("p_logits", p_logits, "... classes")
    expect("q_logits", q_logits, "... classes")
    same_shape("q_logits", q_logits, "p_logits", p_logits)
    if direction not in ("forward", "reverse"):
        raise ValueError(f"direction={direction!r} is not 'forward' or 'reverse'")
    if reduction not in ("batchmean", "sum", "none"):
        raise ValueError(f"reduction={reduction!r} is not 'batchmean', 'sum' or 'none'; a mean over classes would be no divergence")
    first, second = (p_logits, q_logits) if direction == "forward" else (q_logits, p_logits)
    log_first, log_second = (F.log_softmax(widen(x), -1) for x in (first, second))
    ratio = torch.where(log_first.isneginf(), 0.0, log_first - log_second)
    return reduced((log_first.exp() * ratio).sum(-1), "mean" if reduction == "batchmean" else reduction)


def kl_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """Computes the divergence of independent Gaussians from standard ones: the price of a code in a variational autoencoder.

    Args:
        mu: Means.
        logvar: Logarithms of the variances.

    Shapes:
        mu ``(..., D)``, logvar ``(..., D)`` -> ``(...)``, summed over D.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> kl_normal(torch.tensor([[2.0, 0.0]]), torch.zeros(1, 2))
        tensor([2.])
    """
    expect("mu", mu, "... dim")
    expect("logvar", logvar, "... dim")
    same_shape("logvar", logvar, "mu", mu)
    mu, logvar = widen(mu), widen(logvar)
    # expm1, as exp(logvar) - 1 would lose the digits that matter near the prior.
    return 0.5 * (mu.square() + torch.expm1(logvar) - logvar).sum(-1)


def kl_estimates(log_pi: Tensor, log_ref: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Computes three estimates of KL(pi || ref) from samples of pi; average each over the samples.

    The first and the third are unbiased as numbers. As losses only the second has the gradient of the divergence.

    Args:
        log_pi: Log-probability that the sampling distribution gives to each sample.
        log_ref: Log-probability that the other one gives to it.

    Shapes:
        log_pi ``(...)``, log_ref ``(...)`` -> three of ``(...)``: -log r, (log r)^2 / 2 and r - 1 - log r with r = ref / pi.

    Raises:
        ValueError: If the shapes differ.

    Examples:
        >>> kl_estimates(torch.tensor([0.0]), torch.tensor([-1.0]))
        (tensor([1.]), tensor([0.5000]), tensor([0.3679]))
    """
    expect("log_pi", log_pi, "...")
    expect("log_ref", log_ref, "...")
    same_shape("log_ref", log_ref, "log_pi", log_pi)
    log_r = widen(log_ref) - widen(log_pi)
    return -log_r, log_r.square() / 2, torch.expm1(log_r) - log_r
