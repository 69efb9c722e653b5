"""Fused linear cross-entropy: the last projection and the loss in one, without ever holding all logits.

Source: Hsu et al. 2024, arXiv:2410.10989 (FusedLinearCrossEntropy: gradients in the forward pass, chunk by chunk); Wijmans et al. 2024,
arXiv:2411.09009, is the form that does not even hold the logits of a chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vocab.check import expect
from vocab.kernels.linear_cross_entropy import applies, fused
from vocab.losses.cross_entropy import check_classes, widen

__all__ = ["linear_cross_entropy"]

# N tokens, D width, V vocabulary, C tokens of a chunk


def linear_cross_entropy(hidden: Tensor, weight: Tensor, target: Tensor, *, bias: Tensor | None = None, ignore_index: int = -100,
                         chunk: int = 1024, backend: str = "auto") -> Tensor:
    """Computes the mean cross-entropy of the logits ``hidden @ weight.T + bias``, a chunk of tokens at a time.

    The gradients are made in the forward pass, while the logits of a chunk are there, and stored: for hidden and weight as many numbers
    as these have. Sums over chunks are kept in 32 bits or more. There is no second derivative. The mean over no target is 0.

    Args:
        hidden: Outputs of the last block.
        weight: Output matrix.
        target: Class numbers.
        bias: One number per class.
        ignore_index: A class number that stands for "no target here".
        chunk: How many tokens have their logits at a time.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        hidden ``(N, D)``, weight ``(V, D)``, target ``(N,)``, bias ``(V,)`` -> a scalar.

    Raises:
        RuntimeError: If a second derivative is asked for (``create_graph=True``), or if ``backend="triton"`` cannot run here.
        ValueError: If a shape does not fit, ``chunk`` is below 1, or a class is not there (not looked for while compiling).

    Examples:
        >>> h, w = torch.zeros(5, 3), torch.ones(10, 3)
        >>> linear_cross_entropy(h, w, torch.tensor([1, 2, 3, 4, -100]), chunk=2)  # equal logits: ln 10
        tensor(2.3026)
    """
    expect("hidden", hidden, "tokens dim")
    expect("weight", weight, "vocabulary dim", dim=hidden.shape[1])
    check_classes(target, len(weight), (len(hidden),), ignore_index)
    if bias is not None:
        expect("bias", bias, "vocabulary", vocabulary=len(weight))
    if chunk < 1:
        raise ValueError(f"chunk={chunk} is below 1")
    if applies(hidden, weight, backend):
        return fused(hidden, weight, target.long(), bias=bias, ignore_index=ignore_index, softcap=0.0, chunk=chunk)
    return _Chunked.apply(hidden, weight, bias, target.long(), ignore_index, chunk)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, weight_VD, bias_V, target_N, ignore_index, chunk):
        kept_N = target_N != ignore_index
        count = kept_N.sum().clamp(min=1)
        index_N1 = torch.where(kept_N, target_N, 0)[:, None]
        loss = widen(hidden_ND.new_zeros(()))
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_ND) if for_hidden else None
        # A sum of many small chunks in 16 bits would stop growing.
        grad_weight = torch.zeros_like(weight_VD, dtype=loss.dtype) if for_weight else None
        grad_bias = weight_VD.new_zeros(len(weight_VD), dtype=loss.dtype) if for_bias else None
        for start in range(0, len(hidden_ND), chunk):
            rows = slice(start, start + chunk)
            kept_C, index_C1, hidden_CD = kept_N[rows], index_N1[rows], hidden_ND[rows]
            logits_CV = widen(F.linear(hidden_CD, weight_VD, bias_V))
            log_z_C1 = logits_CV.logsumexp(1, keepdim=True)
            loss = loss + torch.where(kept_C, (log_z_C1 - logits_CV.gather(1, index_C1))[:, 0], 0.0).sum()
            if not (for_hidden or for_weight or for_bias):
                continue
            # Probabilities minus the truth, in the memory of the logits, which are not needed any more. Of the sum: divided by the
            # count already here, small probabilities would vanish in 16 bits.
            grad_CV = logits_CV.sub_(log_z_C1).exp_()
            grad_CV.scatter_add_(1, index_C1, -torch.ones_like(log_z_C1))
            grad_CV.mul_(kept_C[:, None])
            if for_bias:
                grad_bias += grad_CV.sum(0)
            narrow_CV = grad_CV.to(hidden_CD.dtype)
            if for_hidden:
                grad_hidden[rows] = narrow_CV @ weight_VD
            if for_weight:
                grad_weight += narrow_CV.T @ hidden_CD
        ctx.save_for_backward(count, grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = hidden_ND.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype
        return loss / count

    @staticmethod
    def backward(ctx, upstream):
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph=True: the stored gradients would pass for constants
            raise RuntimeError("linear_cross_entropy has no second derivative; use CrossEntropy on the logits")
        # The stored gradients are those of the sum; the mean, and what comes after it (a scaler, a weight among losses), is a factor.
        count, *stored = ctx.saved_tensors
        grads = (None if g is None else (upstream / count * g).to(dtype) for g, dtype in zip(stored, ctx.dtypes))
        return (*grads, None, None, None)
