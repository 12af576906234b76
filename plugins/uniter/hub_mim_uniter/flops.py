"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from typing import Any

from hub_mim_uniter.configuration_uniter import UniterConfig


def forward_flops(config: UniterConfig, batch: dict[str, Any], mask: dict[str, Any] | None = None) -> int:
    """Return the operations for a batch with a given mask: all heads on what it hides; without one, nothing is hidden.

    Args:
        batch: with `input_ids` (B, T) and `visual_feats` (B, N, D), padding counted.
    """
    rows, words = batch["input_ids"].shape
    regions, width, inner = batch["visual_feats"].shape[1], config.hidden_size, config.intermediate_size
    length = words + regions
    layer = 2 * length * (4 * width * width + 2 * width * inner) + 4 * length * length * width
    embedding = 2 * regions * width * (config.visual_feat_dim + config.visual_pos_dim)
    encoder = rows * (config.num_hidden_layers * layer + embedding + 2 * width * width)
    tasks = config.active_tasks
    hidden = {name: 0 if mask is None else int(mask[name].sum()) for name in ("text", "regions")}
    total = encoder
    if "mlm" in tasks:
        total += 2 * hidden["text"] * width * (width + config.vocab_size)
    if "mrfr" in tasks:
        total += 2 * hidden["regions"] * width * (width + config.visual_feat_dim)
    if "mrc" in tasks or "mrckl" in tasks:
        total += 2 * hidden["regions"] * width * (width + config.num_region_classes)
    if "itm" in tasks:
        transport = 2 * words * regions * (width + 2 * config.ot_steps)
        total += rows * (2 * width * 2 + transport)
    return total
