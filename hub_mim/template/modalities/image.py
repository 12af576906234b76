"""From images to patches: values (B, T, C), coordinates (B, T, P), attention_mask (B, T)."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from hub_mim.patches import patchify

EXAMPLE = {"image_size": 16, "patch_size": 4}
FIXED = ("num_coordinates",)  # configuration fields that follow from the processor alone


class MyMethodProcessor(ProcessorMixin):
    """Resize images to squares and cut them into patches.

    Args:
        image_size: pixels a side, a multiple of `patch_size`.
        patch_size: pixels a side.
    """

    def __init__(self, image_size: int = 32, patch_size: int = 8, **kwargs: Any):
        super().__init__(**kwargs)
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
        self.image_size, self.patch_size = image_size, patch_size

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values", "coordinates", "attention_mask"]

    def __call__(self, rows: Any = None, image: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows with an `image` (PIL, or a path), or a list of images."""
        images = [row["image"] for row in rows] if rows is not None else image
        pixels = torch.stack([self._pixels(each) for each in images])
        values = patchify(pixels, (self.patch_size, self.patch_size))
        side = self.image_size // self.patch_size
        axis = torch.linspace(-1, 1, side)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        waves = torch.cat([(grid * 2.0**power * 3.14159).sin() for power in range(-1, 3)], 1)
        coordinates = waves.expand(len(values), -1, -1).clone()
        there = torch.ones(values.shape[:2], dtype=torch.bool)
        return BatchFeature({"values": values, "coordinates": coordinates, "attention_mask": there})

    def _pixels(self, image: Any) -> torch.Tensor:
        if not isinstance(image, Image.Image):
            image = Image.open(image)
        if min(image.size) < 1:
            raise ValueError(f"an image has {image.size[0]} x {image.size[1]} pixels; it must have some")
        square = image.convert("RGB").resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(square, np.float32) / 127.5 - 1).permute(2, 0, 1)


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return images of discs on gradients."""
    source = random.Random(seed)
    y, x = np.mgrid[0:32, 0:32] / 32
    rows = []
    for _ in range(count):
        disc = (x - source.random()) ** 2 + (y - source.random()) ** 2 < 0.04
        colours = [np.where(disc, source.random(), source.random() * x + source.random() * (1 - y)) for _ in range(3)]
        rows.append({"image": Image.fromarray((np.stack(colours, -1).clip(0, 1) * 255).astype(np.uint8))})
    return rows


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return images at the edge of what users have."""
    return {
        "a wide image": [{"image": Image.new("RGB", (101, 7))}],
        "one pixel": [{"image": Image.new("RGB", (1, 1))}],
        "one channel": [{"image": Image.new("L", (20, 20))}],
        "transparent": [{"image": Image.new("RGBA", (20, 20))}],
    }
