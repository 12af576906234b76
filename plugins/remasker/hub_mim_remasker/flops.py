"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and
addition); the Gaussian skip's linear systems are not counted."""

from typing import Any

from hub_mim_remasker.configuration_remasker import ReMaskerConfig


def block(tokens: int, width: int, inner: int) -> int:
    """Return the operations of one Transformer block on one row."""
    return tokens * (8 * width * width + 4 * width * inner) + 4 * tokens * tokens * width


def forward_flops(config: ReMaskerConfig, batch: dict[str, Any], num_visible: int | None = None) -> int:
    """Return the operations for a batch.

    Args:
        config: of the model.
        batch: with `values` (B, L).
        num_visible: visible cells of the richest row, to which the others are padded; default all columns.
    """
    rows, columns = batch["values"].shape
    width, inner = config.decoder_hidden_size, config.decoder_intermediate_size
    seen = 1 + (columns if num_visible is None else num_visible)
    encoder = config.num_hidden_layers * block(seen, config.hidden_size, config.intermediate_size)
    decoder = 2 * seen * config.hidden_size * width + config.decoder_num_hidden_layers * block(
        columns + 1, width, inner
    )
    numeric = len(config.categorical) < columns
    head = 2 * columns * width * numeric + 2 * len(config.categorical) * max(config.cardinalities) * width
    skip = (
        {"none": 0, "fixed": 4, "gaussian": 2, "blend": 2 * (config.blend < 1)}[config.linear_skip]
        * columns
        * columns
        * numeric
    )
    return rows * (encoder + decoder + head + skip)
