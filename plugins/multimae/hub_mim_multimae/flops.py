"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from typing import Any

from hub_mim_multimae.configuration_multimae import MultiMAEConfig


def block(tokens: int, width: int, inner: int) -> int:
    """Return the operations of one Transformer block on one row."""
    return tokens * (8 * width * width + 4 * width * inner) + 4 * tokens * tokens * width


def forward_flops(config: MultiMAEConfig, batch: dict[str, Any]) -> int:
    """Return the operations of pre-training's forward pass for a batch of modalities."""
    names = [name for name in config.names if name in batch]
    first = config.modality(names[0])
    shape = batch[names[0]].shape
    patches = (shape[-2] * first.stride // config.patch_size) * (shape[-1] * first.stride // config.patch_size)
    seen = min(config.num_visible, patches * len(names)) + config.num_global_tokens
    width, inner = config.decoder_hidden_size, config.decoder_intermediate_size
    total = config.num_hidden_layers * block(seen, config.hidden_size, config.intermediate_size)
    for name in names:
        made, side = config.modality(name), config.patch_side(name)
        blurred = made.categorical and config.class_embedding == "interpolate"
        total += 2 * patches * made.depth * (1 if blurred else side * side) * config.hidden_size
    for target in config.targets.values():
        outputs = config.modality(target).outputs * config.patch_side(target) ** 2
        cross = 4 * patches * width**2 + 4 * seen * width**2 + 4 * patches * seen * width + 4 * patches * width * inner
        total += 2 * seen * config.hidden_size * width + cross + 2 * patches * width * outputs
        total += config.decoder_num_hidden_layers * block(patches, width, inner)
    return int(shape[0]) * total
