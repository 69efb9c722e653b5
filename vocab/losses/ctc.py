"""Connectionist temporal classification: the loss of a sequence of labels whose times nobody wrote down, and two decoders.

Source: Graves et al. 2006, doi:10.1145/1143844.1143891, sections 3 and 4.1; prefix beam search as in Hannun 2017, doi:10.23915/distill.00008.
"""

from __future__ import annotations

import math
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vocab.check import expect
from vocab.losses.cross_entropy import check_reduction, reduced, widen

__all__ = ["CTCLoss", "ctc_collapse", "ctc_greedy_decode", "ctc_prefix_beam"]

# T frames, N sequences, C classes with the blank, S labels of the longest target; 2S + 1 states: blank, label, blank, label ... blank


class CTCLoss(nn.Module):
    """Minus the logarithm of the probability of a label sequence, summed over all paths of frames that collapse to it.

    16 bits are widened to 32, and the loss stays there. A target that no path can spell, because it has more labels (and blanks between
    equal neighbors) than there are frames, has the loss ``inf`` with gradient 0. The mean over no sequence is 0.

    Args:
        blank: The class that stands for "no label in this frame".
        zero_infinity: Whether a target that no path can spell costs 0 instead of ``inf``. It still counts in the mean.
        reduction: ``"mean"`` divides each loss by the length of its target (by 1 if empty), then averages over the sequences, as PyTorch does;
            ``"sum"``; or ``"none"``.

    Shapes:
        log_probs ``(T, N, C)``, logarithms of probabilities that sum to 1 over the classes; targets ``(N, S)``, class numbers, of which those
        past the length are not looked at; input_lengths ``(N,)``, target_lengths ``(N,)`` -> a scalar, or ``(N,)`` without reduction.

    Raises:
        ValueError: If an option is out of range, a shape does not fit, or (not looked for while compiling) a length is too large, a target
            holds the blank or a class that is not there, or log_probs holds a number above 0.

    Examples:
        >>> loss = CTCLoss(reduction="none")
        >>> p = torch.tensor([[[0.6, 0.4]], [[0.6, 0.4]]])  # two frames of blank and "a": aa, a-, -a all spell "a"
        >>> loss(p.log(), torch.tensor([[1]]), torch.tensor([2]), torch.tensor([1])).exp()
        tensor([1.5625])
    """

    def __init__(self, blank: int = 0, zero_infinity: bool = False, reduction: str = "mean") -> None:
        super().__init__()
        if blank < 0:
            raise ValueError(f"blank={blank} is not 0 or more")
        check_reduction(reduction)
        self.blank, self.zero_infinity, self.reduction = blank, zero_infinity, reduction

    def forward(self, log_probs: Tensor, targets: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> Tensor:
        expect("log_probs", log_probs, "time batch classes")
        T, N, C = log_probs.shape
        expect("targets", targets, "batch labels", dtype="int", batch=N)
        expect("input_lengths", input_lengths, "batch", dtype="int", batch=N)
        expect("target_lengths", target_lengths, "batch", dtype="int", batch=N)
        input_lengths, target_lengths = (x.to(log_probs.device) for x in (input_lengths, target_lengths))
        inside = torch.arange(targets.shape[1], device=targets.device) < target_lengths[:, None]
        self._check_values(log_probs, targets, inside, input_lengths, target_lengths)

        labels = torch.where(inside, targets, self.blank).long()
        states = torch.stack([torch.full_like(labels, self.blank), labels], 2).flatten(1)
        states = F.pad(states, (0, 1), value=self.blank)
        # From label to label, past the blank between them. Between equal labels that blank is all that keeps them two.
        two_before = F.pad(states, (2, 0), value=self.blank)[:, :-2]
        may_skip = (states != self.blank) & (states != two_before)

        heard = (torch.arange(T, device=log_probs.device)[:, None] < input_lengths)[:, :, None]
        emit = torch.where(heard, widen(log_probs).gather(2, states.expand(T, -1, -1)), 0.0)
        # alpha: log-probability of all beginnings of paths that are in a state. Before the first frame: in the first blank.
        alpha = torch.full_like(states, -math.inf, dtype=emit.dtype)
        alpha = torch.where(torch.arange(states.shape[1], device=alpha.device) == 0, 0.0, alpha)
        for t in range(T):
            step = F.pad(alpha, (1, 0), value=-math.inf)[:, :-1]
            skip = torch.where(may_skip, F.pad(alpha, (2, 0), value=-math.inf)[:, :-2], -math.inf)
            alpha = torch.where(heard[t], _log_add(alpha, step, skip) + emit[t], alpha)

        # A path ends in the last label or in the blank after it.
        last = target_lengths.long()[:, None] * 2
        in_blank, in_label = alpha.gather(1, last)[:, 0], alpha.gather(1, (last - 1).clamp(min=0))[:, 0]
        loss = -_log_add(in_blank, torch.where(target_lengths > 0, in_label, -math.inf))
        if self.zero_infinity:
            loss = torch.where(loss == math.inf, 0.0, loss)
        return reduced(loss / target_lengths.clamp(min=1) if self.reduction == "mean" else loss, self.reduction)

    def _check_values(self, log_probs: Tensor, targets: Tensor, inside: Tensor, input_lengths: Tensor, target_lengths: Tensor) -> None:
        (T, _, C), S = log_probs.shape, targets.shape[1]
        if self.blank >= C:
            raise ValueError(f"blank={self.blank} is no class; log_probs has {C}")
        if torch.compiler.is_compiling():
            return
        for name, lengths, most, of in (("input_lengths", input_lengths, T, "log_probs has"), ("target_lengths", target_lengths, S, "targets has")):
            wrong = (lengths < 0) | (lengths > most)
            if wrong.any():
                raise ValueError(f"{name} holds {lengths[wrong][0].item()}; expected 0 to {most}, as long as {of}")
        used = targets[inside]
        wrong = (used < 0) | (used >= C) | (used == self.blank)
        if wrong.any():
            raise ValueError(f"targets holds {used[wrong][0].item()}; expected classes from 0 to {C - 1} other than the blank, {self.blank}")
        _check_log_probs(log_probs)


def ctc_collapse(path: list[int], blank: int = 0) -> list[int]:
    """Reads a path, one class per frame: equal neighbors are merged, then blanks are dropped.

    Args:
        path: A class for each frame.
        blank: The class that stands for "no label in this frame".

    Examples:
        >>> ctc_collapse([0, 3, 3, 0, 3, 5, 5])
        [3, 3, 5]
    """
    return [label for label, _ in groupby(path) if label != blank]


def ctc_greedy_decode(log_probs: Tensor, input_lengths: Tensor | None = None, blank: int = 0) -> list[list[int]]:
    """Reads the best class of each frame. That is the most probable path, which need not spell the most probable labels.

    Args:
        log_probs: Scores of the classes; their scale does not matter.
        input_lengths: How many frames of each sequence count; all by default.
        blank: The class that stands for "no label in this frame".

    Shapes:
        log_probs ``(T, N, C)``, input_lengths ``(N,)`` -> N lists of labels.

    Raises:
        ValueError: If a shape does not fit or a score is NaN.

    Examples:
        >>> ctc_greedy_decode(torch.eye(3)[[1, 1, 0, 1, 2]].unsqueeze(1))
        [[1, 1, 2]]
    """
    expect("log_probs", log_probs, "time batch classes")
    T, N, _ = log_probs.shape
    if log_probs.isnan().any():
        raise ValueError("log_probs holds nan")
    lengths = [T] * N
    if input_lengths is not None:
        expect("input_lengths", input_lengths, "batch", dtype="int", batch=N)
        lengths = input_lengths.tolist()
    paths = log_probs.argmax(2).T.tolist()
    return [ctc_collapse(path[:length], blank) for path, length in zip(paths, lengths)]


def ctc_prefix_beam(log_probs: Tensor, beam: int = 16, blank: int = 0) -> list[tuple[list[int], float]]:
    """Searches for the most probable labels of one sequence, adding up the paths that begin alike.

    After each frame only the ``beam`` most probable prefixes are kept, so the probabilities are lower bounds; without pruning they are exact.

    Args:
        log_probs: Logarithms of the probabilities of the classes.
        beam: How many prefixes are kept. 1 is not greedy decoding: it still adds up paths.
        blank: The class that stands for "no label in this frame".

    Shapes:
        log_probs ``(T, C)`` -> a list of labels with their log-probability, the most probable first, at most ``beam`` of them.

    Raises:
        ValueError: If ``beam`` is below 1, ``blank`` is no class, the shape does not fit, or log_probs holds NaN or a number above 0.

    Examples:
        >>> p = torch.tensor([[0.6, 0.4], [0.6, 0.4]])  # greedily nothing at all, of probability 0.36
        >>> [(labels, round(math.exp(score), 2)) for labels, score in ctc_prefix_beam(p.log())]
        [([1], 0.64), ([], 0.36)]
    """
    expect("log_probs", log_probs, "time classes")
    if beam < 1:
        raise ValueError(f"beam={beam} is not 1 or more")
    if not 0 <= blank < log_probs.shape[1]:
        raise ValueError(f"blank={blank} is no class; log_probs has {log_probs.shape[1]}")
    if log_probs.isnan().any():
        raise ValueError("log_probs holds nan")
    _check_log_probs(log_probs)
    # Of each prefix, the log-probability of its paths that end in a blank, and of those that end in its last label.
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in log_probs.tolist():
        ways: dict[tuple[int, ...], list[list[float]]] = {}
        for prefix, (blank_last, label_last) in kept.items():
            ways.setdefault(prefix, [[], []])[0] += [blank_last + frame[blank], label_last + frame[blank]]
            for label, score in enumerate(frame):
                if label == blank:
                    continue
                grown = ways.setdefault((*prefix, label), [[], []])[1]
                grown.append(blank_last + score)
                # After itself without a blank, a label is still the same one.
                same = prefix and prefix[-1] == label
                (ways[prefix][1] if same else grown).append(label_last + score)
        sums = {prefix: (_log_sum(in_blank), _log_sum(in_label)) for prefix, (in_blank, in_label) in ways.items()}
        kept = dict(sorted(sums.items(), key=lambda item: -_log_sum(item[1]))[:beam])
    return [(list(prefix), total) for prefix, both in kept.items() if (total := _log_sum(both)) > -math.inf]


def _check_log_probs(log_probs: Tensor) -> None:
    too_large = log_probs > 1e-3  # rounding is allowed
    if too_large.any():
        raise ValueError(f"log_probs holds {log_probs[too_large][0].item():.4g}; expected logarithms of probabilities, at most 0: use log_softmax")


def _log_add(*logs: Tensor) -> Tensor:
    """Adds probabilities by their logarithms. Where all are 0 the gradient is 0; that of ``logsumexp`` would be NaN there."""
    logs = torch.stack(logs)
    none = logs.isneginf().all(0)
    return torch.where(none, -math.inf, torch.where(none, 0.0, logs).logsumexp(0))


def _log_sum(logs) -> float:
    most = max(logs, default=-math.inf)
    return most if most == -math.inf else most + math.log(sum(math.exp(x - most) for x in logs))
