"""Random crop and flip of all modalities of a row as one, on the device, decided by the row's seed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from hub_mim.masking import noise
from hub_mim_multimae.configuration_multimae import Schema
from hub_mim_multimae.processing_multimae import standardize

STREAM = 103  # of the row's noise; masks use others


def augment(
    schema: Schema,
    maps: Mapping[str, Tensor],
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
    **source: Any,
) -> dict[str, Tensor]:
    """Cut a random part out of every row's maps, the same part of each, and enlarge it to their size; flip some.

    Numbers are blended bilinearly, classes are taken from the nearest place; what is standardised is so again.

    Args:
        schema: of the model. maps: float (B, C, H, W), classes int64 (B, H, W).
        scale: least and greatest share of the picture's area. ratio: of width to height, drawn on a log scale.
        flip: share of rows that are mirrored.
        source: `row_seed` or `generator`, see `masking.noise`.
    Source: section 4.1 of the paper, with the scales of He et al. 2022.
    """
    first = next(iter(maps.values()))
    draw = noise((len(first), 5), stream=STREAM, device=first.device, **source).float()
    area = scale[0] + (scale[1] - scale[0]) * draw[:, 0]
    shape = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draw[:, 1])
    wide, high = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    across, down = ((2 * draw[:, place] - 1) * (1 - size) for place, size in ((2, wide), (3, high)))
    mirror = torch.where(draw[:, 4] < flip, -1.0, 1.0)
    nothing = torch.zeros_like(wide)
    matrix = torch.stack([torch.stack([wide * mirror, nothing, across], 1), torch.stack([nothing, high, down], 1)], 1)
    return {name: _sampled(schema, name, values, matrix) for name, values in maps.items()}


def _sampled(schema: Schema, name: str, values: Tensor, matrix: Tensor) -> Tensor:
    made = schema.modality(name)
    whole = values[:, None].float() if made.categorical else values
    places = affine_grid(matrix.to(whole.dtype), list(whole.shape), align_corners=False)
    mode = "nearest" if made.categorical else "bilinear"
    cut = grid_sample(whole, places, mode=mode, padding_mode="border", align_corners=False)
    if made.categorical:
        return cut[:, 0].round().long()
    return standardize(cut) if made.standardize else cut
