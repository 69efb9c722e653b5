import math
from collections import defaultdict
from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses import ctc as numpy_ctc
from vocab.losses.ctc import CTCLoss, ctc_collapse, ctc_greedy_decode, ctc_prefix_beam

INF = math.inf


def log_probs(*shape, seed=0, scale=2.0):
    z = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.log_softmax(-1)


def example():
    """For the contract suite: a small instance and its inputs."""
    return CTCLoss(), (log_probs(5, 3, 4), torch.tensor([[1, 1], [3, 2], [2, 0]]), torch.tensor([5, 4, 2]), torch.tensor([2, 2, 1]))


def one(log_p, word, **options):
    """The loss of one sequence, its frames and labels all used."""
    targets = torch.tensor([word], dtype=torch.long).view(1, -1)
    return CTCLoss(reduction="none", **options)(log_p.unsqueeze(1), targets, torch.tensor([len(log_p)]), torch.tensor([len(word)]))[0]


def all_words(log_p, blank):
    """Probability of every label sequence: each of the C^T paths counted by hand, collapsed without the module's code."""
    found = defaultdict(float)
    p = log_p.exp().numpy()
    for path in product(range(p.shape[1]), repeat=len(p)):
        word = tuple(c for t, c in enumerate(path) if c != blank and (t == 0 or path[t - 1] != c))
        found[word] += math.prod(p[t, c] for t, c in enumerate(path))
    return found


@pytest.mark.oracle("sum over all C^T paths that collapse to the target")
@pytest.mark.parametrize(("frames", "classes", "blank"), [(1, 2, 0), (4, 3, 0), (4, 3, 1), (6, 3, 2), (5, 4, 0)])
def test_loss_adds_up_every_path_that_collapses_to_the_target(frames, classes, blank):
    log_p = log_probs(frames, classes, seed=frames)
    words = all_words(log_p, blank)
    for word, p in words.items():
        assert one(log_p, word, blank=blank).exp().item() * p == pytest.approx(1, rel=1e-12)
    assert sum(words.values()) == pytest.approx(1, rel=1e-12)
    assert sum((-one(log_p, word, blank=blank)).exp().item() for word in words) == pytest.approx(1, rel=1e-12)


@pytest.mark.oracle("torch.nn.functional.ctc_loss")
@pytest.mark.parametrize("zero_infinity", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("blank", [0, 2, 4])
def test_value_and_gradient_by_the_logits_equal_pytorchs(blank, reduction, zero_infinity):
    generator = torch.Generator().manual_seed(3)
    N, T, C, S = 6, 12, 5, 4
    z = 2 * torch.randn(T, N, C, generator=generator, dtype=torch.float64)
    targets = torch.randint(C - 1, (N, S), generator=generator)
    targets += targets >= blank
    inputs, lengths = torch.tensor([12, 9, 12, 5, 7, 3]), torch.tensor([4, 3, 1, 0, 2, 4])
    if not zero_infinity:
        inputs[-1] = 12  # without it the last target is impossible in three frames
    results = []
    for loss in (CTCLoss(blank, zero_infinity, reduction), torch.nn.CTCLoss(blank, reduction, zero_infinity)):
        x = z.clone().requires_grad_()
        value = loss(x.log_softmax(2), targets, inputs, lengths)
        results.append((value, torch.autograd.grad((value * torch.linspace(1, 2, value.numel()).view_as(value)).sum(), x)[0]))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("binomial coefficient: how many paths spell a word")
@pytest.mark.parametrize(("frames", "word"), [(3, [1]), (7, [1, 2, 1]), (7, [2, 2, 1]), (9, [1, 1, 1, 2]), (100, [1 + i % 26 for i in range(20)])])
def test_equal_probabilities_count_the_paths(frames, word):
    classes = 27
    uniform = torch.full((frames, classes), -math.log(classes), dtype=torch.float64)
    repeats = sum(a == b for a, b in zip(word, word[1:]))
    paths = math.comb(frames + len(word) - repeats, 2 * len(word))
    assert one(uniform, word).item() == pytest.approx(frames * math.log(classes) - math.log(paths), rel=1e-12)


def test_a_network_that_knows_nothing_starts_where_the_page_says_and_is_pushed_to_blanks():
    """100 frames, 20 labels, 27 classes: the number to expect in the log, and what the first gradient wants."""
    z = torch.zeros(100, 27, dtype=torch.float64, requires_grad=True)
    word = [1 + i % 26 for i in range(20)]
    loss = one(z.log_softmax(1), word)
    assert math.comb(120, 40) == pytest.approx(1.1e32, rel=0.05)
    assert (loss.item(), loss.item() / 20) == (pytest.approx(255.8, abs=0.05), pytest.approx(12.8, abs=0.05))
    loss.backward()
    wanted = (1 / 27 - z.grad).mean(0)
    assert wanted[0].item() == pytest.approx(21 * (121 / 41 - 1) / 100, rel=1e-9) == pytest.approx(0.41, abs=5e-3)
    assert wanted[1:].max().item() < 0.04


@pytest.mark.oracle("forward times backward, counted over all paths")
def test_gradient_is_the_probability_minus_the_share_of_the_paths():
    log_p, word = log_probs(4, 3, seed=5), (1, 2)
    z = log_p.clone().requires_grad_()
    one(z.log_softmax(1), word).backward()
    share, total = torch.zeros(4, 3).double(), 0.0
    for path in product(range(3), repeat=4):
        if ctc_collapse(path) == [*word]:
            p = math.prod(log_p[t, c].exp().item() for t, c in enumerate(path))
            total += p
            share[torch.arange(4), torch.tensor(path)] += p
    torch.testing.assert_close(z.grad, log_p.exp() - share / total, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(numpy_ctc.share(log_p.numpy(), list(word)), share / total, rtol=1e-11, atol=1e-13)


def test_pytorchs_gradient_is_that_by_the_logits_even_where_logarithms_are_asked_for():
    """Its backward adds the probabilities, which log_softmax takes away again; without log_softmax in the graph the gradient is wrong."""
    x = log_probs(5, 1, 3).requires_grad_()
    inputs = (torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2]))
    (ours,) = torch.autograd.grad(CTCLoss(reduction="sum")(x, *inputs), x)
    (theirs,) = torch.autograd.grad(F.ctc_loss(x, *inputs, reduction="sum"), x)
    torch.testing.assert_close(theirs, ours + x.exp(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.sum(2), -torch.ones(5, 1).double())
    assert not torch.autograd.gradcheck(lambda x: F.ctc_loss(x, *inputs), (x,), raise_exception=False)


def test_repeats_need_a_blank_and_so_one_frame_more():
    log_p = log_probs(4, 3)
    assert one(log_p[:2], [1, 2]).isfinite() and one(log_p[:2], [1, 1]).isinf()
    assert one(log_p[:3], [1, 1]).item() == pytest.approx(-(log_p[0, 1] + log_p[1, 0] + log_p[2, 1]).item())
    assert one(log_p, [1, 1, 2]).isfinite() and one(log_p, [1, 1, 1]).isinf()


def test_a_target_that_is_too_long_is_infinite_or_left_out_and_never_nan():
    x = log_probs(3, 2, 3).requires_grad_()
    arguments = x, torch.tensor([[1, 1, 2], [1, 2, 1]]), torch.tensor([3, 3]), torch.tensor([3, 2])
    infinite, fine = CTCLoss(reduction="none")(*arguments)
    assert infinite == INF and fine.isfinite()
    (slope,) = torch.autograd.grad(fine + infinite, x)
    assert torch.equal(slope[:, 0], torch.zeros(3, 3).double()) and slope.isfinite().all()
    assert CTCLoss()(*arguments) == INF
    torch.testing.assert_close(CTCLoss(zero_infinity=True)(*arguments), fine / 2 / 2)  # half a mean: the other still counts
    (theirs,) = torch.autograd.grad(F.ctc_loss(*arguments, reduction="sum"), x)
    assert theirs.isnan().any()


def test_mean_divides_by_the_length_of_the_target_first():
    log_p, targets, inputs, lengths = log_probs(9, 3, 4), torch.tensor([[1, 2, 3], [1, 0, 0], [0, 0, 0]]), torch.tensor([9, 9, 9]), torch.tensor([3, 1, 0])
    a, b, c = CTCLoss(reduction="none")(log_p, targets, inputs, lengths)
    torch.testing.assert_close(CTCLoss()(log_p, targets, inputs, lengths), (a / 3 + b + c) / 3)
    torch.testing.assert_close(CTCLoss(reduction="sum")(log_p, targets, inputs, lengths), a + b + c)


def test_no_label_is_a_path_of_blanks():
    log_p = log_probs(6, 3)
    torch.testing.assert_close(one(log_p, []), -log_p[:, 0].sum())
    torch.testing.assert_close(one(log_p, [], blank=1), -log_p[:, 1].sum())
    assert one(log_p[:0], []) == 0 and one(log_p[:0], [1]) == INF


def test_the_mean_over_no_sequence_is_zero():
    none = torch.zeros(0, dtype=torch.long)
    assert CTCLoss()(torch.zeros(4, 0, 3), torch.zeros(0, 2, dtype=torch.long), none, none) == 0


def test_padding_may_hold_anything():
    x = log_probs(7, 2, 4)
    targets, inputs, lengths = torch.tensor([[1, 2, 3], [3, 1, 2]]), torch.tensor([7, 4]), torch.tensor([3, 1])
    loss = CTCLoss(reduction="none")
    expected = loss(x, targets, inputs, lengths)
    poisoned, other = x.clone(), targets.clone()
    poisoned[4:, 1], other[1, 1:] = torch.nan, torch.tensor([-1, 99])
    poisoned.requires_grad_()
    got = loss(poisoned, other, inputs, lengths)
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    (slope,) = torch.autograd.grad(got.sum(), poisoned)
    assert torch.equal(slope[4:, 1], torch.zeros(3, 4).double()) and slope[:4].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_of_ten_thousand_have_finite_losses_and_gradients(dtype):
    z = torch.full((40, 1, 3), -1e4, dtype=dtype)
    z[:, :, 0] = 1e4
    z.requires_grad_()
    loss = CTCLoss(reduction="sum")(z.log_softmax(2), torch.tensor([[1, 2]]), torch.tensor([40]), torch.tensor([2]))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(4e4, rel=5e-3)
    assert z.grad.isfinite().all() and z.grad[:, 0, 1].sum().item() == pytest.approx(-1, rel=1e-2)


def test_impossible_classes_have_no_gradient_and_break_nothing():
    z = torch.zeros(3, 3, dtype=torch.float64)
    z[1] = torch.tensor([-INF, 0, 0])
    log_p = z.log_softmax(1).requires_grad_()
    loss = one(log_p, [1, 2])
    assert loss.item() == pytest.approx(-math.log(4 / 18))  # 112, 122, -12, 12-
    (slope,) = torch.autograd.grad(loss, log_p)
    assert slope.isfinite().all() and slope[1, 0] == 0


def test_second_derivatives():
    x = log_probs(4, 2, 3).requires_grad_()
    fixed = torch.tensor([[1, 1], [2, 1]]), torch.tensor([4, 3]), torch.tensor([2, 2])
    assert torch.autograd.gradgradcheck(lambda x: CTCLoss()(x, *fixed), (x,))


def test_a_thousand_frames_do_not_underflow():
    log_p = log_probs(1000, 4).float()
    word = [1, 2, 3] * 30
    args = torch.tensor([word]), torch.tensor([1000]), torch.tensor([90])
    assert one(log_p, word).item() == pytest.approx(F.ctc_loss(log_p.double().unsqueeze(1), *args, reduction="sum").item(), rel=1e-5)


def test_lengths_and_targets_may_be_of_any_integer_dtype():
    x, targets, inputs, lengths = example()[1]
    expected = CTCLoss()(x, targets, inputs, lengths)
    for dtype in (torch.int32, torch.uint8):
        assert torch.equal(CTCLoss()(x, targets.to(dtype), inputs.to(dtype), lengths.to(dtype)), expected)


def test_scores_that_are_no_logarithms_of_probabilities_are_refused():
    targets = torch.tensor([[1, 2]]), torch.tensor([5]), torch.tensor([2])
    logits = log_probs(5, 1, 3) + 4
    assert F.ctc_loss(logits, *targets).item() < 0, "a negative loss and no error"
    for wrong in (logits, log_probs(5, 1, 3).exp()):
        with pytest.raises(ValueError, match="expected logarithms of probabilities, at most 0: use log_softmax"):
            CTCLoss()(wrong, *targets)
        with pytest.raises(ValueError, match="use log_softmax"):
            ctc_prefix_beam(wrong[:, 0])


@pytest.mark.parametrize(("path", "word"), [([], []), ([0, 0], []), ([1, 1, 0, 1, 2, 2], [1, 1, 2]), ([0, 3, 0, 0, 3], [3, 3]), ([2, 1, 2], [2, 1, 2])])
def test_collapse_merges_neighbors_before_it_drops_blanks(path, word):
    assert ctc_collapse(path) == word == numpy_ctc.collapse(path)


def test_collapse_with_another_blank():
    assert ctc_collapse([3, 0, 0, 3, 0, 1], blank=3) == [0, 0, 1]


def test_greedy_decoding_is_not_the_most_probable_labeling():
    p = torch.tensor([[0.6, 0.4], [0.6, 0.4]], dtype=torch.float64)
    assert ctc_greedy_decode(p.log().unsqueeze(1)) == [[]]
    (best, score), (second, other) = ctc_prefix_beam(p.log())
    assert (best, second) == ([1], []) and math.exp(score) == pytest.approx(0.64) and math.exp(other) == pytest.approx(0.36)


def test_greedy_reads_each_sequence_to_its_length():
    scores = F.one_hot(torch.tensor([[1, 2, 0], [1, 0, 0], [0, 2, 0], [2, 2, 1]]), 3).double()
    assert ctc_greedy_decode(scores) == [[1, 2], [2, 2], [1]]
    assert ctc_greedy_decode(scores, torch.tensor([3, 2, 0])) == [[1], [2], []]
    assert ctc_greedy_decode(scores, blank=2) == [[1, 0], [0], [0, 1]]


@pytest.mark.oracle("sum over all C^T paths that collapse to the target")
@pytest.mark.parametrize(("seed", "blank"), [(0, 0), (1, 2), (2, 1)])
def test_a_beam_that_keeps_everything_finds_every_word_with_its_probability(seed, blank):
    log_p = log_probs(5, 3, seed=seed)
    expected = all_words(log_p, blank)
    found = {tuple(word): math.exp(score) for word, score in ctc_prefix_beam(log_p, 10_000, blank)}
    assert found == {word: pytest.approx(p, rel=1e-12) for word, p in expected.items()}
    scores = [score for _, score in ctc_prefix_beam(log_p, 10_000, blank)]
    assert scores == sorted(scores, reverse=True)


def test_a_narrow_beam_gives_lower_bounds():
    for seed in range(10):
        log_p = log_probs(8, 4, seed=seed, scale=1.0)
        for beam in (1, 3, 8):
            found = ctc_prefix_beam(log_p, beam)
            assert len(found) == beam
            for word, score in found:
                assert score <= -one(log_p, word).item() + 1e-12


def test_sixteen_prefixes_are_kept_by_default():
    log_p = log_probs(6, 4)
    assert ctc_prefix_beam(log_p) == ctc_prefix_beam(log_p, 16) and len(ctc_prefix_beam(log_p)) == 16


def test_impossible_words_are_not_listed():
    log_p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]).log()
    assert ctc_prefix_beam(log_p) == [([], pytest.approx(math.log(0.5))), ([1], pytest.approx(math.log(0.5)))]
    assert ctc_prefix_beam(log_p[:0]) == [([], 0.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(log_probs=torch.zeros(5, 3)), r"log_probs has shape \(5, 3\); expected \(time, batch, classes\)"),
        (dict(targets=torch.ones(6).long()), r"targets has shape \(6,\); expected \(batch=3, labels\)"),
        (dict(targets=torch.ones(2, 2).long()), r"targets has shape \(2, 2\); expected \(batch=3, labels\)"),
        (dict(input_lengths=torch.tensor([5, 4])), r"input_lengths has shape \(2,\)"),
        (dict(target_lengths=torch.tensor([2])), r"target_lengths has shape \(1,\)"),
        (dict(input_lengths=torch.tensor([5, 6, 2])), "input_lengths holds 6; expected 0 to 5, as long as log_probs has"),
        (dict(input_lengths=torch.tensor([5, -1, 2])), "input_lengths holds -1; expected 0 to 5"),
        (dict(target_lengths=torch.tensor([2, 3, 1])), "target_lengths holds 3; expected 0 to 2, as long as targets has"),
        (dict(targets=torch.tensor([[1, 4], [3, 2], [2, 0]])), "targets holds 4; expected classes from 0 to 3 other than the blank, 0"),
        (dict(targets=torch.tensor([[1, -1], [3, 2], [2, 0]])), "targets holds -1; expected classes from 0 to 3"),
        (dict(targets=torch.tensor([[1, 0], [3, 2], [2, 0]])), "targets holds 0; expected classes from 0 to 3 other than the blank, 0"),
    ],
)
def test_bad_input_is_named(change, message):
    names = ("log_probs", "targets", "input_lengths", "target_lengths")
    loss, inputs = example()
    with pytest.raises(ValueError, match=message):
        loss(**{**dict(zip(names, inputs)), **change})


def test_bad_options_say_which_and_why():
    log_p = log_probs(4, 3)
    for call, message in [(lambda: CTCLoss(blank=-1), "blank=-1 is not 0 or more"),
                          (lambda: CTCLoss(reduction="avg"), "reduction='avg' is not"),
                          (lambda: one(log_p, [1], blank=3), "blank=3 is no class; log_probs has 3"),
                          (lambda: ctc_prefix_beam(log_p, blank=3), "blank=3 is no class; log_probs has 3"),
                          (lambda: ctc_prefix_beam(log_p, blank=-1), "blank=-1 is no class"),
                          (lambda: ctc_prefix_beam(log_p, 0), "beam=0 is not 1 or more"),
                          (lambda: ctc_prefix_beam(log_p * math.nan), "log_probs holds nan"),
                          (lambda: ctc_greedy_decode(log_p.unsqueeze(1) * math.nan), "log_probs holds nan"),
                          (lambda: ctc_prefix_beam(log_p.unsqueeze(1)), r"log_probs has shape \(4, 1, 3\); expected \(time, classes\)"),
                          (lambda: ctc_greedy_decode(log_p), r"log_probs has shape \(4, 3\); expected \(time, batch, classes\)"),
                          (lambda: ctc_greedy_decode(log_p.unsqueeze(1), torch.tensor([1, 2])), r"input_lengths has shape \(2,\)")]:
        with pytest.raises(ValueError, match=message):
            call()


def test_the_demos_best_path_is_the_best_of_all():
    log_p, word = log_probs(6, 3, seed=4), [1, 2, 2]
    every = sorted(((math.fsum(log_p[t, c].item() for t, c in enumerate(path)), path)
                    for path in product(range(3), repeat=6) if ctc_collapse(path) == word), reverse=True)
    found = numpy_ctc.best_paths(log_p.numpy(), word, 4)
    assert [path for _, path in found] == [path for _, path in every[:4]]
    np.testing.assert_allclose([p for p, _ in found], [p for p, _ in every[:4]], rtol=1e-12)


@pytest.mark.parametrize("word", [[1, 2], [1, 1, 2], [2, 2, 2, 2], []])
def test_numpy_variant_agrees(agree, word):
    log_p = log_probs(7, 3, seed=8)
    agree(numpy_ctc.ctc(log_p.numpy(), word), one(log_p, word))
    z = log_p.clone().requires_grad_()
    one(z.log_softmax(1), word).backward()
    agree(log_p.exp().numpy() - numpy_ctc.share(log_p.numpy(), word), z.grad, atol=1e-12)
    ours, theirs = ctc_prefix_beam(log_p, 6), numpy_ctc.prefix_beam(log_p.numpy(), 6)
    assert [w for w, _ in ours] == [w for w, _ in theirs]
    agree([p for _, p in theirs], [p for _, p in ours])
