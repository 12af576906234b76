"""What is left to do with pictures on the device: they travel from the data workers as bytes, a quarter of the numbers.

There they are cropped and flipped, in training, and become what the processor would have made of them, to the last bit: its
own values of the 256 levels are looked up. Whoever calls a processor sees nothing of this.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hub_mim.augmenting import Augmentation

PIXELS = "pixel_values"
LEVELS = 256


class Bytes(NamedTuple):
    """A processor that leaves `pixel_values` as bytes, and what the whole one makes of each level, float32 (C, 256)."""

    processor: Any
    table: Tensor


def in_bytes(processor: Any) -> Bytes | None:
    """Return how a processor's pictures can travel as bytes; None where they have to travel as they are.

    They can where a processor has `in_bytes()`, which returns `Bytes`, and where it is one of transformers' for pictures, or has
    one as `image_processor`, that scales and normalises last of all; which is tried, on two pictures.
    """
    if hasattr(processor, "in_bytes"):
        made: Bytes | None = processor.in_bytes()
        return made
    from transformers import BaseImageProcessor

    inner = getattr(processor, "image_processor", processor)
    if not isinstance(inner, BaseImageProcessor):
        return None
    plain = copy.deepcopy(inner)
    plain.do_rescale = plain.do_normalize = False  # type: ignore[attr-defined]
    table = _tried(inner, plain)
    if table is None:
        return None
    if inner is not processor:
        outer = copy.copy(processor)
        outer.image_processor = plain
        plain = outer
    return Bytes(plain, table)


def levels(channels: int = 3) -> np.ndarray:
    """Return a picture of all levels in all channels, uint8 (16, 16, channels)."""
    return np.arange(LEVELS, dtype=np.uint8).reshape(16, 16, 1).repeat(channels, 2)


def _tried(whole: Any, plain: Any) -> Tensor | None:
    """Return the table by which the plain processor's bytes become what the whole one makes; None where there is none."""
    mean = getattr(whole, "image_mean", None)
    channels = len(mean) if isinstance(mean, list | tuple) else 3
    source = np.random.default_rng(0)
    pictures = [source.integers(0, LEVELS, (*sides, channels), dtype=np.uint8) for sides in ((48, 80), (80, 48))]
    try:
        known = whole(images=levels(channels), do_resize=False, do_center_crop=False, return_tensors="pt")[PIXELS]
        table = known.to(torch.float32).reshape(channels, LEVELS)
        for picture in pictures:
            made, wanted = (each(images=picture, return_tensors="pt")[PIXELS] for each in (plain, whole))
            if made.dtype != torch.uint8 or made.shape != wanted.shape or not torch.equal(values(made, table), wanted):
                return None
    except (KeyError, RuntimeError, TypeError, ValueError):
        return None  # one that takes no such pictures, or gives them another form
    return table


def values(pixels: Tensor, table: Tensor) -> Tensor:
    """Return what each level means.

    Args:
        pixels: uint8 (..., C, H, W). table: float32 (C, 256).
    Returns:
        float32, of the same shape.
    """
    start = LEVELS * torch.arange(len(table), dtype=torch.int32, device=pixels.device)[:, None, None]
    places = pixels.to(torch.int32) + start
    return table.flatten().index_select(0, places.flatten()).view(pixels.shape)


class OnDevice:
    """Finish a batch that has arrived on the device.

    Args:
        table: see `Bytes`; None: pictures do not travel as bytes.
        augmentation: of the pictures in training, or None.
    """

    def __init__(self, table: Tensor | None = None, augmentation: Augmentation | None = None):
        self.table, self.augmentation = table, augmentation

    def __call__(self, batch: dict[str, Any], row_seed: Tensor | None = None) -> dict[str, Any]:
        """Return the batch with its pictures cropped and flipped, by the rows' seeds, and then with their values.

        Args:
            batch: by name; what is no picture stays as it is.
            row_seed: int64 (B,); None: the pictures are not changed (evaluation).
        """
        pixels = batch.get(PIXELS)
        if pixels is None:
            return batch
        if self.augmentation is not None and row_seed is not None:
            pixels = self.augmentation(pixels, row_seed)
        if self.table is not None and pixels.dtype == torch.uint8:
            self.table = self.table.to(pixels.device)
            pixels = values(pixels, self.table)
        return batch | {PIXELS: pixels}
