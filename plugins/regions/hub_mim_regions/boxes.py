"""Boxes: from every usual form to corners between 0 and 1, and to the seven numbers that UNITER takes."""

from typing import Any

import numpy as np

FORMS = ("xyxy", "xywh", "cxcywh")
SLACK = 0.01  # of the picture's side by which a box may reach beyond it; it is cut off


def normalised(boxes: Any, size: tuple[float, float] | None = None, form: str = "xyxy") -> np.ndarray:
    """Return boxes as corners x1, y1, x2, y2 in [0, 1], float32 (N, 4).

    Args:
        boxes: (N, 4), also empty.
        size: width and height of the picture, where boxes are in pixels; None where they are shares of it already.
        form: "xyxy" corners, "xywh" a corner and the size, "cxcywh" the middle and the size.
    Raises:
        ValueError: another form or shape, values that are no numbers, a box of negative size, one beyond the picture.
    """
    if form not in FORMS:
        raise ValueError(f"no form {form!r} of boxes; there are {', '.join(FORMS)}")
    made = np.asarray(boxes, np.float64).reshape(-1, 4) if np.size(boxes) == 0 else np.asarray(boxes, np.float64)
    if made.ndim != 2 or made.shape[1] != 4:
        raise ValueError(f"boxes have the shape {made.shape}; they must be (regions, 4)")
    if not np.isfinite(made).all():
        raise ValueError(f"{int((~np.isfinite(made)).any(1).sum())} boxes hold values that are no numbers")
    made = made.copy()
    if form == "cxcywh":
        made[:, :2] -= made[:, 2:] / 2
    if form != "xyxy":
        made[:, 2:] += made[:, :2]
    if size is not None:
        wide, high = size
        if not (wide > 0 and high > 0):
            raise ValueError(f"a picture of {wide} by {high} pixels has no area")
        made /= np.array([wide, high, wide, high])
    turned = made[:, 2:] < made[:, :2]
    if turned.any():
        wrong = int(turned.any(1).argmax())
        raise ValueError(f"box {wrong} ends before it begins: {np.asarray(boxes)[wrong].tolist()} read as {form}")
    beyond = (made < -SLACK) | (made > 1 + SLACK)
    if beyond.any():
        wrong = int(beyond.any(1).argmax())
        told = (
            f"a picture of {size[0]} by {size[1]} pixels"
            if size
            else "0 to 1; give the picture's size for boxes in pixels"
        )
        raise ValueError(f"box {wrong} reaches beyond {told}: {np.asarray(boxes)[wrong].tolist()} read as {form}")
    return made.clip(0, 1).astype(np.float32)


def box7(boxes: np.ndarray) -> np.ndarray:
    """Return x1, y1, x2, y2, width, height, area (..., 7) of corners in [0, 1] (..., 4); UNITER, section 3.1."""
    boxes = np.asarray(boxes, np.float32)
    sides = boxes[..., 2:] - boxes[..., :2]
    return np.concatenate([boxes, sides, sides[..., :1] * sides[..., 1:]], -1)


def grid_boxes(high: int, wide: int) -> np.ndarray:
    """Return the cells of a grid, row by row, as corners in [0, 1] (high * wide, 4)."""
    y, x = np.mgrid[:high, :wide].reshape(2, -1)
    return np.stack([x / wide, y / high, (x + 1) / wide, (y + 1) / high], 1).astype(np.float32)
