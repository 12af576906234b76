"""From a made-up authors' layout (fused qkv, other names) to ours."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightRenaming

from hub_mim.conversion import Conversion, split_qkv
from hub_mim_toy.configuration_toy import ToyMimConfig


def rules(config: ToyMimConfig) -> list[Any]:
    """Return the rules from the made-up names to ours."""
    names = {"^blocks.": "toy.layers.", "^norm.": "toy.layernorm.", "^embed.": "toy.embed.", "^head.": "decoder."}
    names |= {".norm1.": ".layernorm_before.", ".norm2.": ".layernorm_after.", ".attn.proj.": ".attention.o_proj."}
    return [*(WeightRenaming(theirs, ours) for theirs, ours in names.items()), *split_qkv("attn.qkv", "attention")]


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> ToyMimConfig:
    """Read the configuration off the weights."""
    width, channels = weights["embed.weight"].shape
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    inner = len(weights["blocks.0.mlp.fc1.bias"])
    told = {"hidden_size": width, "num_channels": channels, "num_hidden_layers": depth, "intermediate_size": inner}
    return ToyMimConfig(**{**told, **fields})


conversion = Conversion(rules=rules, config=config_from, ignore=("pos_embed",))
