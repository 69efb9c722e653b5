"""Capsule layer: vectors that say whether a part is there and in which pose, sent where their predictions agree.

Source: Sabour, Frosst and Hinton 2017, arXiv:1710.09829: squash is equation 1, routing equations 2 and 3 and
procedure 1, the margin loss equation 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect

__all__ = ["CapsuleLayer", "dynamic_routing", "margin_loss", "squash"]

# B batch, I input capsules of d numbers, J output capsules of e numbers


class CapsuleLayer(nn.Module):
    """Each input capsule predicts each output capsule by a matrix; an output is the agreement among its predictions.

    Args:
        in_capsules: Input capsules I.
        in_dim: Numbers d of one of them.
        out_capsules: Output capsules J.
        out_dim: Numbers e of one of them.
        routing_iters: Rounds of routing; 1 is a plain average.
        detach_routing: Whether gradients leave the agreement out and pass the last round only.

    Shapes:
        u ``(B, I, d)`` -> ``(B, J, e)``, vectors shorter than 1.

    Raises:
        ValueError: If a size is below 1 or ``u`` has another shape.

    Examples:
        >>> layer = CapsuleLayer(in_capsules=6, in_dim=8, out_capsules=3, out_dim=4)
        >>> v = layer(torch.randn(2, 6, 8))
        >>> v.shape, bool((v.norm(dim=-1) < 1).all())
        (torch.Size([2, 3, 4]), True)
    """

    def __init__(
        self,
        in_capsules: int,
        in_dim: int,
        out_capsules: int,
        out_dim: int,
        routing_iters: int = 3,
        *,
        detach_routing: bool = False,
    ) -> None:
        super().__init__()
        sizes = dict(in_capsules=in_capsules, in_dim=in_dim, out_capsules=out_capsules, out_dim=out_dim)
        for name, size in {**sizes, "routing_iters": routing_iters}.items():
            if size < 1:
                raise ValueError(f"{name}={size} is below 1")
        self.in_capsules, self.in_dim = in_capsules, in_dim
        self.routing_iters, self.detach_routing = routing_iters, detach_routing
        bound = in_dim**-0.5
        self.weight_IJed = nn.Parameter(torch.empty(in_capsules, out_capsules, out_dim, in_dim).uniform_(-bound, bound))

    def forward(self, u: Tensor) -> Tensor:
        expect("u", u, "batch in_capsules in_dim", in_capsules=self.in_capsules, in_dim=self.in_dim)
        u_hat_BIJe = torch.einsum("ijed, bid -> bije", self.weight_IJed, u)
        return dynamic_routing(u_hat_BIJe, self.routing_iters, detach=self.detach_routing)[0]


def dynamic_routing(u_hat: Tensor, iters: int = 3, *, detach: bool = False) -> tuple[Tensor, Tensor]:
    """Finds, for every input, to which outputs it belongs: those whose other predictions agree with its own.

    Args:
        u_hat: Predictions ``(B, I, J, e)`` of input capsule i for output capsule j.
        iters: Rounds.
        detach: Whether the coupling coefficients are held constant in the backward pass.

    Returns:
        The output capsules ``(B, J, e)`` and the coupling coefficients ``(B, I, J)`` of the last round, which sum to 1
        over the outputs.

    Raises:
        ValueError: If ``iters`` is below 1 or the shape does not fit.

    Examples:
        >>> v, c = dynamic_routing(torch.ones(1, 5, 2, 3), iters=1)
        >>> c.unique()
        tensor([0.5000])
    """
    expect("u_hat", u_hat, "batch in_capsules out_capsules out_dim")
    if iters < 1:
        raise ValueError(f"iters={iters} is below 1")
    seen = u_hat.detach() if detach else u_hat
    b_BIJ = torch.zeros_like(u_hat[..., 0])
    for _ in range(iters - 1):
        v_BJe = squash(torch.einsum("bij, bije -> bje", b_BIJ.softmax(-1), seen))
        b_BIJ = b_BIJ + torch.einsum("bije, bje -> bij", seen, v_BJe)
    c_BIJ = b_BIJ.softmax(-1)  # over the outputs: an input shares itself out, it is not won by competition
    return squash(torch.einsum("bij, bije -> bje", c_BIJ, u_hat)), c_BIJ


def squash(s: Tensor, dim: int = -1) -> Tensor:
    """Shortens vectors to a length below 1 and keeps their direction: ``|s|^2 / (1 + |s|^2)`` of the unit vector.

    Args:
        s: Any shape.
        dim: The dimension along which a vector lies.

    Shapes:
        s ``(...)`` -> ``(...)``.

    Examples:
        >>> squash(torch.tensor([3.0, 4.0])).norm().item()  # 25 / 26
        0.9615384936332703
    """
    expect("s", s, "...")
    square = s.square().sum(dim, keepdim=True)
    return s * _root(square) / (1 + square)


def margin_loss(v: Tensor, target: Tensor, m_plus: float = 0.9, m_minus: float = 0.1, lam: float = 0.5) -> Tensor:
    """Wants capsules of classes that are there to be longer than ``m_plus``, and all others shorter than ``m_minus``.

    Args:
        v: Output capsules ``(B, J, e)``.
        target: Class numbers ``(B,)``, or which classes are there, ``(B, J)`` of truth values, for several at once.
        m_plus: Length that is long enough.
        m_minus: Length that is short enough.
        lam: Weight of the absent classes, so that at the start they do not shrink all capsules to nothing.

    Returns:
        The sum over classes, averaged over the batch.

    Raises:
        ValueError: If shapes do not fit or a class number is out of range (not checked in compiled code).

    Examples:
        >>> v = torch.tensor([[[0.95, 0.0], [0.0, 0.3]]])
        >>> round(margin_loss(v, torch.tensor([0])).item(), 4)  # 0.5 * (0.3 - 0.1)^2
        0.02
    """
    expect("v", v, "batch out_capsules out_dim")
    batch, classes, _ = v.shape
    if isinstance(target, Tensor) and target.dtype == torch.bool:
        expect("target", target, "batch out_capsules", dtype="bool", batch=batch, out_capsules=classes)
        there = target.to(v.dtype)
    else:
        expect("target", target, "batch", dtype="int", batch=batch)
        if not torch.compiler.is_compiling() and ((target < 0) | (target >= classes)).any():
            raise ValueError(f"target={target.tolist()} holds a class outside 0 to {classes - 1}")
        there = F.one_hot(target.long(), classes).to(v.dtype)
    length_BJ = _root(v.square().sum(-1))
    loss_BJ = there * F.relu(m_plus - length_BJ).square() + lam * (1 - there) * F.relu(length_BJ - m_minus).square()
    return loss_BJ.sum(-1).mean()


def _root(square: Tensor) -> Tensor:
    # The slope of a square root is infinite at 0, and infinity times zero is NaN; the smallest number prevents it.
    return (square + torch.finfo(square.dtype).tiny).sqrt()
