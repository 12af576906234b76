"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from typing import Any

from hub_mim_mwmae.configuration_mwmae import MwMaeConfig


def block(tokens: int, width: int, inner: int) -> int:
    """Return the operations of one Transformer block on one row; windows are blocks of a whole matrix of scores."""
    return tokens * (8 * width * width + 4 * width * inner) + 4 * tokens * tokens * width


def forward_flops(config: MwMaeConfig, batch: dict[str, Any], mask: Any = None) -> int:
    """Return the operations of pre-training's forward pass, one unit of each row.

    Args:
        config: of the model. batch: with `input_values`.
        mask: bool (B, N), True = hidden; default: the configuration's share.
    """
    patches, extra = config.num_patches, config.num_extra
    visible = config.num_visible if mask is None else int((~mask[0]).sum())
    seen, whole = visible + extra, patches + extra
    values = config.patch_size[0] * config.patch_size[1]
    total = 2 * patches * values * config.hidden_size
    total += config.num_hidden_layers * block(seen, config.hidden_size, config.intermediate_size)
    total += 2 * seen * config.hidden_size * config.decoder_hidden_size
    total += config.decoder_num_hidden_layers * block(
        whole, config.decoder_hidden_size, config.decoder_intermediate_size
    )
    total += 2 * patches * config.decoder_hidden_size * values
    return len(batch["input_values"]) * total
