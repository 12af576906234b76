"""NaFlex pictures with fewer patches: the sequence length is drawn for each batch while training (section 2.4).

The processor makes as many patches as the longest sequence has; shorter ones are made of those on the device, by resizing
what the patches show. big_vision resizes the file's picture instead: ours is resized twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hub_mim.masking import row_noise
from hub_mim.patches import patchify, unpatchify


def draw_length(lengths: Sequence[int], step_seed: int) -> int:
    """Return one of the lengths, uniformly, by the seed of the step: the same on all processes."""
    chance = float(row_noise(torch.tensor([step_seed]), 1, stream=7)[0, 0])
    return int(lengths[min(len(lengths) - 1, int(chance * len(lengths)))])


def grid_for(rows: int, columns: int, patch: int, most: int) -> tuple[int, int]:
    """Return rows and columns of patches of a picture of some shape that fill at most `most` places."""
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    high, wide = get_image_size_for_max_num_patches(rows * patch, columns * patch, patch, most)
    return high // patch, wide // patch


def shrink(pixel_values: Tensor, valid: Tensor, shapes: Tensor, most: int, patch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Resize NaFlex pictures to at most `most` patches; those of a batch that is not longer stay as they are.

    Args:
        pixel_values: (B, N, P * P * C). valid: (B, N), 1 = patch. shapes: int64 (B, 2). patch: P.
    Returns:
        The same three, with N = most.
    """
    if most >= pixel_values.shape[1]:
        return pixel_values, valid, shapes
    made = pixel_values.new_zeros(len(pixel_values), most, pixel_values.shape[2])
    kept, grids = torch.zeros_like(valid[:, :1]).repeat(1, most), []
    for row, (rows, columns) in enumerate(shapes.tolist()):
        grid = grid_for(rows, columns, patch, most) if rows * columns > most else (rows, columns)
        part = pixel_values[row, : rows * columns]
        if grid != (rows, columns):
            whole = unpatchify(part[None], (patch, patch), (rows, columns)).float()
            size = grid[0] * patch, grid[1] * patch
            small = interpolate(whole, size=size, mode="bilinear", align_corners=False, antialias=True)
            part = patchify(small.to(part.dtype), (patch, patch))[0]
        made[row, : len(part)], kept[row, : len(part)] = part, 1
        grids.append(grid)
    return made, kept, torch.tensor(grids, dtype=shapes.dtype, device=shapes.device)
