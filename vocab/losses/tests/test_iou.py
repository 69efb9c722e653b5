import math

import numpy as np
import pytest
import torch

from snippets.losses.iou import box_iou_loss as numpy_loss
from snippets.losses.iou import box_push
from vocab.losses.iou import box_iou_loss, corners, soft_iou_loss

KINDS = ("iou", "giou", "diou", "ciou")


def boxes(n, seed, whole=False):
    """Random boxes with corners in a square of 24, of which about a third of the pairs do not touch."""
    generator = torch.Generator().manual_seed(seed)
    if whole:
        low, size = torch.randint(0, 14, (n, 2), generator=generator), torch.randint(1, 10, (n, 2), generator=generator)
    else:
        low, size = 14 * torch.rand(n, 2, generator=generator), 1 + 9 * torch.rand(n, 2, generator=generator)
    return torch.cat([low, low + size], 1).double()


PRED, TARGET = boxes(40, 1), boxes(40, 2)


def example():
    """For the contract suite: the function and its inputs; two of the pairs overlap."""
    def giou(pred, target):
        return box_iou_loss(pred, target, "giou")

    return giou, (PRED[:4].clone(), TARGET[:4].clone())


def one(pred, target, kind="iou", fmt="xyxy"):
    return box_iou_loss(torch.tensor([pred], dtype=torch.float64), torch.tensor([target], dtype=torch.float64), kind, fmt).item()


def pixels(box):
    drawn = np.zeros((24, 24), bool)
    x1, y1, x2, y2 = box.int().tolist()
    drawn[y1:y2, x1:x2] = True
    return drawn


@pytest.mark.oracle("counting pixels of drawn boxes, for all four kinds")
def test_all_kinds_follow_from_counted_pixels():
    pred, target = boxes(60, 3, whole=True), boxes(60, 4, whole=True)
    found = {kind: box_iou_loss(pred, target, kind) for kind in KINDS}
    for i, (p, t) in enumerate(zip(map(pixels, pred), map(pixels, target))):
        iou = (p & t).sum() / (p | t).sum()
        rows, columns = (np.flatnonzero((p | t).any(axis)) for axis in (1, 0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        centers = [np.argwhere(m).mean(0) for m in (p, t)]
        distance = ((centers[0] - centers[1]) ** 2).sum() / (height**2 + width**2)
        angles = [math.atan(m.any(0).sum() / m.any(1).sum()) for m in (p, t)]  # width over height
        v = 4 / math.pi**2 * (angles[1] - angles[0]) ** 2
        shape = v * v / (1 - iou + v) if v else 0.0
        expected = {
            "iou": 1 - iou,
            "giou": 1 - iou + (height * width - (p | t).sum()) / (height * width),
            "diou": 1 - iou + distance,
            "ciou": 1 - iou + distance + shape,
        }
        for kind in KINDS:
            assert found[kind][i].item() == pytest.approx(expected[kind], rel=1e-12, abs=1e-14), (kind, i)


@pytest.mark.oracle("transformers generalized_box_iou and box_iou (as in DETR)")
def test_iou_and_giou_equal_those_of_a_detection_library_with_their_gradients():
    library = pytest.importorskip("transformers.loss.loss_for_object_detection")
    for kind, reference in (("giou", library.generalized_box_iou), ("iou", lambda a, b: library.box_iou(a, b)[0])):
        pred = PRED.clone().requires_grad_()
        ours, theirs = box_iou_loss(pred, TARGET, kind), 1 - reference(pred, TARGET).diagonal()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(*(torch.autograd.grad(x.sum(), pred)[0] for x in (ours, theirs)), rtol=1e-10, atol=1e-14)


@pytest.mark.oracle("worked by hand from equations 7 to 11 of the DIoU paper")
def test_two_pairs_by_hand():
    # 4 x 2 against 2 x 2, overlapping in 1 x 1: union 11, enclosing 5 x 3, centers (2, 1) and (4, 2)
    pred, target = [0.0, 0.0, 4.0, 2.0], [3.0, 1.0, 5.0, 3.0]
    v = 4 / math.pi**2 * (math.pi / 4 - math.atan(2)) ** 2
    assert one(pred, target) == pytest.approx(10 / 11)
    assert one(pred, target, "giou") == pytest.approx(10 / 11 + 4 / 15)
    assert one(pred, target, "diou") == pytest.approx(10 / 11 + 5 / 34)
    assert one(pred, target, "ciou") == pytest.approx(10 / 11 + 5 / 34 + v**2 / (10 / 11 + v))
    # side by side with a gap of one: a third of the enclosing box is empty
    assert one([0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], "giou") == pytest.approx(1 + 1 / 3)
    assert one([0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], "diou") == pytest.approx(1 + 4 / 10)


def test_equal_boxes_cost_nothing_and_far_ones_up_to_two():
    far = torch.tensor([[1e6, 1e6, 1e6 + 1, 1e6 + 1]]).double()
    near = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).double()
    for kind in KINDS:
        torch.testing.assert_close(box_iou_loss(PRED, PRED, kind), torch.zeros(40).double(), rtol=0, atol=1e-14)
        assert box_iou_loss(near, far, kind).item() == pytest.approx(1 if kind == "iou" else 2, abs=1e-5)


def test_scale_place_and_mirrors_do_not_matter():
    swap = [1, 0, 3, 2]
    mirror = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    for kind in KINDS:
        expected = box_iou_loss(PRED, TARGET, kind)
        torch.testing.assert_close(box_iou_loss(1000 * PRED, 1000 * TARGET, kind), expected)
        torch.testing.assert_close(box_iou_loss(PRED - 7, TARGET - 7, kind), expected)
        torch.testing.assert_close(box_iou_loss(PRED[:, swap], TARGET[:, swap], kind), expected)
        torch.testing.assert_close(box_iou_loss((PRED * mirror)[:, [2, 1, 0, 3]], (TARGET * mirror)[:, [2, 1, 0, 3]], kind), expected)
        torch.testing.assert_close(box_iou_loss(TARGET, PRED, kind), expected)


def test_disjoint_boxes_have_no_gradient_with_plain_iou_and_one_with_the_others():
    pred, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).double().requires_grad_(), torch.tensor([[5.0, 1.0, 8.0, 3.0]]).double()
    for kind in KINDS:
        loss = box_iou_loss(pred, target, kind)
        (slope,) = torch.autograd.grad(loss.sum(), pred)
        if kind == "iou":
            assert loss.item() == 1 and torch.equal(slope, torch.zeros_like(slope))
        else:
            assert slope[0, 2] < 0, "the near edge is pulled towards the target"
            assert slope[0, 0] + slope[0, 2] < 0, "and so is the center"


def test_without_overlap_the_far_edge_moves_away_so_the_box_grows():
    """Two squares of 2 in one line with a gap of 3. Gradients by the far and by the near edge."""
    pred, target = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).double().requires_grad_(), torch.tensor([[5.0, 0.0, 7.0, 2.0]]).double()
    (giou,) = torch.autograd.grad(box_iou_loss(pred, target, "giou").sum(), pred)
    # of the enclosing box, 14, the share 8 / 14 is covered, and more area covers more of it, on either side
    np.testing.assert_allclose(giou[0, [0, 2]], [3 / 49, -1 / 7], rtol=1e-10)
    (diou,) = torch.autograd.grad(box_iou_loss(pred, target, "diou").sum(), pred)
    # 25 / (7**2 + 2**2): a larger enclosing box makes the same distance count less
    np.testing.assert_allclose(diou[0, [0, 2]], [-5 / 53 + 2 * 7 * 25 / 53**2, -5 / 53], rtol=1e-10)
    assert giou[0, 0] > diou[0, 0] > 0


def test_inside_its_target_giou_says_nothing_about_the_place_and_diou_does():
    target = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).double()
    for place in (1.0, 4.0, 7.0):
        pred = torch.tensor([[place, 3.0, place + 2, 7.0]]).double()
        assert box_iou_loss(pred, target, "giou").item() == pytest.approx(box_iou_loss(pred, target).item()) == pytest.approx(0.92)
        assert box_iou_loss(pred, target, "diou").item() == pytest.approx(0.92 + (place + 1 - 5) ** 2 / 200)


def aspect_gradient(pred, target):
    """Gradient by the corners of what CIoU adds to DIoU, and width, height, alpha and the difference of angles."""
    pred = pred.clone().requires_grad_()
    added = (box_iou_loss(pred, target, "ciou") - box_iou_loss(pred, target, "diou")).sum()
    (slope,) = torch.autograd.grad(added, pred)
    w, h = (pred[:, 2:] - pred[:, :2]).detach().unbind(1)
    w_t, h_t = (target[:, 2:] - target[:, :2]).unbind(1)
    angle = torch.atan(w_t / h_t) - torch.atan(w / h)
    v = 4 / math.pi**2 * angle**2
    return slope, w, h, v / (box_iou_loss(pred, target).detach() + v), angle


@pytest.mark.oracle("derivative of the aspect term worked by hand, alpha held fixed")
def test_weight_of_the_aspect_term_gets_no_gradient():
    slope, w, h, alpha, angle = aspect_gradient(PRED, TARGET)
    by_width = -alpha * 8 / math.pi**2 * angle * h / (w**2 + h**2)
    by_height = alpha * 8 / math.pi**2 * angle * w / (w**2 + h**2)
    torch.testing.assert_close(slope, torch.stack([-by_width, -by_height, by_width, by_height], 1), rtol=1e-9, atol=1e-13)


def test_printed_derivative_of_the_aspect_term_has_the_sign_of_the_step():
    """Erratum: the paper prints +8/pi**2 (difference of angles) h / (w**2 + h**2) for dv/dw; a gradient has the other sign."""
    slope, w, h, alpha, angle = aspect_gradient(PRED, TARGET)
    printed = alpha * 8 / math.pi**2 * angle * h / (w**2 + h**2)
    torch.testing.assert_close(slope[:, 2], -printed, rtol=1e-9, atol=1e-13)
    lr, flat = 1e-3, torch.tensor([[0.0, 0.0, 8.0, 2.0]]).double()
    square = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).double()
    right, w, h, alpha, angle = aspect_gradient(flat, square)
    assert angle.item() < 0 and right[0, 2].item() > 0, "too wide: descent makes it narrower"
    assert flat[0, 2].item() - lr * (alpha * 8 / math.pi**2 * angle * h / (w**2 + h**2)).item() > 8, "the printed one makes it wider"


def test_aspect_term_cannot_tell_that_both_sides_are_too_small():
    small, large = torch.tensor([[2.0, 3.0, 4.0, 4.0]]).double(), torch.tensor([[0.0, 0.0, 8.0, 4.0]]).double()
    assert box_iou_loss(small, large, "ciou").item() == box_iou_loss(small, large, "diou").item()


def test_aspect_term_is_below_one():
    """4 / pi**2 makes the largest difference, flat against tall, just 1."""
    flat, tall = torch.tensor([[0.0, 0.0, 1e5, 1e-5]]).double(), torch.tensor([[0.0, 0.0, 1e-5, 1e5]]).double()
    added = box_iou_loss(flat, tall, "ciou") - box_iou_loss(flat, tall, "diou")
    assert added.item() == pytest.approx(0.5, abs=1e-6)  # alpha is 1 / (1 + 1) where nothing overlaps


def test_formats_say_the_same():
    low, high = PRED[:, :2], PRED[:, 2:]
    low_t, high_t = TARGET[:, :2], TARGET[:, 2:]
    for kind in KINDS:
        expected = box_iou_loss(PRED, TARGET, kind)
        for fmt, p, t in (("xywh", low, low_t), ("cxcywh", (low + high) / 2, (low_t + high_t) / 2)):
            sides, sides_t = high - low, high_t - low_t
            torch.testing.assert_close(box_iou_loss(torch.cat([p, sides], 1), torch.cat([t, sides_t], 1), kind, fmt), expected)


def test_reductions():
    each = box_iou_loss(PRED, TARGET, "diou")
    assert each.shape == (40,)
    torch.testing.assert_close(box_iou_loss(PRED, TARGET, "diou", reduction="mean"), each.mean())
    torch.testing.assert_close(box_iou_loss(PRED, TARGET, "diou", reduction="sum"), each.sum())
    assert box_iou_loss(PRED[:0], TARGET[:0], "ciou", reduction="mean").item() == 0
    assert box_iou_loss(PRED[:0], TARGET[:0]).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_that_collapsed_has_a_finite_gradient(kind):
    pred = torch.tensor([[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 5.0, 3.0], [4.0, 3.0, 4.0, 9.0]], requires_grad=True)
    target = torch.tensor([[0.0, 0.0, 8.0, 4.0]]).expand(3, 4)
    loss = box_iou_loss(pred, target, kind)
    loss.sum().backward()
    assert loss.isfinite().all() and (loss >= 1).all() and pred.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_is_reached_without_nan(kind):
    pred = torch.tensor([[1.0, 2.0, 4.0, 4.0]], requires_grad=True)
    loss = box_iou_loss(pred, pred.detach().clone(), kind)
    loss.sum().backward()
    assert loss.item() == 0 and pred.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_areas_of_16_bit_boxes_do_not_overflow(kind, dtype):
    pred, target = torch.tensor([[0.0, 0.0, 1e4, 1e4]], dtype=dtype), torch.tensor([[0.0, 0.0, 1e4, 5e3]], dtype=dtype)
    assert (pred[:, 2] * pred[:, 3]).isinf() or dtype == torch.bfloat16
    loss = box_iou_loss(pred, target, kind)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, box_iou_loss(pred.double(), target.double(), kind).float(), rtol=1e-6, atol=0)


def test_second_derivatives():
    for kind in ("iou", "giou", "diou"):
        pred = PRED[:6].clone().requires_grad_()
        assert torch.autograd.gradgradcheck(lambda p: box_iou_loss(p, TARGET[:6], kind), (pred,))


@pytest.mark.parametrize(
    ("pred", "target", "options", "message"),
    [
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], dict(kind="eiou"), "kind='eiou' is not 'iou', 'giou', 'diou' or 'ciou'"),
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], dict(fmt="yxyx"), "fmt='yxyx' is not 'xyxy', 'xywh' or 'cxcywh'"),
        ([0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], dict(reduction="avg"), "reduction='avg' is not"),
        ([3.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0], {}, r"pred 1 ends before it begins: \[3.0, 0.0, 1.0, 1.0\] as xyxy"),
        ([0.0, 0.0, 1.0, 1.0], [0.0, 3.0, 1.0, 1.0], {}, "target 1 ends before it begins"),
        ([0.0, 0.0, 1.0, -1.0], [0.0, 0.0, 1.0, 1.0], dict(fmt="cxcywh"), "pred 1 ends before it begins: .* as cxcywh"),
        ([0.0, 0.0, 1.0, 1.0], [0.0, 2.0, 1.0, 2.0], {}, r"target 1 has no area: \[0.0, 2.0, 1.0, 2.0\]"),
    ],
)
def test_bad_boxes_and_options_say_which_and_why(pred, target, options, message):
    good = [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(ValueError, match=message):
        box_iou_loss(torch.tensor([good, pred]), torch.tensor([good, target]), **options)


def test_shapes_are_not_broadcast():
    with pytest.raises(ValueError, match=r"pred has shape \(4,\); expected \(boxes, numbers=4\)"):
        box_iou_loss(torch.zeros(4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"target has shape \(1, 4\); expected that of pred, \(3, 4\)"):
        box_iou_loss(torch.zeros(3, 4), torch.zeros(1, 4))
    with pytest.raises(TypeError, match="target has dtype torch.int64"):
        box_iou_loss(torch.zeros(3, 4), torch.zeros(3, 4).long())


def test_corners_of_boxes_that_may_be_empty():
    low, high = corners("box", torch.tensor([[1.0, 2.0, 0.0, 0.0]]), "xywh")
    assert torch.equal(low, high)


PROB = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
MASK = (torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(6)) < 0.4).double()


@pytest.mark.oracle("sklearn.metrics.jaccard_score and scipy.spatial.distance.jaccard, for hard masks")
def test_soft_iou_of_hard_masks_is_the_jaccard_distance():
    score = pytest.importorskip("sklearn.metrics").jaccard_score
    distance = pytest.importorskip("scipy.spatial.distance").jaccard
    hard = (PROB > 0.5).double()
    for a, t, loss in zip(hard, MASK, soft_iou_loss(hard, MASK, smooth=0.0, reduction="none")):
        a, t = a.flatten().numpy(), t.flatten().numpy()
        assert loss.item() == pytest.approx(1 - score(t, a), rel=1e-12) == pytest.approx(distance(a > 0, t > 0), rel=1e-12)


@pytest.mark.oracle("pytorch_optimizer.loss.JaccardLoss")
@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_soft_iou_equals_a_library_with_its_gradient(smooth):
    library = pytest.importorskip("pytorch_optimizer.loss").JaccardLoss
    prob = PROB.clone().requires_grad_()
    ours = soft_iou_loss(prob, MASK, smooth)
    theirs = torch.stack([library("multilabel", from_logits=False, label_smooth=smooth)(p[None, None], t[None, None]) for p, t in zip(prob, MASK)])
    torch.testing.assert_close(ours, theirs.mean(), rtol=1e-10, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x, prob)[0] for x in (ours, theirs.mean())), rtol=1e-9, atol=1e-14)


def test_soft_iou_is_a_function_of_dice():
    from vocab.losses.dice import DiceLoss

    dice = DiceLoss(0.0, from_logits=False, per_channel=False, reduction="none")(PROB[:, None], MASK[:, None])
    torch.testing.assert_close(soft_iou_loss(PROB, MASK, 0.0, "none"), 2 * dice / (1 + dice))


def test_soft_iou_smoothing_defaults_and_reductions():
    p, t = torch.tensor([[0.5, 1.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    torch.testing.assert_close(soft_iou_loss(p, t, reduction="none"), torch.tensor([1 - 1.5 / 3, 0.0]))
    assert soft_iou_loss(p, t).item() == pytest.approx(0.25)
    assert soft_iou_loss(p, t, reduction="sum").item() == pytest.approx(0.5)
    assert soft_iou_loss(p, t, smooth=0.0).item() == pytest.approx(0.375), "two empty masks agree"
    assert soft_iou_loss(p[:0], t[:0]).item() == 0
    ones = torch.ones(1, 512, 512, dtype=torch.float16)
    assert soft_iou_loss(ones, ones, 0.0).item() == 0, "sums of 16 bits would be infinite"


@pytest.mark.parametrize(
    ("prob", "mask", "smooth", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), -1.0, "smooth=-1.0 is not 0 or more"),
        (torch.full((2, 3), 4.0), torch.zeros(2, 3), 1.0, "prob holds 4; expected numbers from 0 to 1"),
        (torch.zeros(2, 3), torch.full((2, 3), 255.0), 1.0, "mask holds 255; expected numbers from 0 to 1"),
        (torch.zeros(2, 3), torch.zeros(2, 1), 1.0, r"mask has shape \(2, 1\); expected that of prob, \(2, 3\)"),
        (torch.tensor(0.5), torch.tensor(1.0), 1.0, r"prob has shape \(\); expected \(B, ...\)"),
    ],
)
def test_bad_masks_are_named(prob, mask, smooth, message):
    with pytest.raises(ValueError, match=message):
        soft_iou_loss(prob, mask, smooth)
    with pytest.raises(ValueError, match="reduction='avg'"):
        soft_iou_loss(prob, mask, reduction="avg")


@pytest.mark.parametrize("kind", KINDS)
def test_numpy_variant_agrees(agree, kind):
    pred = PRED.clone().requires_grad_()
    loss = box_iou_loss(pred, TARGET, kind)
    (slope,) = torch.autograd.grad(loss.sum(), pred)
    agree(numpy_loss(PRED.numpy(), TARGET.numpy(), kind), loss)
    agree(np.array([box_push(p, t, kind) for p, t in zip(PRED.numpy(), TARGET.numpy())]), slope, rtol=1e-6, atol=1e-9)
