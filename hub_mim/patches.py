"""Cut images into patches, join them again, and make sine-cosine position tables.

Shapes: B images, C channels, H x W pixels, P x Q pixels a patch, N = (H / P) * (W / Q) patches in rows, top to bottom.
"""

from typing import Literal

import torch
from torch import Tensor

from hub_mim.checking import takes

Order = Literal["channel_last", "channel_first"]  # MAE flattens a patch as (p q c), MultiMAE as (c p q)


@takes(images="any B C H W", patch=">=1 P Q")
def patchify(images: Tensor, patch: tuple[int, int], *, order: Order = "channel_last") -> Tensor:
    """Cut (B, C, H, W) into patches (B, N, P * Q * C).

    Args:
        images: any dtype.
        patch: (P, Q).
        order: how the values of a patch are laid out.
    Raises:
        ValueError: the size is no multiple of the patch size.
    Source: He et al. 2022 (arXiv:2111.06377), section 3; channel-first as in MultiMAE (arXiv:2204.01678).
    """
    batch, channels, height, width = images.shape
    p, q = patch
    if height % p or width % q:
        raise ValueError(f"images: size {height}x{width} is not a multiple of the patch size {p}x{q}; resize the image")
    cut = images.reshape(batch, channels, height // p, p, width // q, q)
    axes = (0, 2, 4, 3, 5, 1) if order == "channel_last" else (0, 2, 4, 1, 3, 5)
    return cut.permute(axes).reshape(batch, (height // p) * (width // q), p * q * channels)


@takes(patches="any B N V", patch=">=1 P Q", grid=">=0 R S")
def unpatchify(
    patches: Tensor, patch: tuple[int, int], grid: tuple[int, int], *, order: Order = "channel_last"
) -> Tensor:
    """Join patches (B, N, P * Q * C) on a grid (H / P, W / Q) into images (B, C, H, W); inverts `patchify`."""
    batch, number, size = patches.shape
    (rows, columns), (p, q) = grid, patch
    if number != rows * columns or size % (p * q):
        raise ValueError(f"{number} patches of {size} values do not fill a grid {rows}x{columns} of {p}x{q} patches")
    channels = size // (p * q)
    if order == "channel_last":
        parts = patches.reshape(batch, rows, columns, p, q, channels).permute(0, 5, 1, 3, 2, 4)
    else:
        parts = patches.reshape(batch, rows, columns, channels, p, q).permute(0, 3, 1, 4, 2, 5)
    return parts.reshape(batch, channels, rows * p, columns * q)


@takes(positions="number N", width=">=1", temperature=">0")
def sincos_1d(positions: Tensor, width: int, *, temperature: float = 10_000.0) -> Tensor:
    """Return a table of sines, then cosines, of each position at `width / 2` frequencies.

    Args:
        positions: (N,), in tokens.
        width: number of channels, even.
        temperature: the lowest frequency is 1 / temperature.
    Returns:
        float32 (N, width), computed in float64.
    Raises:
        ValueError: `width` is odd.
    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, halves not interleaved, as in MAE's code.
    """
    if width % 2:
        raise ValueError(f"a sine-cosine table needs an even width, not {width}")
    half = width // 2
    frequency = temperature ** (-torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angle = positions.double()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], 1).float()


@takes(grid=">=0 R S", width=">=1", temperature=">0")
def sincos_2d(
    grid: tuple[int, int],
    width: int,
    *,
    temperature: float = 10_000.0,
    first: Literal["row", "column"] = "column",
) -> Tensor:
    """Return a table for a grid: half of the channels tell one coordinate, half the other.

    Args:
        grid: (rows, columns).
        width: number of channels, a multiple of 4.
        temperature: see `sincos_1d`.
        first: which coordinate the first half tells; "column" in MAE and MoCo v3, "row" in MultiMAE on square grids.
    Returns:
        float32 (rows * columns, width), row by row.
    Raises:
        ValueError: `width` is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"a two-dimensional sine-cosine table needs a width that is a multiple of 4, not {width}")
    row, column = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    axes = (column, row) if first == "column" else (row, column)
    return torch.cat([sincos_1d(axis.flatten(), width // 2, temperature=temperature) for axis in axes], 1)
