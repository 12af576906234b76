"""From the authors' state dict (timm blocks, fused qkv) to ours and back."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion, Reshape, split_qkv
from hub_mim_remasker.configuration_remasker import ReMaskerConfig

RENAMED = {
    "^blocks.": "remasker.layers.",
    "^decoder_blocks.": "decoder.layers.",
    "^norm.": "remasker.layernorm.",
    "^decoder_norm.": "decoder.layernorm.",
    "^decoder_embed.": "decoder.embed.",
    "^decoder_pred.": "decoder.head.",
    "^cls_token": "remasker.embeddings.cls_token",
    "^mask_token": "decoder.mask_token",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".attn.proj.": ".attention.o_proj.",
}


def rules(config: ReMaskerConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rules from the authors' names to ours."""
    width = config.hidden_size
    embedding = [
        WeightConverter(theirs, ours, operations=[Reshape((1, width), shape)])
        for theirs, ours, shape in (
            ("mask_embed.proj.weight", "remasker.embeddings.value_weight", (width, 1, 1)),
            ("mask_embed.proj.bias", "remasker.embeddings.value_bias", (width,)),
        )
    ]
    renamings = [WeightRenaming(theirs, ours) for theirs, ours in RENAMED.items()]
    return [*renamings, *embedding, *split_qkv("attn.qkv", "attention")]


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> ReMaskerConfig:
    """Read the configuration off the weights; heads (4 in all of the authors' runs) and ratios are given as fields."""

    def depth(prefix: str) -> int:
        return len({name.split(".")[1] for name in weights if name.startswith(f"{prefix}.")})

    return ReMaskerConfig(
        **{
            "cardinalities": [0] * (weights["pos_embed"].shape[1] - 1),
            "hidden_size": weights["norm.weight"].shape[0],
            "num_hidden_layers": depth("blocks"),
            "intermediate_size": weights["blocks.0.mlp.fc1.bias"].shape[0],
            "decoder_hidden_size": weights["decoder_norm.weight"].shape[0],
            "decoder_num_hidden_layers": depth("decoder_blocks"),
            "decoder_intermediate_size": weights["decoder_blocks.0.mlp.fc1.bias"].shape[0],
            "legacy": True,
        }
        | fields
    )


conversion = Conversion(rules=rules, config=config_from, ignore=("pos_embed", "decoder_pos_embed"))
