"""Tables of positions: fixed sines and cosines, resized to any grid, and random parts of them.

Shapes: B pictures, N patches on a grid (h, w), D channels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from hub_mim.masking import noise
from hub_mim.patches import sincos_2d
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig

Grid = tuple[int, int]


class Positions(nn.Module):
    """A constant table (N, D) of the training grid.

    Args:
        config: of the model. width: D, a multiple of 4.
    """

    table: Tensor

    def __init__(self, config: CfmVitConfig, width: int):
        super().__init__()
        self.grid, self.width, self.fine = config.grid, width, config.crop_grid
        self.register_buffer("table", torch.empty(self.grid[0] * self.grid[1], width), persistent=False)

    def reset(self) -> None:
        """Fill the table: the first half of the channels tells the column."""
        init.copy_(self.table, sincos_2d(self.grid, self.width).to(self.table))

    def forward(self, grid: Grid) -> Tensor:
        """Return the positions of a grid (N, D): the table itself, or resized as a picture is."""
        if grid == self.grid:
            return self.table
        return self._resized(grid).flatten(1).T.to(self.table.dtype)

    def _resized(self, grid: Grid) -> Tensor:
        kind = torch.promote_types(self.table.dtype, torch.float32)
        whole = self.table.to(kind).T.unflatten(1, self.grid)[None]
        return F.interpolate(whole, size=grid, mode="bilinear", align_corners=False)[0]

    def cropped(self, crops: Tensor, grid: Grid) -> Tensor:
        """Return for each picture a part of the table, enlarged to the grid (B, N, D).

        Args:
            crops: (B, 4), x1, y1, x2, y2 in [0, 1] of the table. grid: of patches.
        Source: Kim et al. 2023 (RO-ViT, arXiv:2305.07011), section 3.2.
        """
        fine = self._resized((self.fine, self.fine))
        rows = (torch.arange(grid[0], device=crops.device) + 0.5) / grid[0]
        columns = (torch.arange(grid[1], device=crops.device) + 0.5) / grid[1]
        x = crops[:, None, 0] + columns * (crops[:, None, 2] - crops[:, None, 0])
        y = crops[:, None, 1] + rows * (crops[:, None, 3] - crops[:, None, 1])
        points = torch.stack([x[:, None, :].expand(-1, *grid), y[:, :, None].expand(-1, *grid)], -1) * 2 - 1
        wide = fine.expand(len(crops), -1, -1, -1)
        found = F.grid_sample(wide, points.to(fine.dtype), align_corners=False, padding_mode="border")
        return found.flatten(2).transpose(1, 2).to(self.table.dtype)


def draw_kept(rows: int, share: float, source: dict[str, Any]) -> Tensor:
    """Draw which pictures keep their positions, bool (B,).

    Args:
        share: chance to lose them. source: of randomness, see `masking.noise`.
    """
    return noise((rows, 1), stream=1, **source)[:, 0] >= share


def draw_crops(rows: int, scale: list[float], ratio: list[float], source: dict[str, Any]) -> Tensor:
    """Draw parts of a table, (B, 4), x1, y1, x2, y2 in [0, 1].

    Args:
        scale, ratio: least and greatest area and ratio of width to height. source: see `draw_kept`.
    """
    draws = noise((rows, 4), stream=2, **source)
    area = scale[0] + draws[:, 0] * (scale[1] - scale[0])
    low, high = torch.tensor(ratio, device=draws.device).log()
    shape = (low + draws[:, 1] * (high - low)).exp()
    size = torch.stack([(area * shape).sqrt(), (area / shape).sqrt()], 1).clamp(max=1)
    corner = draws[:, 2:] * (1 - size)
    return torch.cat([corner, corner + size], 1)
