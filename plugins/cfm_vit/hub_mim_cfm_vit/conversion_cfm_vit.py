"""Between our names of weights and those of the reference that the parity fixture was made with.

The authors released neither code nor weights, so there is no file of theirs to convert.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion, split_qkv
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig

RENAMED = {
    "^vision.": "cfm_vit.vision.",
    "^text.": "cfm_vit.text.",
    "cfm_vit.text.token_embed.": "cfm_vit.text.embeddings.token_embed.",
    "cfm_vit.text.pos_embed": "cfm_vit.text.embeddings.pos_embed",
    "^log_inv_temperature": "cfm_vit.log_inv_temperature",
    ".blocks.": ".layers.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attn.proj.": ".attention.o_proj.",
}


def rules(config: CfmVitConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rules from the reference's names to ours."""
    renamings = [WeightRenaming(theirs, ours) for theirs, ours in RENAMED.items()]
    return [*renamings, *split_qkv("attn.qkv", "attention")]


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> CfmVitConfig:
    """Read the configuration off the weights.

    Args:
        weights: by the reference's names.
        fields: what weights do not tell: heads (default: 64 channels each), image_size, and what has no weights.
    """
    width, channels, patch, _ = weights["vision.patch_embed.weight"].shape
    vocabulary, text_width = weights["text.token_embed.weight"].shape
    decoder_width = weights["decoder.mask_token"].shape[0]
    outputs = weights["decoder.pred.weight"].shape[0]
    told: dict[str, Any] = {
        "patch_size": patch,
        "num_channels": channels,
        "vocab_size": vocabulary,
        "max_position_embeddings": weights["text.pos_embed"].shape[0],
        "joint_dim": weights["vision.proj.weight"].shape[0],
        "reconstruction_target": "embedding" if outputs == weights["vision.proj.weight"].shape[0] else "pixels",
    }
    for prefix, tower, size in (
        ("", "vision", width),
        ("text_", "text", text_width),
        ("decoder_", "decoder", decoder_width),
    ):
        depth = len({name.split(".")[2] for name in weights if name.startswith(f"{tower}.blocks.")})
        told |= {
            f"{prefix}hidden_size": size,
            f"{prefix}num_hidden_layers": depth,
            f"{prefix}num_attention_heads": max(1, size // 64),
        }
        if depth:
            told[f"{prefix}intermediate_size"] = weights[f"{tower}.blocks.0.mlp.fc1.weight"].shape[0]
    return CfmVitConfig(**told | fields)


FIXTURE_FIELDS = {  # what the fixture's weights do not tell
    "image_size": 32,
    "num_attention_heads": 4,
    "text_num_attention_heads": 4,
    "decoder_num_attention_heads": 4,
}

conversion = Conversion(rules=rules, config=config_from)
