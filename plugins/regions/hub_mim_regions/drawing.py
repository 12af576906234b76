"""Pictures with boxes, and which words look at which regions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

MOST = 8  # pictures


def draw_boxes(
    images: Sequence[Any],
    boxes: Sequence[np.ndarray],
    path: str | Path,
    *,
    names: Sequence[Sequence[str]] = (),
    weights: Sequence[np.ndarray] = (),
    titles: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Draw pictures with their boxes.

    Args:
        images: PIL. boxes: for each, corners in [0, 1] (N, 4).
        names: for each, what its boxes are called. weights: for each, how strongly they are drawn (N,), in [0, 1].
        titles: of the pictures. path: picture to write. overwrite: replace one that is there.
    """
    from matplotlib.patches import Rectangle

    from hub_mim.pictures import _panels, _save

    figure, axes = _panels(len(images), wide=min(4, len(images)), high=2.6)
    for place, (axis, image) in enumerate(zip(axes, images, strict=False)):
        wide, high = image.size
        axis.imshow(np.asarray(image.convert("RGB")))
        for number, (x1, y1, x2, y2) in enumerate(boxes[place] * [wide, high, wide, high]):
            strength = float(weights[place][number]) if len(weights) else 1.0
            colour = "#ffb000" if strength > 0.02 else "#888888"
            alpha = min(1.0, 0.15 + 0.85 * strength)
            area = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2, alpha=alpha)
            axis.add_patch(area)
            if len(names) and names[place]:
                axis.text(
                    x1, y1, names[place][number], fontsize=5, color="white", va="top", backgroundcolor="#00000060"
                )
        axis.set_axis_off()
        axis.set_title(titles[place] if len(titles) else "", fontsize=8)
    return _save(figure, path, overwrite)


def draw_file(
    regions: str | Path, images: Any, path: str | Path, *, split: str | None = None, overwrite: bool = False
) -> Path:
    """Draw the first pictures of a source with the regions that a file has of them."""
    from itertools import islice

    from hub_mim.data import load_rows
    from hub_mim_regions.readers import read_regions

    rows = load_rows(images, split=split)
    found = list(islice(read_regions(regions), MOST))
    return draw_boxes(
        [rows[number]["image"] for number in range(len(found))],
        [each["boxes"] for each in found],
        path,
        overwrite=overwrite,
    )
