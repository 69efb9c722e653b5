"""L2 regularization: half the squared norm of the weights, added to the loss.

Source: Hoerl and Kennard 1970, doi:10.1080/00401706.1970.10488634, equation 2.1 (ridge regression).
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from vocab.check import expect
from vocab.regularization.weight_decay import listed

__all__ = ["check_strength", "l2_penalty", "shrinkage"]


def l2_penalty(params: Tensor | Iterable[Tensor], lam: float) -> Tensor:
    """``0.5 * lam * sum(w**2)`` over all numbers of all tensors; its gradient is ``lam * w``.

    Args:
        params: The weights that are to stay small; leave out intercepts and gains.
        lam: Strength, 0 or more.

    Returns:
        A scalar to be added to the loss.

    Raises:
        ValueError: If ``lam`` is negative or there are no weights.

    Examples:
        >>> import torch
        >>> l2_penalty([torch.tensor([3.0, 4.0])], lam=0.1)
        tensor(1.2500)
    """
    check_strength(lam)
    return 0.5 * lam * sum(w.square().sum() for w in listed(params))


def shrinkage(singular_values: Tensor, lam: float) -> Tensor:
    """What ridge regression leaves of the least-squares fit along each singular direction: ``s**2 / (s**2 + lam)``.

    Their sum is the effective number of parameters.

    Args:
        singular_values: Those of the matrix of features, above 0.
        lam: Strength of the penalty beside half the sum of squared errors.

    Examples:
        >>> import torch
        >>> shrinkage(torch.tensor([10.0, 1.0, 0.1]), lam=1.0)  # strong directions stay, weak ones go
        tensor([0.9901, 0.5000, 0.0099])
    """
    expect("singular_values", singular_values, "...")
    check_strength(lam)
    return singular_values.square() / (singular_values.square() + lam)


def check_strength(lam: float) -> None:
    """Raises unless the strength of a penalty is a number from 0.

    Args:
        lam: The strength.

    Examples:
        >>> check_strength(-1.0)
        Traceback (most recent call last):
        ValueError: lam=-1.0 is not 0 or a number above
    """
    if not 0 <= lam < float("inf"):
        raise ValueError(f"lam={lam} is not 0 or a number above")
