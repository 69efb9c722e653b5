import numpy as np
import pytest
import torch

from snippets.regularization import cutmix as numpy_cutmix
from vocab.regularization.cutmix import cut_box, cutmix


def images(b=4, h=6, w=8):
    """Every number occurs once, so that each pixel tells where it comes from."""
    return torch.arange(b * 2 * h * w, dtype=torch.float64).view(b, 2, h, w), torch.arange(b)


@pytest.mark.oracle("count of the pixels that changed")
def test_labels_follow_the_pixels_that_changed():
    x, y = images()
    order = torch.tensor([1, 2, 3, 0])
    seen = set()
    for seed in range(60):
        mixed, labels, lam = cutmix(x, y, n_classes=4, permutation=order, generator=torch.Generator().manual_seed(seed))
        changed = (mixed != x)
        assert torch.equal(changed[:, 0], changed[:, 1]), "all channels of a pixel come from the same image"
        share = changed[0, 0].double().mean().item()
        assert lam.item() == pytest.approx(1 - share, abs=1e-12)
        for i in range(4):
            assert labels[i, y[i]].item() == pytest.approx(1 - share) and labels[i, y[order[i]]].item() == pytest.approx(share)
        seen.add(round(share, 6))
    assert len(seen) > 10


def test_each_pixel_comes_unchanged_from_one_of_two_images():
    x, y = images()
    order = torch.tensor([3, 2, 1, 0])
    mixed, _, _ = cutmix(x, y, n_classes=4, lam=0.5, center=(0.4, 0.6), permutation=order)
    assert ((mixed == x) | (mixed == x[order])).all() and (mixed != x).any() and (mixed == x).any()


@pytest.mark.oracle("definition, pixel by pixel (as torchvision's CutMix for a given box)")
@pytest.mark.parametrize(("lam", "center"), [(0.75, (0.5, 0.5)), (0.3, (0.1, 0.9)), (1.0, (0.2, 0.2)), (0.0, (0.5, 0.5))])
def test_the_box_is_that_of_the_partner(lam, center):
    x, y = images()
    order = torch.arange(4).roll(1)
    mixed, _, _ = cutmix(x, y, n_classes=4, lam=lam, center=center, permutation=order)
    top, bottom, left, right = cut_box(6, 8, lam, center)
    for i in range(4):
        for r in range(6):
            for c in range(8):
                source = x[i - 1] if top <= r < bottom and left <= c < right else x[i]
                assert torch.equal(mixed[i, :, r, c], source[:, r, c])


@pytest.mark.parametrize(
    ("size", "lam", "center", "box"),
    [((8, 8), 0.75, (0.5, 0.5), (2, 6, 2, 6)), ((10, 20), 0.64, (0.5, 0.5), (2, 8, 4, 16)), ((8, 8), 0.75, (0.0, 0.0), (0, 2, 0, 2)),
     ((8, 8), 0.75, (1.0, 1.0), (6, 8, 6, 8)), ((7, 5), 0.0, (0.5, 0.5), (0, 7, 0, 5)), ((7, 5), 1.0, (0.5, 0.5), (3, 3, 2, 2)),
     ((100, 100), 0.91, (0.5, 0.1), (35, 65, 0, 25))],
)
def test_boxes_worked_out_by_hand(size, lam, center, box):
    assert cut_box(*size, lam, center) == box


@pytest.mark.oracle("expected area: 1/2 before clipping, 77/240 after it")
def test_half_of_the_image_is_drawn_and_a_third_is_pasted():
    x, y = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1)
    pasted = {}
    for name, options in (("inside", dict(center=(0.5, 0.5))), ("anywhere", {})):
        g = torch.Generator().manual_seed(1)
        pasted[name] = np.mean([1 - cutmix(x, y, generator=g, **options)[2].item() for _ in range(2500)])
    assert pasted["inside"] == pytest.approx(0.5, abs=0.03)
    # E[(s - s**2/4)**2] for the relative side s = sqrt(u), u even on [0, 1]
    assert pasted["anywhere"] == pytest.approx(1 / 2 - 1 / 5 + 1 / 48, abs=0.02)


def test_the_share_that_was_drawn_would_be_the_wrong_label():
    x, y = images()
    lam = cutmix(x, y, n_classes=4, lam=0.5, center=(0.0, 0.0))[2].item()
    assert lam == 1 - 2 * 3 / 48, "three quarters of the box lie outside"


def test_inputs_stay_and_a_generator_repeats_the_draws():
    x, y = images()
    kept = x.clone()
    one, two = (cutmix(x, y, n_classes=4, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(x, kept) and all(torch.equal(a, b) for a, b in zip(one, two))
    assert one[2].ndim == 0 and not torch.equal(one[0], cutmix(x, y, n_classes=4)[0])


def test_alpha_decides_how_even_the_shares_are():
    drawn = {}
    x, y = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1)
    for alpha in (0.1, 10.0):
        drawn[alpha] = np.std([cutmix(x, y, alpha, center=(0.5, 0.5))[2].item() for _ in range(200)])
    assert drawn[0.1] > 0.35 and drawn[10.0] < 0.2
    default, one = (cutmix(x, y, *a, center=(0.5, 0.5), generator=torch.Generator().manual_seed(2))[2] for a in ((), (1.0,)))
    assert default == one


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(x=torch.zeros(4, 6, 8)), r"x has shape \(4, 6, 8\); expected \(batch, channels, height, width\)"),
        (dict(lam=2.0), "lam=2.0 is not between 0 and 1"),
        (dict(center=(0.5, 1.5)), r"center=\(0.5, 1.5\): expected numbers from 0 to 1"),
        (dict(alpha=-1.0), "alpha=-1.0 is not 0"),
        (dict(n_classes=None), "n_classes must be given"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    x, y = images()
    with pytest.raises(ValueError, match=message):
        cutmix(**{"x": x, "y": y, "n_classes": 4, **arguments})
    for lam, center in ((-0.5, (0.5, 0.5)), (1.5, (0.5, 0.5)), (0.5, (-0.1, 0.5))):
        with pytest.raises(ValueError, match=f"lam={lam}, center=.*: expected numbers from 0 to 1"):
            cut_box(4, 4, lam, center)


@pytest.mark.parametrize(("lam", "center"), [(0.5, (0.2, 0.7)), (0.9, (0.5, 0.5))])
def test_numpy_variant_agrees(agree, lam, center):
    x, y = images(2)
    mixed, labels, kept = cutmix(x, y, n_classes=2, lam=lam, center=center, permutation=torch.tensor([1, 0]))
    ours, share = numpy_cutmix.cutmix(x[0].numpy(), x[1].numpy(), lam, center)
    agree(ours, mixed[0])
    agree([share, 1 - share], labels[0])
