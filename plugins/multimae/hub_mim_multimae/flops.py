"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hub_mim_multimae.configuration_multimae import MultiMAEConfig


def block(tokens: int, width: int, inner: int) -> int:
    """Return the operations of one Transformer block on one row."""
    return tokens * (8 * width * width + 4 * width * inner) + 4 * tokens * tokens * width


def forward_flops(config: MultiMAEConfig, batch: dict[str, Any], mask: Mapping[str, Tensor] | None = None) -> int:
    """Return the operations of pre-training's forward pass for a batch of modalities.

    Args:
        config: of the model. batch: modalities by name.
        mask: bool (B, N) by modality, True = hidden: hidden patches are not embedded; default: all are counted.
    """
    names = [name for name in config.names if name in batch]
    first = config.modality(names[0])
    shape = batch[names[0]].shape
    patches = (shape[-2] * first.stride // config.patch_size) * (shape[-1] * first.stride // config.patch_size)
    seen = min(config.num_visible, patches * len(names)) + config.num_global_tokens
    width, inner = config.decoder_hidden_size, config.decoder_intermediate_size
    total = config.num_hidden_layers * block(seen, config.hidden_size, config.intermediate_size)
    batched = 0
    for name in names:
        made, side = config.modality(name), config.patch_side(name)
        blurred = made.categorical and config.class_embedding == "interpolate"
        number = int(shape[0]) * patches if blurred else _visible(config, batch, mask, name, int(shape[0]) * patches)
        batched += 2 * number * made.depth * (1 if blurred else side * side) * config.hidden_size
    for target in config.targets.values():
        outputs = config.modality(target).outputs * config.patch_side(target) ** 2
        cross = 4 * patches * width**2 + 4 * seen * width**2 + 4 * patches * seen * width + 4 * patches * width * inner
        total += 2 * seen * config.hidden_size * width + cross + 2 * patches * width * outputs
        total += config.decoder_num_hidden_layers * block(patches, width, inner)
    return int(shape[0]) * total + batched


def _visible(
    config: MultiMAEConfig, batch: dict[str, Any], mask: Mapping[str, Tensor] | None, name: str, most: int
) -> int:
    """Return how many patches of a modality are embedded: all, unless a mask hides some or rows lack it."""
    if mask is None:
        return most
    seen = ~mask[name]
    if "present" in batch:
        seen = seen & batch["present"][:, config.names.index(name), None]
    return int(seen.sum())
