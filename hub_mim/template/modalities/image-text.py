"""From images with captions to one sequence: patches, then bytes; values (B, T, C), coordinates (B, T, P)."""

import random
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature, ProcessorMixin

from hub_mim.patches import patchify, sincos_1d

EXAMPLE = {"image_size": 8, "patch_size": 4, "max_length": 12}
FIXED = ("num_coordinates",)  # configuration fields that follow from the processor alone
BITS, WAVES = 8, 16


class MyMethodProcessor(ProcessorMixin):
    """Cut an image into patches, a caption into bytes, and put both into one sequence.

    Channels: the pixels of a patch, then the bits of a byte; a token fills its own part and leaves the other at 0.

    Args:
        image_size: pixels a side, a multiple of `patch_size`.
        patch_size: pixels a side.
        max_length: bytes kept of a caption.
    """

    def __init__(self, image_size: int = 32, patch_size: int = 8, max_length: int = 64, **kwargs: Any):
        super().__init__(**kwargs)
        if image_size % patch_size:
            raise ValueError(f"image_size {image_size} is not a multiple of patch_size {patch_size}")
        self.image_size, self.patch_size, self.max_length = image_size, patch_size, max_length

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values", "coordinates", "attention_mask"]

    def __call__(self, rows: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows with an `image` (PIL, or a path) and a `text`."""
        tokens = [torch.cat([self._patches(row["image"]), self._bytes(row["text"])]) for row in rows]
        number = (self.image_size // self.patch_size) ** 2
        count = torch.tensor([len(each) for each in tokens])
        values = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        order = torch.arange(values.shape[1])
        kind = (order < number).float()[:, None]
        waves = sincos_1d(torch.where(order < number, order, order - number), WAVES)
        coordinates = torch.cat([kind, waves * kind, waves * (1 - kind)], 1).expand(len(tokens), -1, -1).clone()
        return BatchFeature({"values": values, "coordinates": coordinates, "attention_mask": order < count[:, None]})

    def _patches(self, image: Any) -> torch.Tensor:
        if not isinstance(image, Image.Image):
            image = Image.open(image)
        square = image.convert("RGB").resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.asarray(square, np.float32) / 127.5 - 1).permute(2, 0, 1)
        patches = patchify(pixels[None], (self.patch_size, self.patch_size))[0]
        return torch.nn.functional.pad(patches, (0, BITS))

    def _bytes(self, text: str) -> torch.Tensor:
        codes = torch.tensor(list(text.encode()[: self.max_length] or b"\0"))
        bits = (codes[:, None] >> torch.arange(BITS) & 1).float() * 2 - 1
        return torch.nn.functional.pad(bits, (3 * self.patch_size**2, 0))


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return images of one colour with its name."""
    source = random.Random(seed)
    colours = {"red": (200, 20, 20), "green": (20, 200, 20), "dark blue": (10, 10, 120)}
    names = [source.choice(list(colours)) for _ in range(count)]
    return [{"image": Image.new("RGB", (16, 16), colours[name]), "text": name} for name in names]


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return pairs at the edge of what users have."""
    return {
        "no text": [{"image": Image.new("RGB", (9, 9)), "text": ""}],
        "one channel": [{"image": Image.new("L", (9, 9)), "text": "grey"}],
        "a long text": [{"image": Image.new("RGB", (90, 9)), "text": "long " * 50}],
    }
