"""Floating-point operations of one forward pass, counting matrix products only (2 per multiplication and addition)."""

from typing import Any

from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig


def forward_flops(config: LxmertMimConfig, batch: dict[str, Any], mask: dict[str, Any] | None = None) -> int:
    """Return the operations for a batch with a given mask: words are predicted where it hides them, regions everywhere.

    Args:
        batch: with `input_ids` (B, T) and `visual_feats` (B, N, D), padding counted.
    """
    rows, words = batch["input_ids"].shape
    regions, width, inner = batch["visual_feats"].shape[1], config.hidden_size, config.intermediate_size

    def attention(asks: int, looked_at: int) -> int:
        return 2 * width * width * (2 * asks + 2 * looked_at) + 4 * asks * looked_at * width

    def layer(length: int) -> int:
        return attention(length, length) + 4 * length * width * inner

    total = config.l_layers * layer(words) + config.r_layers * layer(regions)
    total += config.x_layers * (attention(words, regions) + attention(regions, words) + layer(words) + layer(regions))
    total += 2 * regions * width * (config.visual_feat_dim + config.visual_pos_dim) + 2 * width * width + 4 * width
    if config.task_obj_predict:
        outputs = config.num_object_labels * config.visual_obj_loss + config.num_attr_labels * config.visual_attr_loss
        outputs += config.visual_feat_dim * config.visual_feat_loss
        total += 2 * regions * width * (width + outputs)
    if config.task_qa:
        total += 4 * width * (width + config.num_qa_labels)
    hidden = 0 if mask is None else int(mask["text"].sum())
    return rows * total + 2 * hidden * width * (width + config.vocab_size)
