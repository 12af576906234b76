"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from typing import Any

from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig


def forward_flops(config: Siglip2MimConfig, batch: dict[str, Any], mask: Any = None, *, training: bool = False) -> int:
    """Return the operations for a batch, padding counted; from the start of the self-supervised losses on.

    Args:
        batch: with `pixel_values` and `input_ids`. mask: bool (B, N), which patches are hidden; default `mask_ratio` of them.
        training: count the losses, the teacher and the small views as well, of captions as they are in `caption_ids`.
    """
    rows, length = batch["input_ids"].shape
    vision, text = config.vision_config, config.text_config
    pixels = batch["pixel_values"].shape
    patches = pixels[1] if config.naflex else pixels[2] * pixels[3] // config.patch_size**2
    per_row = _picture(config, patches) + _pooled(config, patches)
    per_row += text.num_hidden_layers * _layer(length, text.hidden_size, text.intermediate_size)
    per_row += 2 * text.hidden_size * text.projection_size
    total = 0
    if "caption" in config.active_losses:
        written = batch.get("caption_ids", batch["input_ids"])
        per_row += _decoder(config, written.shape[1], patches)
        words = written.numel() if config.pad_token_id is None else int((written != config.pad_token_id).sum())
        total += training * 2 * words * text.hidden_size * text.vocab_size
    if "masked" in config.active_losses:
        per_row += _picture(config, patches)
        hidden = rows * round(patches * config.mask_ratio) if mask is None else int(mask.sum())
        total += training * ((rows * patches + hidden) * _embedded(config) + 2 * hidden * _scored(config))
    if training and config.self_supervised:
        per_row += _picture(config, patches)  # the teacher
    if training and "distillation" in config.active_losses:
        small = (config.local_size // config.patch_size) ** 2
        view = _picture(config, small) + _pooled(config, small) + _embedded(config) + _scored(config)
        per_row += _pooled(config, patches) + _embedded(config) + _scored(config) + config.num_local_views * view
    return rows * per_row + total + training * 2 * rows * rows * vision.hidden_size


def _layer(tokens: int, width: int, inner: int) -> int:
    return tokens * width * (8 * width + 4 * tokens + 4 * inner)


def _picture(config: Siglip2MimConfig, patches: int) -> int:
    vision = config.vision_config
    stem = 2 * patches * vision.num_channels * config.patch_size**2 * vision.hidden_size
    return stem + vision.num_hidden_layers * _layer(patches, vision.hidden_size, vision.intermediate_size)


def _pooled(config: Siglip2MimConfig, patches: int) -> int:
    width = config.vision_config.hidden_size
    return 4 * width * (width + patches * width + patches + config.vision_config.intermediate_size)


def _decoder(config: Siglip2MimConfig, length: int, patches: int) -> int:
    text = config.text_config
    width, inner = text.hidden_size, config.decoder_intermediate_size or text.intermediate_size
    layer = _layer(length, width, inner) + 4 * length * width * width
    layer += 4 * patches * config.vision_config.hidden_size * width + 4 * length * patches * width
    return config.decoder_layers * layer


def _embedded(config: Siglip2MimConfig) -> int:
    inner = config.head_hidden_size
    return 2 * inner * (config.vision_config.hidden_size + inner + config.head_bottleneck_size)


def _scored(config: Siglip2MimConfig) -> int:
    return 2 * config.head_bottleneck_size * config.num_prototypes
