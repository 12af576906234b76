"""From pictures, depth maps and class maps to MultiMAE's tensors and back; every modality of a row is resized as one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import BatchFeature, ProcessorMixin

from hub_mim.method import suggest
from hub_mim.patches import unpatchify
from hub_mim.pixels import resized
from hub_mim_multimae.modalities import PAPER, Modality, named

ALIASES = {"rgb": ("rgb", "image", "images")}  # what folders and other methods call a picture
TRIM = 0.1  # share of the least and of the greatest values that standardising does not look at


class MultiMAEProcessor(ProcessorMixin):
    """Make aligned maps of one size: pictures stay 8 bits wide (the model normalises them), depth is standardised.

    Args:
        modalities: for each its "name" and fields of `modalities.Modality`; default the paper's.
        use: names of the modalities to read; empty: all.
        image_size: of the pictures, one number for squares or (height, width), a multiple of `patch_size`.
        patch_size: side of a patch.
        normalize: normalise pictures here instead of in the model, at four times the memory.
    Raises:
        ValueError: a wrong size, or a modality that is none.
    """

    def __init__(
        self,
        modalities: Sequence[Mapping[str, Any]] = PAPER,
        use: Sequence[str] = (),
        image_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        normalize: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.modalities = [dict(each) for each in modalities]
        self.made = named(self.modalities)
        self.use, self.image_size, self.patch_size, self.normalize = list(use), image_size, patch_size, normalize
        if isinstance(image_size, Sequence):
            self.image_size = list(image_size)
        for name in self.use:
            if name not in self.made:
                raise ValueError(f"use names {name!r}{suggest(name, self.made)}; there are {', '.join(self.made)}")
        if any(length < 1 or length % patch_size for length in self.sides):
            raise ValueError(f"image_size {image_size} must be a multiple of the patch size {patch_size}")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {name: value for name, value in super().to_dict().items() if name != "made"}

    @classmethod
    def for_config(cls, fields: Mapping[str, Any]) -> "MultiMAEProcessor":
        """Return the processor that a configuration with these fields needs."""
        side, patch = fields.get("image_size", 224), fields.get("patch_size", 16)
        return cls(modalities=fields.get("modalities") or PAPER, image_size=side, patch_size=patch)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the processor makes."""
        return [*(self.use or self.made), "present"]

    def __call__(
        self, rows: Sequence[Mapping[str, Any]] | None = None, return_tensors: str | None = "pt", **maps: Any
    ) -> BatchFeature:
        """Return the modalities by name, and `present`, bool (B, M), where some row lacks one.

        Args:
            rows: list of dicts; a modality that a row lacks, or has as None, is missing there. A column "image" is rgb.
            return_tensors: "pt", or None for the same.
            maps: instead of rows, a list of maps for each modality. A map is a PIL picture, or an array (H, W) or
                (H, W, C); 16-bit depth and palette pictures are read as they are.
        Raises:
            ValueError: no modality at all, maps that do not belong to one picture, a wrong number of channels, a class out
                of range, values that are no numbers.
        """
        if rows is None:
            given = {name: list(values) for name, values in maps.items() if values is not None}
            rows = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
        found = [self._row(dict(row)) for row in rows]
        names = self.use or list(self.made)
        batch = {name: torch.stack([self._or_nothing(name, row.get(name)) for row in found]) for name in names}
        present = torch.tensor([[name in row for name in self.made] for row in found])
        used = [name in names for name in self.made]
        if not bool(present[:, used].all()):
            batch["present"] = present
        return BatchFeature(batch)

    def _row(self, row: dict[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of one row's modalities."""
        found, sizes = {}, {}
        for name in self.use or self.made:
            value = next((row[each] for each in ALIASES.get(name, (name,)) if row.get(each) is not None), None)
            if value is None:
                continue
            table = as_array(name, value, self.made[name])
            sizes[name] = table.shape[:2]
            found[name] = self._map(name, table)
        if not found:
            wanted = ", ".join(self.use or self.made)
            raise ValueError(f"a row has none of the modalities {wanted}; its columns are {', '.join(map(str, row))}")
        (first, size), *others = sizes.items()
        for name, other in others:
            if abs(other[0] * size[1] / (other[1] * size[0]) - 1) > 0.02:
                raise ValueError(
                    f"{name} is {other[0]} x {other[1]}, {first} is {size[0]} x {size[1]}: they do not show the same; align them"
                )
        return found

    def _map(self, name: str, table: np.ndarray) -> Tensor:
        """Resize an array (H, W, C), classes without blending, and scale it."""
        made = self.made[name]
        high, wide = (length // made.stride for length in self.sides)
        values = torch.from_numpy(np.array(table))
        if made.categorical:
            if values.shape[:2] != (high, wide):
                small = interpolate(values[None, None, :, :, 0].float(), size=(high, wide), mode="nearest-exact")
                return small[0, 0].long()
            return values[:, :, 0].long()
        eight = values.dtype == torch.uint8
        values = resized(table, (high, wide)).float() if eight else values.permute(2, 0, 1).float()
        if values.shape[1:] != (high, wide):
            values = interpolate(values[None], size=(high, wide), mode="bilinear", antialias=True)[0]
        if not eight:
            values = values / made.scale
        elif not self.normalize and made.mean and not made.standardize:
            return values.to(torch.uint8)
        else:
            values = values / 255
            if made.mean:
                mean, std = (torch.tensor(each)[:, None, None] for each in (made.mean, made.std))
                values = (values - mean) / std
        return standardize(values) if made.standardize else values

    def _or_nothing(self, name: str, value: Tensor | None) -> Tensor:
        if value is not None:
            return value
        made = self.made[name]
        high, wide = (length // made.stride for length in self.sides)
        if made.categorical:
            return torch.zeros(high, wide, dtype=torch.long)
        eight = bool(made.mean) and not made.standardize and not self.normalize
        return torch.zeros(made.channels, high, wide, dtype=torch.uint8 if eight else torch.float32)

    def as_maps(self, task: str, prediction: Tensor) -> Tensor:
        """Join predicted patches (B, N, values) into maps: float (B, C, H, W) on the model's scale, or classes (B, H, W).

        A task "norm_x" gives patches that are standardised each.
        """
        name = task if task in self.made else task.removeprefix("norm_")
        made = self.made[name]
        side = max(1, self.patch_size // made.stride)
        grid = self.sides[0] // self.patch_size, self.sides[1] // self.patch_size
        joined = unpatchify(prediction, (side, side), grid, order="channel_first")
        return joined.argmax(1) if made.categorical else joined


def as_array(name: str, value: Any, made: Modality) -> np.ndarray:
    """Return a map as an array (H, W, C); see `MultiMAEProcessor`.

    Raises:
        ValueError: it is none, has a wrong number of channels, or holds classes out of range or values that are no numbers.
    """
    if isinstance(value, Image.Image):
        if not made.categorical and made.channels == 3 and value.mode != "RGB":
            value = value.convert("RGB")
        elif not made.categorical and made.channels == 1 and value.mode in ("RGB", "RGBA", "P", "LA"):
            value = value.convert("L")
    table = np.asarray(value)
    if table.ndim == 2:
        table = table[:, :, None]
    channels = 1 if made.categorical else made.channels
    if table.ndim != 3 or table.shape[2] != channels or 0 in table.shape or table.dtype.kind not in "uifb":
        raise ValueError(
            f"{name} is {table.dtype} of shape {table.shape}; it must be (height, width) or (height, width, {channels})"
        )
    if made.categorical:
        low, high = int(table.min()), int(table.max())
        if table.dtype.kind == "f" or low < 0 or high >= made.num_classes:
            what = f"values of {table.dtype}" if table.dtype.kind == "f" else f"the class {low if low < 0 else high}"
            raise ValueError(f"{name} holds {what}; its classes are the whole numbers 0 to {made.num_classes - 1}")
        return table.astype(np.int64)
    if table.dtype.kind == "f" and not np.isfinite(table).all():
        raise ValueError(f"{name} holds {int((~np.isfinite(table)).sum())} values that are no numbers; fill them first")
    if made.mean and table.dtype.kind in "ui":  # a picture that a table kept as lists of whole numbers
        if int(table.min()) < 0 or int(table.max()) > 255:
            raise ValueError(
                f"{name} holds whole numbers from {table.min()} to {table.max()}; those of a picture are 0 to 255"
            )
        return table.astype(np.uint8)
    return table if table.dtype == np.uint8 else table.astype(np.float32)


def standardize(values: Tensor, eps: float = 1e-6) -> Tensor:
    """Standardise a map (..., H, W) by the mean and unbiased variance of its middle 80 %; section 4.1 of the paper."""
    flat = values.flatten(-3) if values.dim() >= 3 else values.flatten()
    count = flat.shape[-1]
    middle = flat.sort(-1).values[..., int(TRIM * count) : int((1 - TRIM) * count)]
    variance, mean = torch.var_mean(middle, dim=-1)
    shape = (*mean.shape, *[1] * min(3, values.dim()))
    return (values - mean.view(shape)) / (variance.view(shape) + eps).sqrt()
