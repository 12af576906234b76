"""RoIAlign by torch alone: features of boxes out of a feature map, with gradients, on any device."""

import torch
from torch import Tensor
from torch.nn import functional as F


def roi_align(features: Tensor, boxes: Tensor, rows: Tensor, size: int = 7, samples: int = 2) -> Tensor:
    """Return the features of boxes: the mean of bilinear samples in each of `size` by `size` bins.

    Args:
        features: (B, C, H, W).
        boxes: corners in [0, 1] of the picture (R, 4).
        rows: int64 (R,), the picture of each box.
        size: bins a side. samples: a side of each bin.
    Returns:
        (R, C, size, size). Equals torchvision's `roi_align(..., aligned=True)` with `sampling_ratio=samples`.
    Source: He et al. 2017 (arXiv:1703.06870), section 3.
    """
    count = size * samples
    steps = (torch.arange(count, device=boxes.device, dtype=boxes.dtype) + 0.5) / count
    x = boxes[:, None, 0] + steps * (boxes[:, None, 2] - boxes[:, None, 0])
    y = boxes[:, None, 1] + steps * (boxes[:, None, 3] - boxes[:, None, 1])
    grid = torch.stack([x[:, None, :].expand(-1, count, -1), y[:, :, None].expand(-1, -1, count)], -1) * 2 - 1
    out = features.new_empty(len(boxes), features.shape[1], size, size)
    for row in range(len(features)):
        chosen = (rows == row).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        points = grid[chosen].flatten(0, 1)[None]  # one look-up for all boxes of a picture
        found = F.grid_sample(
            features[row][None], points.to(features.dtype), align_corners=False, padding_mode="border"
        )
        bins = found[0].unflatten(1, (len(chosen), count)).transpose(0, 1)
        out = out.index_copy(0, chosen, F.avg_pool2d(bins, samples) if samples > 1 else bins)
    return out
