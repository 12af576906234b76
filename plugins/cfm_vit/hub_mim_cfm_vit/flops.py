"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from typing import Any

from torch import Tensor

from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig


def block(tokens: int, width: int, inner: int) -> int:
    """Return the operations of one Transformer block on one row."""
    return tokens * (8 * width * width + 4 * width * inner) + 4 * tokens * tokens * width


def forward_flops(config: CfmVitConfig, batch: dict[str, Any], mask: Tensor | None = None) -> int:
    """Return the operations of pre-training's forward pass on a batch.

    Args:
        config: of the model. batch: with `pixel_values` (B, C, H, W) and `input_ids` (B, T), padding counted.
        mask: bool (B, N), True = hidden: of predicting with this mask alone (`return_loss=False`); without one: of a training
            step, which encodes hidden patches and texts as well.
    """
    rows, channels, high, wide = batch["pixel_values"].shape
    patches = (high // config.patch_size) * (wide // config.patch_size)
    width, joint = config.hidden_size, config.joint_dim

    def encode(tokens: int) -> int:
        cut = 2 * channels * config.patch_size**2 * width
        return tokens * cut + config.num_hidden_layers * block(tokens, width, config.intermediate_size)

    hidden = round(patches * config.mask_ratio)
    seen = max(1, patches - hidden) if mask is None else max(1, int((~mask).sum(1).max()))
    inner = config.decoder_hidden_size
    total = encode(seen) + 2 * width * joint + 2 * seen * width * inner
    total += config.decoder_num_hidden_layers * block(patches, inner, config.decoder_intermediate_size)
    total += 2 * patches * inner * config.decoder_outputs
    if mask is None:
        contrasted = hidden if config.contrastive_on == "masked" and hidden else patches
        words, text = batch["input_ids"].shape[1], config.text_hidden_size
        total += encode(contrasted) + 2 * contrasted * width * joint + 2 * text * joint
        total += config.text_num_hidden_layers * block(words, text, config.text_intermediate_size)
        total += 2 * rows * joint * (1 if config.contrastive_loss == "focal" else 2)
    return int(rows * total)
