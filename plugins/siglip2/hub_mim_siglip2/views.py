"""Crops of pictures on the device: small ones for the student, a large one for the teacher (SILC).

Only places and sizes are drawn; colours and sides are kept, since captions tell both.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

RATIOS = (3 / 4, 4 / 3)  # of height to width


def crop_boxes(noise: Tensor, scale: Sequence[float]) -> Tensor:
    """Return boxes (..., 4) = top, left, bottom, right in [0, 1] from uniform noise (..., 4): area, shape, place.

    Args:
        scale: least and greatest share of the area. A box that would be higher or wider than the picture is cut.
    """
    low, high = scale
    area = low + (high - low) * noise[..., 0]
    stretch = torch.exp(math.log(RATIOS[0]) + (math.log(RATIOS[1]) - math.log(RATIOS[0])) * noise[..., 1])
    tall, wide = (area * stretch).sqrt().clamp(max=1), (area / stretch).sqrt().clamp(max=1)
    top, left = noise[..., 2] * (1 - tall), noise[..., 3] * (1 - wide)
    return torch.stack([top, left, top + tall, left + wide], -1)


def crop(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut boxes (B, V, 4) out of pictures (B, C, H, W) and resize them bilinearly; returns (B * V, C, *size)."""
    kind = torch.promote_types(images.dtype, torch.float32)
    top, left, bottom, right = boxes.to(kind).flatten(0, 1).unbind(-1)
    zero = torch.zeros_like(top)
    theta = torch.stack([right - left, zero, left + right - 1, zero, bottom - top, top + bottom - 1], 1).view(-1, 2, 3)
    views = boxes.shape[1]
    source = images.to(kind)[:, None].expand(-1, views, -1, -1, -1).flatten(0, 1)
    grid = affine_grid(theta, [len(source), source.shape[1], *size], align_corners=False)
    return grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False).to(images.dtype)
