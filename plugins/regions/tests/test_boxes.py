"""Boxes in every form, RoIAlign, and what is said of boxes that are none."""

import numpy as np
import pytest
import torch

from hub_mim_regions import box7, normalised, roi_align
from hub_mim_regions.boxes import grid_boxes


@pytest.mark.parametrize(
    ("form", "boxes"),
    [("xyxy", [[10, 20, 30, 80]]), ("xywh", [[10, 20, 20, 60]]), ("cxcywh", [[20, 50, 20, 60]])],
)
def test_all_forms_give_the_same_corners(form, boxes):
    assert np.allclose(normalised(boxes, (100, 200), form), [[0.1, 0.1, 0.3, 0.4]])
    shares = np.array(boxes) / [100, 200, 100, 200]
    assert np.allclose(normalised(shares, None, form), [[0.1, 0.1, 0.3, 0.4]])


def test_no_boxes_are_boxes():
    assert normalised([], (10, 10)).shape == (0, 4)
    assert box7(normalised([], (10, 10))).shape == (0, 7)


def test_seven_numbers():
    assert np.allclose(box7(np.array([[0.1, 0.2, 0.5, 0.4]])), [[0.1, 0.2, 0.5, 0.4, 0.4, 0.2, 0.08]])


def test_a_grid_covers_the_picture():
    cells = grid_boxes(2, 3)
    assert np.allclose(cells[4], [1 / 3, 0.5, 2 / 3, 1])
    assert np.isclose(((cells[:, 2:] - cells[:, :2]).prod(1)).sum(), 1)


@pytest.mark.parametrize(
    ("boxes", "size", "form", "message"),
    [
        ([[5, 5, 1, 9]], (10, 10), "xyxy", "ends before it begins"),
        ([[0, 0, 50, 5]], (10, 10), "xyxy", "reaches beyond a picture of 10 by 10 pixels"),
        ([[0, 0, 5, 5]], None, "xyxy", "give the picture's size for boxes in pixels"),
        ([[0, 0, float("nan"), 1]], None, "xyxy", "no numbers"),
        ([[0, 0, 1]], None, "xyxy", r"must be \(regions, 4\)"),
        ([[0, 0, 1, 1]], None, "yxyx", "no form 'yxyx'"),
        ([[0, 0, 1, 1]], (0, 10), "xyxy", "no area"),
    ],
)
def test_boxes_that_are_none_are_told(boxes, size, form, message):
    with pytest.raises(ValueError, match=message):
        normalised(boxes, size, form)


def test_roi_align_of_a_ramp_is_the_ramp():
    """A bilinear look into a linear map gives the map's value at the middle of each bin."""
    wide = high = 16
    x = (torch.arange(wide) + 0.5) / wide
    features = torch.stack([x.expand(high, wide), x[:, None].expand(high, wide)])[None].double()
    boxes = torch.tensor([[0.25, 0.25, 0.75, 0.5], [0.1, 0.2, 0.9, 0.9]], dtype=torch.float64)
    out = roi_align(features, boxes, torch.zeros(2, dtype=torch.int64), size=4)
    steps = (torch.arange(4) + 0.5) / 4
    for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        assert torch.allclose(out[number, 0], (x1 + steps * (x2 - x1)).expand(4, 4).double())
        assert torch.allclose(out[number, 1], (y1 + steps * (y2 - y1))[:, None].expand(4, 4).double())


def test_roi_align_has_gradients_and_keeps_pictures_apart():
    features = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.9, 0.9]], dtype=torch.float64)
    rows = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(lambda f: roi_align(f, boxes, rows, size=2), features)
    alone = roi_align(features[1:], boxes[:1], torch.zeros(1, dtype=torch.int64), size=2)
    assert torch.allclose(roi_align(features, boxes, rows, size=2)[:1], alone)
