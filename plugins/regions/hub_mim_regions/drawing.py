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


def draw_alignment(
    words: Sequence[Sequence[str]],
    weights: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    path: str | Path,
    *,
    images: Sequence[Any] = (),
    overwrite: bool = False,
) -> Path:
    """Draw which words go with which regions: a table of words by regions, and beside it where the regions are.

    Args:
        words: of each row. weights: for each, (words, regions), not below 0.
        boxes: for each, corners in [0, 1] (regions, 4). images: PIL, or None where there is no picture.
        path: picture to write. overwrite: replace one that is there.
    """
    from matplotlib.patches import Rectangle

    from hub_mim.pictures import _panels, _save

    figure, axes = _panels(2 * len(words), wide=2, high=2.6)
    for row, (each, table, areas) in enumerate(zip(words, weights, boxes, strict=True)):
        left, right = axes[2 * row], axes[2 * row + 1]
        left.imshow(table, cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
        left.set_yticks(range(len(each)), each, fontsize=6)
        left.set_xticks(range(len(areas)), [str(number) for number in range(len(areas))], fontsize=6)
        left.set_xlabel("region", fontsize=7)
        picture = images[row] if len(images) else None
        if picture is not None:
            right.imshow(
                np.asarray(picture.convert("RGB")), extent=(0, 1, 1, 0), aspect=picture.size[1] / picture.size[0]
            )
        for number, (x1, y1, x2, y2) in enumerate(areas):
            right.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#ffb000"))
            right.text(x1, y1, str(number), fontsize=7, va="top", color="#ffb000")
        right.set_xlim(0, 1)
        right.set_ylim(1, 0)
        right.set_xticks([])
        right.set_yticks([])
    return _save(figure, path, overwrite)


def draw_rows(
    processor: Any, rows: Sequence[dict[str, Any]], batch: dict[str, Any], weights: Any, path: Path, overwrite: bool
) -> Path:
    """Draw `draw_alignment` for rows as a processor encodes them.

    Args:
        batch: what the processor made of the rows. weights: (B, T, N).
    """
    words, tables, areas = [], [], []
    for row in range(len(rows)):
        count, regions = int(batch["attention_mask"][row].sum()), int(batch["visual_attention_mask"][row].sum())
        words.append(processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][row, :count].tolist()))
        tables.append(weights[row, :count, :regions].float().cpu().numpy())
        areas.append(batch["visual_pos"][row, :regions, :4].cpu().numpy())
    images = [row.get("image") for row in rows]
    return draw_alignment(words, tables, areas, path, images=images, overwrite=overwrite)
