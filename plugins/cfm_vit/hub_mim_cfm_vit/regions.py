"""Regions of pictures in the joint space: RoIAlign, names of categories, scores of both, and with a detector's.

Shapes: B pictures, R boxes, N = h * w patches, C categories with "background" as number 0, E channels of the joint space.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hub_mim_cfm_vit.losses import unit
from hub_mim_cfm_vit.positions import Grid

BACKGROUND = "background"
TEMPLATES = ("a photo of a {}.",)  # Radford et al. 2021 (arXiv:2103.00020), section 3.1.4


def region_weights(boxes: Tensor, grid: Grid, patch: int, size: int = 7, samples: int = 2) -> Tensor:
    """Return how much each patch counts in each box: the mean of RoIAlign's bins is this matrix times the feature map.

    Every sample is a bilinear mean of four patches, whose weights are a row's times a column's. Boxes are not cut off: a sample
    further than one patch beyond the map counts 0, others beyond it take the border.

    Args:
        boxes: (B, R, 4), corners in pixels. grid: (h, w) of the feature map. patch: its stride in pixels.
        size: bins a side of a box. samples: a side of each bin.
    Returns:
        (B, R, h * w). The mean of torchvision's `roi_align(..., size, 1 / patch, samples, aligned=True)` over its bins.
    Raises:
        ValueError: boxes of another shape.
    Source: He et al. 2017 (arXiv:1703.06870), section 3.
    """
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"boxes have the shape {tuple(boxes.shape)}; they must be (pictures, boxes, 4)")
    ends = boxes.to(torch.promote_types(boxes.dtype, torch.float32)) / patch
    rows = _axis_weights(ends[..., 1], ends[..., 3], grid[0], size * samples)
    columns = _axis_weights(ends[..., 0], ends[..., 2], grid[1], size * samples)
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


def _axis_weights(low: Tensor, high: Tensor, length: int, count: int) -> Tensor:
    """Return the weights of cells along one axis (B, R, length), the mean over `count` samples between two ends (B, R)."""
    steps = (torch.arange(count, device=low.device) + 0.5) / count
    points = low[..., None] + steps * (high - low)[..., None] - 0.5  # the middle of cell 0 is at 0
    inside = (points >= -1) & (points <= length)
    points = points.clamp(0, length - 1)
    cells = torch.arange(length, device=low.device)
    near = (1 - (points[..., None] - cells).abs()).clamp(min=0) * inside[..., None]
    return near.mean(-2)


def category_embeddings(
    model: Any,
    processor: Any,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    background: str = BACKGROUND,
) -> Tensor:
    """Return unit vectors of categories (1 + names, E), the background first; several sentences of a name are averaged.

    Args:
        model: with `get_text_features`. processor: with a `tokenizer`.
        names: of the categories. templates: sentences with `{}` for the name. background: name of what is none of them.
    Raises:
        ValueError: no names, an empty one, or a template without `{}`.
    """
    wrong = [name for name in names if not name.strip()]
    if not names or wrong:
        raise ValueError("there are no names of categories" if not names else f"the name of a category is {wrong[0]!r}")
    if not templates or any("{}" not in each for each in templates):
        raise ValueError(f"the templates are {list(templates)}; each needs a {{}} where the name goes")
    total = None
    for template in templates:
        batch = processor(text=[template.format(name) for name in (background, *names)], return_tensors="pt")
        with torch.no_grad():
            found = unit(model.get_text_features(**batch.to(model.device)).pooler_output)
        total = found if total is None else total + found
    return unit(total)


def vlm_scores(regions: Tensor, categories: Tensor, temperature: float) -> Tensor:
    """Return the share of each category in regions: unit vectors (..., R, E), (C, E) -> (..., R, C), rows sum to 1."""
    return (regions @ categories.T.to(regions.dtype) / temperature).softmax(-1)


def ensemble_scores(vlm: Tensor, detection: Tensor, is_base: Tensor, alpha: float, beta: float) -> Tensor:
    """Return the geometric mean of what the model and a detector say of regions, background as the detector says.

    Args:
        vlm: z (..., R, C), of `vlm_scores`. detection: p (..., R, C), background first, rows sum to 1.
        is_base: bool (C,), categories that the detector was trained on.
        alpha, beta: the detector's share: z^(1 - alpha) p^alpha for these, z^(1 - beta) p^beta for others, in [0, 1].
    Returns:
        (..., R, C), whose rows do not sum to 1.
    Source: Gu et al. 2022 (ViLD, arXiv:2104.13921), eq. 8; Kuo et al. 2023 (F-VLM, arXiv:2209.15639), eq. 2.
    """
    share = torch.where(is_base.bool(), alpha, beta).to(vlm.dtype)
    mixed = vlm ** (1 - share) * detection.to(vlm.dtype) ** share
    return torch.cat([detection[..., :1].to(vlm.dtype), mixed[..., 1:]], -1)
