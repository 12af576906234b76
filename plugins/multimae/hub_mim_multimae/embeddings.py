"""From maps to tokens: each modality's projection and its table of positions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, linear
from transformers import initialization as init

from hub_mim.patches import patchify, sincos_2d
from hub_mim_multimae.configuration_multimae import MultiMAEConfig, Schema

Grid = tuple[int, int]


class Positions(nn.Module):
    """A table of positions (1, D, h, w), resized to the grid at hand; fixed sines and cosines unless learnable.

    Args:
        config: of the model. width: D. mode: "bicubic" for patches of pictures, "bilinear" for class maps and decoders.
    """

    def __init__(self, config: MultiMAEConfig, width: int, mode: str):
        super().__init__()
        side = config.image_size // config.patch_size
        self.mode = mode
        self.table = nn.Parameter(torch.empty(1, width, side, side), requires_grad=config.learnable_positions)

    def reset(self) -> None:
        """Fill the table; the first half of the channels tells the row, as in the authors' code."""
        side = self.table.shape[-1]
        made = sincos_2d((side, side), self.table.shape[1], first="row").T.reshape(self.table.shape)
        init.copy_(self.table, made.to(self.table))

    def forward(self, grid: Grid) -> Tensor:
        """Return the positions of a grid (1, N, D)."""
        table: Tensor = self.table
        if tuple(table.shape[-2:]) != grid:
            table = interpolate(table.float(), size=grid, mode=self.mode, align_corners=False).to(table.dtype)
        return table.flatten(2).transpose(1, 2)


class MultiMAEAdapter(nn.Module):
    """Turn one modality's map into tokens."""

    def __init__(self, config: MultiMAEConfig, name: str):
        super().__init__()
        self.modality, self.side = config.modality(name), config.patch_side(name)
        self.blurred = self.modality.categorical and config.class_embedding == "interpolate"
        kernel = 1 if self.blurred else self.side
        self.patch_projection = nn.Conv2d(self.modality.depth, config.hidden_size, kernel, kernel)
        if self.modality.categorical:
            self.class_embedding = nn.Embedding(self.modality.num_classes, self.modality.class_width)
        self.positions = Positions(config, config.hidden_size, "bilinear" if self.modality.categorical else "bicubic")

    def reset(self, spread: float) -> None:
        """Fill weights as the authors' code does."""
        weight = self.patch_projection.weight
        bound = (6 / (weight.shape[0] + weight[0].numel())) ** 0.5
        init.uniform_(weight, -bound, bound)
        limit = weight[0].numel() ** -0.5
        if self.patch_projection.bias is not None:
            init.uniform_(self.patch_projection.bias, -limit, limit)  # torch's default for a convolution
        if self.modality.categorical:
            init.trunc_normal_(self.class_embedding.weight, std=spread)

    def forward(self, values: Tensor, picked: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map (B, C, H, W), or class numbers (B, H, W), to tokens (B, N, D).

        Args:
            values: of the modality.
            picked: rows and places int64 (n,): only these patches are embedded, to (n, D).
        """
        if picked is not None and not self.blurred:
            return self._picked(values, *picked)
        kind = self.patch_projection.weight.dtype
        if self.modality.categorical:
            values = self.class_embedding(values).permute(0, 3, 1, 2)
        if self.blurred:
            grid = [length // self.side for length in values.shape[-2:]]
            values = interpolate(values, size=grid, mode="bilinear", align_corners=False)
        x = self.patch_projection(values.to(kind))
        tokens = x.flatten(2).transpose(1, 2) + self.positions((x.shape[2], x.shape[3]))
        return tokens if picked is None else tokens[picked]

    def _picked(self, values: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        """Embed some patches alone: what is hidden is neither looked up nor multiplied."""
        grid = values.shape[-2] // self.side, values.shape[-1] // self.side
        maps = values[:, None] if self.modality.categorical else values
        patches = patchify(maps, (self.side, self.side), order="channel_first")[rows, places]
        if self.modality.categorical:
            patches = self.class_embedding(patches).transpose(1, 2).flatten(1)
        weight = self.patch_projection.weight
        tokens = linear(patches.to(weight.dtype), weight.flatten(1), self.patch_projection.bias)
        return tokens + self.positions(grid)[0, places].to(tokens.dtype)


def read_maps(config: MultiMAEConfig | Schema, given: Mapping[str, Any]) -> tuple[dict[str, Tensor], Grid]:
    """Return the modalities that were given, in the configuration's order, 8-bit ones normalised, and the grid of patches.

    Raises:
        ValueError: none, an unknown one, a wrong shape, sizes that do not belong to one picture, or a class out of range.
    """
    strange = [name for name in given if name not in config.names]
    if strange:
        raise ValueError(f"{strange[0]!r} is no modality of this model; it has {', '.join(config.names)}")
    found = {name: given[name] for name in config.names if given.get(name) is not None}
    if not found:
        raise ValueError(f"no modality was given; this model has {', '.join(config.names)}")
    sizes = {}
    for name, values in found.items():
        made = config.modality(name)
        shape = "(rows, height, width)" if made.categorical else f"(rows, {made.channels}, height, width)"
        if values.dim() != (3 if made.categorical else 4) or (
            not made.categorical and values.shape[1] != made.channels
        ):
            raise ValueError(f"{name} has the shape {tuple(values.shape)}; it must be {shape}")
        sizes[name] = tuple(length * made.stride for length in values.shape[-2:])
        found[name] = _as_classes(name, values, made.num_classes) if made.categorical else _as_numbers(values, made)
    (first, size), *others = sizes.items()
    for name, other in others:
        if other != size:
            raise ValueError(
                f"{name} is of a picture of {other[0]} x {other[1]}, {first} of one of {size[0]} x {size[1]}; align them"
            )
    if any(length % config.patch_size for length in size):
        raise ValueError(
            f"pictures of {size[0]} x {size[1]} are no multiple of the patch size {config.patch_size}; resize them"
        )
    return found, (size[0] // config.patch_size, size[1] // config.patch_size)


def maps_of(model: Any, batch: Mapping[str, Any]) -> tuple[dict[str, Tensor], Grid]:
    """Return the modalities of a batch as a pre-training model takes them, and the grid of patches; see `read_maps`."""
    return read_maps(model.config, {name: value for name, value in batch.items() if name != "present"})


def _as_numbers(values: Tensor, made: Any) -> Tensor:
    """Normalise 8-bit values where they are; others are taken as they come."""
    if values.dtype != torch.uint8:
        return values
    values = values.float() / 255
    if not made.mean:
        return values
    mean, std = (values.new_tensor(each).view(1, -1, 1, 1) for each in (made.mean, made.std))
    return (values - mean) / std


def _as_classes(name: str, values: Tensor, count: int) -> Tensor:
    if values.is_floating_point():
        raise ValueError(f"{name} holds {values.dtype}, but classes are whole numbers")
    values = values.long()
    if values.device.type == "cpu" and not torch.compiler.is_compiling() and values.numel():
        low, high = (int(each) for each in values.aminmax())  # a GPU would have to be waited for
        if low < 0 or high >= count:
            raise ValueError(f"{name} holds the class {low if low < 0 else high}; this model's are 0 to {count - 1}")
    return values
