"""Random crops and flips of whole batches of pictures, on the device, decided by each row's seed.

As a random crop that is resized (torchvision's `RandomResizedCrop`), then a flip. Differs from it in one place: a part that would
be higher or wider than the picture is cut to it, and not drawn again.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hub_mim.masking import row_noise
from hub_mim.method import suggest

RATIOS = (3 / 4, 4 / 3)  # of width to height
STREAM = 107  # of the row's noise; masks use others
CUBIC = -0.5  # PIL's bicubic filter
REACH = 2  # pixels that it reaches to each side


@dataclass(frozen=True)
class Augmentation:
    """Crop and flip pictures.

    Args:
        crop: least and greatest share of a picture's area that is seen, drawn for each row, and enlarged to the whole picture.
        flip: share of rows that are mirrored.
    Raises:
        ValueError: shares out of range.
    """

    crop: Sequence[float] = (1.0, 1.0)
    flip: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop if isinstance(self.crop, Sequence) and len(self.crop) == 2 else (0.0, 0.0)
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop is {self.crop}; it must be the least and the greatest share of the area, as [0.2, 1.0]"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is {self.flip}; it must be a share of the rows, from 0 to 1")

    def __call__(self, pixels: Tensor, row_seed: Tensor) -> Tensor:
        """Return other pictures of the same shape and type.

        Args:
            pixels: (B, ..., H, W), bytes or floats; all channels and frames of a row are cut alike.
            row_seed: int64 (B,).
        """
        draw = row_noise(row_seed, 5, stream=STREAM)
        mirror = draw[:, 4] < self.flip
        if tuple(self.crop) == (1.0, 1.0):
            return torch.where(mirror.view(-1, *[1] * (pixels.dim() - 1)), pixels.flip(-1), pixels)
        return resized_crop(pixels, crop_boxes(draw, pixels.shape[-2:], self.crop), mirror)


def resolved(asked: Mapping[str, Any] | Sequence[str] | None, method: Any) -> dict[str, Any]:
    """Return what is asked for with its numbers, those of the method's recipe where none are given.

    Args:
        asked: names of `Augmentation`'s arguments, or a mapping of these to values, None for the recipe's.
        method: a `Method`.
    Raises:
        ValueError: the method has no such augmentation, or a number is out of range.
    """
    wanted = dict(asked) if isinstance(asked, Mapping) else dict.fromkeys(asked or ())
    for name in wanted:
        if name not in method.augments:
            known = f"{suggest(name, method.augments)}; it has {', '.join(method.augments)}" if method.augments else ""
            raise ValueError(f"{method.name} has no augmentation {name!r} (--augment){known}")
    found = {name: method.augments[name] if value is None else value for name, value in wanted.items()}
    Augmentation(**found)
    return {name: list(value) if isinstance(value, Sequence) else value for name, value in found.items()}


def crop_boxes(draw: Tensor, size: Sequence[int], scale: Sequence[float]) -> Tensor:
    """Return top, left, height and width of parts in pixels, int64 (B, 4).

    Args:
        draw: uniform (B, 4): area, shape, place down and across. size: height and width of the pictures.
        scale: least and greatest share of the area.
    """
    whole = torch.tensor(list(size), device=draw.device)
    area = (scale[0] + (scale[1] - scale[0]) * draw[:, 0]) * whole.prod()
    shape = torch.exp(math.log(RATIOS[0]) + (math.log(RATIOS[1]) - math.log(RATIOS[0])) * draw[:, 1])
    sides = torch.stack([area / shape, area * shape], 1).sqrt().round().long().clamp(min=1).minimum(whole)
    starts = (draw[:, 2:4] * (whole - sides + 1)).long()
    return torch.cat([starts, sides], 1)


def resized_crop(pixels: Tensor, boxes: Tensor, mirror: Tensor) -> Tensor:
    """Cut a part out of every picture and resize it to the picture's size, as PIL's bicubic filter does.

    Args:
        pixels: (B, ..., H, W). boxes: see `crop_boxes`. mirror: bool (B,), which rows are flipped.
    Returns:
        The same shape and type; bytes are rounded after each direction, as PIL's are (where matrix products are set to less than
        float32, some differ by a level).
    """
    high, wide = pixels.shape[-2:]
    down, across = weights(boxes[:, 0], boxes[:, 2], high), weights(boxes[:, 1], boxes[:, 3], wide)
    across = torch.where(mirror[:, None, None], across.flip(1), across)
    floats = pixels.is_floating_point()
    x = pixels if floats else pixels.float()
    x = torch.bmm(x.flatten(1, -2), across.mT.to(x.dtype)).view(len(x), -1, high, wide)
    x = down[:, None].to(x.dtype) @ (x if floats else _levels(x))
    return (x if floats else _levels(x)).to(pixels.dtype).view(pixels.shape)


def _levels(x: Tensor) -> Tensor:
    return x.round_().clamp_(0, 255)


def weights(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Return how much each pixel of a part that is enlarged to a whole side takes of each pixel of that side.

    Args:
        start, length: int64 (B,), of the part. size: of the side.
    Returns:
        float32 (B, size, size), of old pixels last.
    """
    step, last = length[:, None] / size, length[:, None, None] - 1
    centre = (torch.arange(size, device=start.device) + 0.5) * step
    near = torch.arange(2 * REACH, device=start.device) + (centre - REACH + 0.5).floor()[..., None]
    far = (near + 0.5 - centre[..., None]).abs()
    inner = (CUBIC + 2) * far**3 - (CUBIC + 3) * far**2 + 1
    outer = CUBIC * (far**3 - 5 * far**2 + 8 * far - 4)
    taken = torch.where(far < 1, inner, outer).masked_fill((near < 0) | (near > last), 0.0)  # the rest is not seen
    places = near.long().clamp(min=0).minimum(last) + start[:, None, None]
    found = taken.new_zeros(len(start), size, size).scatter_add_(2, places, taken)
    return found / found.sum(-1, keepdim=True)
