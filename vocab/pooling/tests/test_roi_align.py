import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from snippets.pooling import roi_align as numpy_variant
from vocab.pooling.roi_align import roi_align, roi_pool

D = torch.float64


def example():
    boxes = torch.tensor([[0, 1.2, 0.75, 4.3, 3.9], [1, -0.4, 1.1, 5.65, 6.2], [1, 0.3, 0.2, 0.9, 2.7]], dtype=D)
    return roi_align, (torch.randn(2, 2, 5, 6, dtype=D), boxes, (2, 3))


def ramp(a, b, height=12, width=14):
    """a x + b y, where pixel (i, j) has its centre at (j + 0.5, i + 0.5)."""
    y, x = torch.meshgrid(torch.arange(height, dtype=D) + 0.5, torch.arange(width, dtype=D) + 0.5, indexing="ij")
    return (a * x + b * y)[None, None]


def value_at(x, row, column):
    """Bilinear sampling of one point, as the detectors' C++ has it."""
    H, W = x.shape
    if row < -1 or row > H or column < -1 or column > W:
        return 0.0
    row, column = min(max(row, 0), H - 1), min(max(column, 0), W - 1)
    i, j = min(int(row), H - 2) if H > 1 else 0, min(int(column), W - 2) if W > 1 else 0
    a, b = row - i, column - j
    below, right = min(i + 1, H - 1), min(j + 1, W - 1)
    return ((1 - a) * (1 - b) * x[i, j] + (1 - a) * b * x[i, right] + a * (1 - b) * x[below, j] + a * b * x[below, right]).item()


def by_loops(features, boxes, size, scale, samples, aligned):
    out = torch.zeros(len(boxes), features.shape[1], *size, dtype=D)
    for k, (image, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        offset = 0.5 if aligned else 0.0
        left, top, width, height = x1 * scale - offset, y1 * scale - offset, (x2 - x1) * scale, (y2 - y1) * scale
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        for c in range(features.shape[1]):
            for i in range(size[0]):
                for j in range(size[1]):
                    total = 0.0
                    for a in range(samples):
                        for b in range(samples):
                            row = top + (i + (a + 0.5) / samples) * height / size[0]
                            column = left + (j + (b + 0.5) / samples) * width / size[1]
                            total += value_at(features[int(image), c], row, column)
                    out[k, c, i, j] = total / samples**2
    return out


@pytest.mark.oracle("the definition, sample by sample")
@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize(("samples", "scale"), [(1, 1.0), (2, 0.5), (3, 1.0)])
def test_equals_the_definition_sample_by_sample_inside_and_outside_the_map(aligned, samples, scale):
    features = torch.randn(2, 2, 5, 6, dtype=D)
    boxes = torch.tensor([[0, 1.2, 0.7, 4.3, 3.9], [1, -3.4, 2.1, 9.6, 12.2], [1, 2.3, 2.2, 2.5, 2.4], [0, 20, 20, 25, 25]], dtype=D)
    torch.testing.assert_close(roi_align(features, boxes, (2, 3), scale, samples, aligned), by_loops(features, boxes, (2, 3), scale, samples, aligned))


@pytest.mark.oracle("a linear ramp: bilinear sampling is exact")
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_a_ramp_comes_out_exact_at_every_bin_centre(samples):
    box = [2.3, 1.9, 9.6, 8.15]
    y = roi_align(ramp(2.0, -0.7), torch.tensor([[0.0, *box]], dtype=D), (3, 4), sampling_ratio=samples)[0, 0]
    for i in range(3):
        for j in range(4):
            x_centre, y_centre = box[0] + (j + 0.5) * (box[2] - box[0]) / 4, box[1] + (i + 0.5) * (box[3] - box[1]) / 3
            assert y[i, j].item() == pytest.approx(2.0 * x_centre - 0.7 * y_centre)


def test_moving_the_box_by_a_fraction_moves_the_values_by_it_and_rounding_does_not():
    box = torch.tensor([[0, 3.1, 3.1, 8.1, 8.1]], dtype=D)
    moved = box + torch.tensor([0, 0.25, 0, 0.25, 0], dtype=D)
    features = ramp(2.0, 0.5)
    torch.testing.assert_close(roi_align(features, moved, 3) - roi_align(features, box, 3), torch.full((1, 1, 3, 3), 0.5, dtype=D))
    assert torch.equal(roi_pool(features, moved, 3), roi_pool(features, box, 3)), "not at all"
    further = box + torch.tensor([0, 0.5, 0, 0.5, 0], dtype=D)
    assert (roi_pool(features, further, 3) - roi_pool(features, box, 3)).amin() == 2.0, "and then by a whole pixel"


@pytest.mark.oracle("the identity")
def test_the_whole_map_with_as_many_bins_as_pixels_is_the_map():
    features, box = torch.randn(1, 3, 5, 7, dtype=D), torch.tensor([[0, 0, 0, 7, 5]], dtype=D)
    torch.testing.assert_close(roi_align(features, box, (5, 7), sampling_ratio=1), features)
    assert (roi_align(features, box, (5, 7), sampling_ratio=1, aligned=False) - features).abs().max() > 0.1, "half a pixel off"


@pytest.mark.oracle("torch.nn.functional.grid_sample")
@pytest.mark.parametrize("samples", [1, 3])
def test_equals_sampling_with_grid_sample_and_averaging(samples):
    features, (x1, y1, x2, y2) = torch.randn(1, 2, 9, 11, dtype=D), (1.3, 2.2, 8.9, 7.7)
    at = (torch.arange(4 * samples, dtype=D) + 0.5) / (4 * samples)
    ys, xs = 2 * (y1 + (y2 - y1) * at) / 9 - 1, 2 * (x1 + (x2 - x1) * at) / 11 - 1
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)[None]
    expected = F.avg_pool2d(F.grid_sample(features, grid, mode="bilinear", align_corners=False), samples)
    torch.testing.assert_close(roi_align(features, torch.tensor([[0, x1, y1, x2, y2]], dtype=D), 4, sampling_ratio=samples), expected)


def test_boxes_in_image_coordinates_are_scaled_to_the_map():
    features, box = torch.randn(1, 2, 9, 11, dtype=D), torch.tensor([[0, 1.5, 2.5, 6.0, 7.0]], dtype=D)
    large = box * torch.tensor([1, 16, 16, 16, 16], dtype=D)
    torch.testing.assert_close(roi_align(features, large, 3, spatial_scale=1 / 16), roi_align(features, box, 3))
    torch.testing.assert_close(roi_pool(features, large, 3, spatial_scale=1 / 16), roi_pool(features, box, 3))


def test_gradients_reach_the_map_and_the_corners_of_the_boxes():
    box = torch.tensor([[0, 2.3, 1.9, 9.6, 8.15]], dtype=D, requires_grad=True)
    roi_align(ramp(2.0, -0.7), box, 1).sum().backward()
    torch.testing.assert_close(box.grad, torch.tensor([[0, 1.0, -0.35, 1.0, -0.35]], dtype=D))


def pool_by_loops(features, boxes, size, scale):
    out = torch.zeros(len(boxes), features.shape[1], *size, dtype=D)
    rounded = lambda v: int(math.copysign(math.floor(abs(v) + 0.5), v))  # noqa: E731
    for k, (image, *corners) in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (rounded(v * scale) for v in corners)
        height, width = max(y2 - y1 + 1, 1) / size[0], max(x2 - x1 + 1, 1) / size[1]
        for i in range(size[0]):
            for j in range(size[1]):
                rows = [r for r in range(y1 + math.floor(i * height), y1 + math.ceil((i + 1) * height)) if 0 <= r < features.shape[2]]
                columns = [c for c in range(x1 + math.floor(j * width), x1 + math.ceil((j + 1) * width)) if 0 <= c < features.shape[3]]
                if rows and columns:
                    out[k, :, i, j] = features[int(image), :, rows][:, :, columns].amax((1, 2))
    return out


@pytest.mark.oracle("the definition, bin by bin")
@pytest.mark.parametrize(("size", "scale"), [((2, 3), 1.0), ((7, 7), 1.0), ((3, 2), 0.5)])
def test_roi_pooling_equals_the_definition_bin_by_bin(size, scale):
    features = torch.randn(2, 2, 6, 7, dtype=D) - 3
    boxes = torch.tensor([[0, 1.2, 0.7, 4.3, 3.9], [1, -3.5, 2.5, 9.6, 12.2], [1, 2.3, 2.2, 2.5, 2.4], [0, 20, 20, 25, 25], [1, 4.0, 4.0, 2.0, 2.0]], dtype=D)
    torch.testing.assert_close(roi_pool(features, boxes, size, scale), pool_by_loops(features, boxes, size, scale))


def test_roi_pooling_of_a_whole_map_is_max_pooling():
    features, box = torch.randn(1, 3, 6, 8, dtype=D), torch.tensor([[0, 0, 0, 7, 5]], dtype=D)
    torch.testing.assert_close(roi_pool(features, box, (3, 4)), F.max_pool2d(features, 2))


def test_a_nan_in_a_box_is_not_an_empty_bin():
    boxes = torch.tensor([[0, 1, torch.nan, 4, 4], [0, 1, 1, 4, 4]], dtype=D)
    for f in (roi_align, roi_pool):
        y = f(torch.randn(1, 1, 6, 6, dtype=D), boxes, 2)
        assert y[0].isnan().all() and y[1].isfinite().all()


def test_no_boxes_give_no_results():
    for f in (roi_align, roi_pool):
        assert f(torch.randn(1, 3, 6, 6), torch.zeros(0, 5), 2).shape == (0, 3, 2, 2)


@pytest.mark.parametrize("f", [roi_align, roi_pool])
def test_wrong_inputs_are_named(f):
    features, boxes = torch.zeros(2, 1, 5, 5), torch.tensor([[0.0, 0, 0, 3, 3], [1.0, 0, 0, 3, 3]])
    with pytest.raises(ValueError, match=r"boxes has shape \(2, 4\); expected \(boxes, columns=5\)"):
        f(features, boxes[:, 1:], 2)
    with pytest.raises(ValueError, match=r"features has shape \(1, 5, 5\)"):
        f(features[0], boxes, 2)
    for bad, shown in ((2.0, "0 to 2"), (-1.0, "-1 to 0")):
        wrong = boxes.clone()
        wrong[1, 0] = bad
        with pytest.raises(ValueError, match=f"boxes name images {shown}; features has 0 to 1"):
            f(features, wrong, 2)
    for size in (0, (0, 2), (2, 0)):
        with pytest.raises(ValueError, match="has a side below 1"):
            f(features, boxes, size)
    with pytest.raises(ValueError, match="spatial_scale=0 is not positive"):
        f(features, boxes, 2, 0)
    with pytest.raises(TypeError, match="boxes has dtype torch.int64"):
        f(features, boxes.long(), 2)
    assert f(features, boxes, 1).shape == (2, 1, 1, 1)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="sampling_ratio=0 is below 1"):
        roi_align(torch.zeros(1, 1, 5, 5), torch.tensor([[0.0, 0, 0, 3, 3]]), 2, sampling_ratio=0)
    features, box = torch.randn(1, 1, 9, 9, dtype=D), torch.tensor([[0, 1.2, 1.7, 8.0, 7.5]], dtype=D)
    torch.testing.assert_close(roi_align(features, box, 2), roi_align(features, box, 2, 1.0, 2, True))


@pytest.mark.parametrize("box", [(1.2, 0.7, 4.3, 3.9), (-0.5, 2.5, 9.6, 7.2), (2.3, 2.2, 2.5, 2.4)])
def test_numpy_variant_agrees(agree, box):
    features, boxes = torch.randn(1, 1, 8, 8, dtype=D), torch.tensor([[0, *box]], dtype=D)
    for aligned in (True, False):
        agree(numpy_variant.roi_align(features[0, 0].numpy(), box, 3, 2, aligned), roi_align(features, boxes, 3, 1.0, 2, aligned)[0, 0])
    if min(box) >= 0:
        agree(numpy_variant.roi_pool(features[0, 0].numpy(), box, 3), roi_pool(features, boxes, 3)[0, 0])


def test_demo_has_no_error_when_aligned_and_half_a_pixel_when_not():
    assert np.abs(numpy_variant.show(method="RoIAlign")[0]["values"]).max() < 1e-9
    assert np.allclose(numpy_variant.show(method="RoIAlign, not aligned")[0]["values"], 0.75)
    stairs = np.array(numpy_variant.show()[1]["series"]["RoIPool"])[:, 1]
    assert (np.diff(stairs) == 0).mean() > 0.5
