import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.losses.dice import dice_loss, dice_push
from vocab.losses.dice import DiceLoss, check_share, overlap_sums, ratio

PROB = torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
TRUTH = (torch.rand(3, 4, 5, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64) < 0.3).double()


def example():
    """For the contract suite: a small instance and its inputs."""
    return DiceLoss(), (torch.randn(2, 2, 2, 3).double(), torch.rand(2, 2, 2, 3).round().double())


def dice(prob, truth, **options):
    """The loss of one mask of probabilities, without smoothing unless told."""
    prob, truth = (torch.as_tensor(x, dtype=torch.float64).reshape(1, 1, -1) for x in (prob, truth))
    return DiceLoss(**{"smooth": 0.0, "from_logits": False, **options})(prob, truth)


@pytest.mark.oracle("sklearn.metrics.f1_score and jaccard_score")
def test_of_hard_masks_it_is_one_minus_f1_and_follows_from_the_jaccard_index():
    metrics = pytest.importorskip("sklearn.metrics")
    hard = (PROB > 0.6).double()
    each = DiceLoss(smooth=0.0, from_logits=False, reduction="none")(hard, TRUTH)
    for b in range(3):
        for c in range(4):
            a, t = hard[b, c].flatten().numpy(), TRUTH[b, c].flatten().numpy()
            iou = metrics.jaccard_score(t, a)
            assert 1 - each[b, c].item() == pytest.approx(metrics.f1_score(t, a), rel=1e-12)
            assert 1 - each[b, c].item() == pytest.approx(2 * iou / (1 + iou), rel=1e-12)


@pytest.mark.oracle("transformers dice_loss (as in DETR's masks)")
def test_equals_the_loss_of_a_detection_library():
    library = pytest.importorskip("transformers.loss.loss_for_object_detection").dice_loss
    logits = torch.logit(PROB).requires_grad_()
    ours, theirs = DiceLoss(per_channel=False)(logits, TRUTH), library(logits, TRUTH.flatten(1), 3)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, theirs)), rtol=1e-10, atol=1e-16)


@pytest.mark.oracle("pytorch_optimizer.loss.DiceLoss (over the batch, one mask per channel)")
@pytest.mark.parametrize("smooth", [0.0, 0.5, 10.0])
def test_equals_a_second_library_over_the_batch(smooth):
    library = pytest.importorskip("pytorch_optimizer.loss").DiceLoss
    logits = torch.logit(PROB)
    reference = library("multilabel", label_smooth=smooth)(logits, TRUTH)
    torch.testing.assert_close(DiceLoss(smooth, batch=True)(logits, TRUTH), reference, rtol=1e-10, atol=0)


@pytest.mark.oracle("scipy.spatial.distance.dice")
def test_of_hard_masks_it_is_the_dice_dissimilarity():
    dissimilarity = pytest.importorskip("scipy.spatial.distance").dice
    a, t = (PROB[0, 0] > 0.4).flatten(), TRUTH[0, 0].flatten()
    assert dice(a, t).item() == pytest.approx(dissimilarity(a.numpy(), t.bool().numpy()), rel=1e-12)


@pytest.mark.oracle("gradient formula of the V-Net paper, for squares in the denominator")
def test_gradient_with_squares_is_that_of_the_paper():
    p = PROB[:1, :1].clone().requires_grad_()
    t = TRUTH[:1, :1]
    DiceLoss(0.0, square=True, from_logits=False)(p, t).backward()
    q, areas = p.detach(), (PROB[0, 0] ** 2).sum() + t.sum()
    rise = 2 * (t * areas - 2 * q * (q * t).sum()) / areas**2  # of the coefficient
    torch.testing.assert_close(p.grad, -rise, rtol=1e-10, atol=0)


def test_every_pixel_of_the_object_gets_one_push_and_all_of_the_background_another():
    p, t = PROB[0, 0].flatten().requires_grad_(), TRUTH[0, 0].flatten()
    loss = dice(p, t, smooth=2.0)
    loss.backward()
    areas = (PROB[0, 0].sum() + t.sum() + 2.0).item()
    overlap = 1 - loss.item()
    for value, expected in ((1, (overlap - 2) / areas), (0, overlap / areas)):
        np.testing.assert_allclose(p.grad[t == value].numpy(), expected, rtol=1e-10)


def test_equal_masks_cost_nothing_and_disjoint_ones_everything():
    t = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    for square in (False, True):
        assert dice(t, t, square=square).item() == 0
        assert dice(t.flip(0), t, square=square).item() == 1
        assert dice(t, t, square=square, smooth=3.0).item() == 0


def test_smoothing_and_squares_by_hand():
    p, t = [0.5, 1.0, 0.25, 0.0], [1.0, 1.0, 0.0, 0.0]
    assert dice(p, t).item() == pytest.approx(1 - 2 * 1.5 / 3.75, rel=1e-12)
    assert dice(p, t, square=True).item() == pytest.approx(1 - 2 * 1.5 / (1.3125 + 2), rel=1e-12)
    assert dice(p, t, smooth=2.0).item() == pytest.approx(1 - (3 + 2) / (3.75 + 2), rel=1e-12)


def test_defaults_are_sigmoid_smoothing_of_one_and_the_mean_over_images_and_channels():
    logits = torch.zeros(2, 3, 2, 2)
    target = torch.zeros(2, 3, 2, 2)
    target[0, 0] = 1
    assert DiceLoss()(logits, target).item() == pytest.approx((1 - (2 * 2 + 1) / (2 + 4 + 1) + 5 * (1 - 1 / 3)) / 6)


def test_background_that_is_recognized_does_not_count():
    p, t = PROB[0, 0].flatten(), TRUTH[0, 0].flatten()
    more = torch.zeros(10_000, dtype=torch.float64)
    for options in ({}, {"square": True}, {"smooth": 1.0}):
        torch.testing.assert_close(dice(torch.cat([p, more]), torch.cat([t, more]), **options), dice(p, t, **options), rtol=1e-12, atol=0)


def test_which_sums_make_one_overlap():
    def one(prob, truth):
        return 1 - 2 * (prob * truth).sum().item() / (prob + truth).sum().item()

    expected = {
        (True, False): [[one(PROB[b, c], TRUTH[b, c]) for c in range(4)] for b in range(3)],
        (False, False): [one(PROB[b], TRUTH[b]) for b in range(3)],
        (True, True): [one(PROB[:, c], TRUTH[:, c]) for c in range(4)],
        (False, True): one(PROB, TRUTH),
    }
    for (per_channel, batch), values in expected.items():
        options = dict(smooth=0.0, from_logits=False, per_channel=per_channel, batch=batch)
        values = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(DiceLoss(**options, reduction="none")(PROB, TRUTH), values)
        torch.testing.assert_close(DiceLoss(**options)(PROB, TRUTH), values.mean())
        torch.testing.assert_close(DiceLoss(**options, reduction="sum")(PROB, TRUTH), values.sum())


def test_a_small_object_that_is_missed_counts_by_image_but_not_by_batch():
    truth = torch.zeros(2, 1, 1000)
    truth[0, 0, :500], truth[1, 0, :5] = 1, 1
    found = truth.clone()
    found[1] = 0
    options = dict(smooth=0.0, from_logits=False)
    assert DiceLoss(**options)(found, truth).item() == pytest.approx(0.5)
    assert DiceLoss(**options, batch=True)(found, truth).item() == pytest.approx(1 - 1000 / 1005, rel=1e-4)


def test_weights_of_channels_make_a_weighted_mean():
    weight = torch.tensor([0.0, 1.0, 2.0, 5.0])
    each = DiceLoss(reduction="none")(PROB, TRUTH)
    loss = DiceLoss(weight=weight)
    torch.testing.assert_close(loss(PROB, TRUTH), torch.from_numpy(np.average(each, axis=1, weights=weight)).mean())
    torch.testing.assert_close(DiceLoss(weight=weight, reduction="none")(PROB, TRUTH), each * weight)
    torch.testing.assert_close(DiceLoss(weight=weight, batch=True)(PROB, TRUTH),
                               torch.as_tensor(np.average(DiceLoss(batch=True, reduction="none")(PROB, TRUTH), weights=weight)))
    assert loss.state_dict().keys() == {"weight"}
    assert DiceLoss(weight=torch.zeros(4))(PROB, TRUTH).item() == 0


def test_pixels_that_do_not_count_may_hold_anything():
    kept = PROB > 0.2
    logits = torch.where(kept, torch.logit(PROB), math.nan).requires_grad_()
    loss = DiceLoss()(logits, torch.where(kept, TRUTH, 255.0), kept)
    loss.backward()
    assert logits.grad.isfinite().all() and not logits.grad[~kept].any() and logits.grad[kept].all()
    shut_out = torch.where(kept, torch.logit(PROB), -math.inf)  # a sigmoid of exactly 0
    torch.testing.assert_close(loss, DiceLoss()(shut_out, TRUTH * kept))
    torch.testing.assert_close(DiceLoss(from_logits=False)(PROB, TRUTH, kept), loss)
    assert DiceLoss()(torch.logit(PROB), TRUTH, torch.zeros_like(kept)).item() == 0
    torch.testing.assert_close(DiceLoss()(torch.logit(PROB), TRUTH, torch.ones_like(kept)), DiceLoss()(torch.logit(PROB), TRUTH))


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_two_empty_masks_agree_with_a_gradient_that_is_finite(smooth):
    """Without smoothing the formula is 0/0; NaN there ruins all weights."""
    p = torch.zeros(1, 1, 9, requires_grad=True)
    loss = DiceLoss(smooth, from_logits=False)(p, torch.zeros(1, 1, 9))
    loss.backward()
    assert loss.item() == 0 and p.grad.isfinite().all()
    assert torch.equal(p.grad, torch.full_like(p, smooth))


@pytest.mark.parametrize(("smooth", "cost"), [(1e-5, 1.0), (1.0, 0.990), (100.0, 0.5)])
def test_what_an_empty_truth_costs_is_decided_by_the_smoothing(smooth, cost):
    """10,000 pixels that are background, each predicted as such with 99 %."""
    p = torch.full((10_000,), 0.01, dtype=torch.float64, requires_grad=True)
    loss = dice(p, torch.zeros(10_000), smooth=smooth)
    loss.backward()
    assert loss.item() == pytest.approx(cost, abs=2e-4)
    np.testing.assert_allclose(p.grad, smooth / (100 + smooth) ** 2, rtol=1e-9)


def test_nothing_in_the_batch_costs_nothing():
    for shape in ((0, 2, 3), (2, 0, 3), (2, 2, 0)):
        assert DiceLoss()(torch.zeros(shape), torch.zeros(shape)).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_stay_finite(dtype):
    z = torch.tensor([[[1e4, -1e4, 1e4, -1e4]]], dtype=dtype, requires_grad=True)
    loss = DiceLoss(0.0)(z, torch.tensor([[[1.0, 1.0, 0.0, 0.0]]], dtype=dtype))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == 0.5
    assert torch.equal(z.grad, torch.zeros_like(z)), "a sigmoid that is certain has no slope: why cross-entropy is added"


def test_a_half_precision_mask_of_512_by_512_does_not_overflow():
    """The sum of 262,144 ones is infinite in float16, and infinity over infinity is NaN."""
    ones = torch.ones(1, 1, 512, 512, dtype=torch.float16)
    assert torch.sum(ones).isinf()
    assert DiceLoss(from_logits=False)(ones, ones).item() == 0
    assert DiceLoss(0.0, from_logits=False, square=True)(ones, torch.where(torch.arange(512) < 256, ones, 0.0)).item() == pytest.approx(1 / 3)


def test_coefficient_minimized_as_if_it_were_the_loss_drives_the_masks_apart():
    """Erratum: 2 |A and B| / (|A| + |B|) is what shall become large."""
    truth = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    ends = []
    for sign in (1, -1):
        z = torch.zeros(6, requires_grad=True)
        for _ in range(300):
            loss = DiceLoss(0.0)(z.view(1, 1, 6), truth.view(1, 1, 6))
            (slope,) = torch.autograd.grad(loss if sign == 1 else 1 - loss, z)
            z = (z - 5 * slope).detach().requires_grad_()
        ends.append((z > 0).float())
    assert torch.equal(ends[0], truth)
    assert (ends[1] * truth).sum() == 0


def test_hard_predictions_have_no_gradient():
    """Erratum, second half: the coefficient of thresholded masks is a metric, not a loss."""
    p = PROB[0, 0].clone().requires_grad_()
    assert dice(p, TRUTH[0, 0]).requires_grad
    assert not dice(p > 0.5, TRUTH[0, 0]).requires_grad


@pytest.mark.parametrize(("chance", "best"), [(0.8, 1.0), (0.6, 1.0), (0.4, 0.0), (0.2, 0.0)])
def test_the_best_answer_to_doubt_is_certainty(chance, best):
    """100 pixels are the object for sure; whether a fringe of 50 belongs to it, nobody knows: all of it or nothing, with a known chance."""
    core, fringe = torch.ones(100), torch.ones(50)
    answers = torch.linspace(0, 1, 101)
    expected = [(chance * dice(torch.cat([core, fringe * a]), torch.cat([core, fringe]))
                 + (1 - chance) * dice(torch.cat([core, fringe * a]), torch.cat([core, 0 * fringe]))).item() for a in answers]
    assert answers[int(np.argmin(expected))].item() == pytest.approx(best)
    honest = [F.binary_cross_entropy(a, torch.tensor(chance)).item() for a in answers]
    assert answers[int(np.argmin(honest))].item() == pytest.approx(chance, abs=1e-6)


def test_at_the_start_one_object_pixel_weighs_as_much_as_the_background_takes_from_it():
    """1 % foreground, all probabilities one half: the push per pixel is 101 times larger on the object."""
    t = torch.zeros(10_000, dtype=torch.float64)
    t[:100] = 1
    p = torch.full_like(t, 0.5).requires_grad_()
    loss = dice(p, t)
    loss.backward()
    overlap = 1 - loss.item()
    assert overlap == pytest.approx(100 / 5100)
    assert (-p.grad[0] / p.grad[-1]).item() == pytest.approx((2 - overlap) / overlap) == pytest.approx(101)


def test_second_derivatives():
    t = TRUTH[:1, :2, :2, :3]
    for options in ({}, {"square": True, "smooth": 0.0}):
        z = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradgradcheck(lambda z: DiceLoss(**options)(z, t), (z,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(smooth=-1.0), "smooth=-1.0 is not 0 or more"),
        (dict(smooth=math.nan), "smooth=nan"),
        (dict(reduction="avg"), "reduction='avg' is not 'mean', 'sum' or 'none'"),
        (dict(weight=torch.tensor([1.0, -2.0])), "weight holds -2.0; expected numbers of 0 or more"),
        (dict(weight=torch.ones(2, 2)), r"weight has shape \(2, 2\); expected \(channels\)"),
        (dict(weight=torch.ones(2), per_channel=False), "weight is for the mean over channels"),
    ],
)
def test_bad_options_say_which_and_why(options, message):
    with pytest.raises(ValueError, match=message):
        DiceLoss(**options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3), torch.zeros(3)), ValueError, r"logits has shape \(3,\); expected \(B, C, \.\.\.\)"),
        ((torch.zeros(2, 1, 4), torch.zeros(2, 4)), ValueError, r"target has shape \(2, 4\); expected that of logits, \(2, 1, 4\)"),
        ((torch.zeros(1, 1, 2), torch.tensor([[[0.0, 255.0]]])), ValueError, "target holds 255; expected numbers from 0 to 1"),
        ((torch.zeros(1, 1, 2), torch.tensor([[[0.0, -1.0]]])), ValueError, "target holds -1; expected"),
        ((torch.zeros(1, 1, 2), torch.zeros(1, 1, 2).long()), TypeError, "target has dtype torch.int64"),
        ((torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.ones(1, 1, 2)), TypeError, "mask has dtype torch.float32; expected torch.bool"),
        ((torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.ones(1, 2).bool()), ValueError, r"mask has shape \(1, 2\); expected that of logits"),
    ],
)
def test_bad_input_is_named(arguments, error, message):
    with pytest.raises(error, match=message):
        DiceLoss()(*arguments)


def test_logits_where_probabilities_belong_are_refused():
    with pytest.raises(ValueError, match=r"from_logits=False\) holds 3.5; expected numbers from 0 to 1"):
        DiceLoss(from_logits=False)(torch.tensor([[[0.1, 3.5]]]), torch.zeros(1, 1, 2))
    check_share("x", torch.tensor([-1e-4, 1.0001, math.nan]))  # rounding of a resized mask
    for bad in (-0.01, 1.01):
        with pytest.raises(ValueError, match="x holds"):
            check_share("x", torch.tensor([bad]))


def test_weights_of_another_number_of_channels_are_refused():
    with pytest.raises(ValueError, match="weight has 3 channels; logits has 4"):
        DiceLoss(weight=torch.ones(3))(PROB, TRUTH)


def test_a_matrix_of_one_number_per_channel_is_its_own_overlap():
    both, areas = overlap_sums(PROB[:, :, 0, 0], TRUTH[:, :, 0, 0], [])
    torch.testing.assert_close(both, PROB[:, :, 0, 0] * TRUTH[:, :, 0, 0])
    torch.testing.assert_close(DiceLoss(0.0, from_logits=False, reduction="none")(PROB[:, :, 0, 0], TRUTH[:, :, 0, 0]), 1 - ratio(2 * both, areas))


@pytest.mark.parametrize("smooth", [0.0, 1.0, 7.5])
def test_numpy_variant_agrees(agree, smooth):
    p, t = PROB[0, 0].clone().requires_grad_(), TRUTH[0, 0]
    loss = dice(p, t, smooth=smooth)
    (slope,) = torch.autograd.grad(loss, p)
    agree(dice_loss(p.detach().numpy(), t.numpy(), smooth), loss)
    agree(dice_push(p.detach().numpy(), t.numpy(), smooth), slope)
    agree(dice_loss(p.detach().numpy(), t.numpy(), smooth, square=True), dice(p, t, smooth=smooth, square=True))
