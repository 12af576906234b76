"""From the authors' flax checkpoints, and the author's torch layout, to ours and back."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion, Reshape, split_qkv
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig

HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16}  # of the authors' encoders, by width

# the layout that the rules know: names of flax joined by dots, torch's shapes, numbers of blocks without zeros
RENAMED = {
    "^encoder_block.": "mwmae.layers.",
    "^decoder_block.": "decoder.layers.",
    "^encoder_norm.": "mwmae.layernorm.",
    "^decoder_norm.": "decoder.layernorm.",
    "^decoder_embed.": "decoder.embed.",
    "^decoder_pred.": "decoder.prediction.",
    "^patch_embed.proj.": "mwmae.embeddings.patch_projection.",
    "^cls_token": "mwmae.embeddings.cls_token",
    "^mask_token": "decoder.mask_token",
    ".LayerNorm_0.": ".layernorm_before.",
    ".LayerNorm_1.": ".layernorm_after.",
    ".Mlp_0.Dense_0.": ".mlp.fc1.",
    ".Mlp_0.Dense_1.": ".mlp.fc2.",
    ".attn.proj.": ".attention.o_proj.",
    ".attn.tables.": ".attention.tables.",
}


def rules(config: MwMaeConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rules from `prepare`'s layout to ours."""
    rows = config.num_patches + config.num_extra
    tables = [
        WeightConverter(theirs, ours, operations=[Reshape((rows, width), (1, rows, width))])
        for theirs, ours, width in (
            ("decoder_pos_embed", "decoder.positions", config.decoder_hidden_size),
            ("encoder_pos_embed", "mwmae.embeddings.positions", config.hidden_size),
        )
    ]
    renamings = [WeightRenaming(theirs, ours) for theirs, ours in RENAMED.items()]
    return [*renamings, *tables, *split_qkv("attn.qkv", "attention")]


def prepare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return an authors' weights in one layout: from flax (kernels turned) or from torch."""
    found = {}
    for name, tensor in weights.items():
        name = name.replace("/", ".")
        if name.endswith("relative_position_index"):
            continue
        if name.endswith(".kernel"):
            name = name.removesuffix("kernel") + "weight"
            tensor = tensor.permute(3, 2, 0, 1) if tensor.dim() == 4 else tensor.T
        name = re.sub(r"\.scale$", ".weight", name)
        name = re.sub(r"^(encoder|decoder)_block_0*(\d+)\.", r"\1_block.\2.", name)
        name = re.sub(r"^(encoder|decoder)_blocks\.(\d+)\.", r"\1_block.\2.", name)  # torch
        name = re.sub(r"\.norm([12])\.", lambda m: f".LayerNorm_{int(m[1]) - 1}.", name)
        name = re.sub(r"\.mlp\.(?:layer|fc)([12])\.", lambda m: f".Mlp_0.Dense_{int(m[1]) - 1}.", name)
        name = name.replace(".Attention_0.Dense_0.", ".attn.qkv.").replace(".Attention_0.Dense_1.", ".attn.proj.")
        name = name.replace(".wmha_block.", ".attn.")
        table = re.search(r"\.attn\.attn_heads[._](\d+)\.relative_position_bias_table$", name)
        if table:
            name, tensor = f"{name[: table.start()]}.attn.tables.{table[1]}", tensor.flatten()
        found["encoder_pos_embed" if name == "pos_embed" else name] = tensor.contiguous()
    return found


def restore_layout(weights: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Undo `prepare` for flax: give tensors of the one layout the names and shapes of `like`."""
    names = {next(iter(prepare({name: tensor}))): name for name, tensor in like.items() if "position_index" not in name}
    found = {}
    for name, tensor in weights.items():
        theirs = names[name]
        if theirs.endswith("kernel"):
            tensor = tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.T
        found[theirs] = tensor.reshape(like[theirs].shape)
    return found


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> MwMaeConfig:
    """Read the configuration off prepared weights.

    The size of the spectrogram is not told by the number of patches alone: the paper's 200 x 80 unless given as a field.
    """
    width = weights["encoder_pos_embed"].shape[-1]
    patch = list(weights["patch_embed.proj.weight"].shape[-2:])
    told: dict[str, Any] = {
        "patch_size": patch,
        "hidden_size": width,
        "num_hidden_layers": _depth("encoder_block", weights),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "intermediate_size": weights["encoder_block.0.Mlp_0.Dense_0.weight"].shape[0],
        "use_cls_token": "cls_token" in weights,
        "window_sizes": _windows("encoder_block", weights, fields.get("num_attention_heads", HEADS.get(width, 0))),
        "decoder_hidden_size": weights["decoder_pos_embed"].shape[-1],
        "decoder_num_hidden_layers": _depth("decoder_block", weights),
        "decoder_intermediate_size": weights["decoder_block.0.Mlp_0.Dense_0.weight"].shape[0],
        "decoder_window_sizes": _windows("decoder_block", weights, fields.get("decoder_num_attention_heads", 8)),
    }
    return MwMaeConfig(**told | fields)


def _depth(start: str, weights: Mapping[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in weights if name.startswith(f"{start}."))


def _windows(start: str, weights: Mapping[str, Tensor], heads: int) -> list[int]:
    """Return each head's window: tables have 2 w - 1 entries, a head without one attends to all."""
    tables = {
        int(name.rpartition(".")[2]): (len(tensor) + 1) // 2
        for name, tensor in weights.items()
        if name.startswith(f"{start}.0.attn.tables.")
    }
    return [tables.get(head, 0) for head in range(heads)] if tables else []


FIXTURE_FIELDS = {"num_attention_heads": 4, "decoder_num_attention_heads": 4, "spectrogram_size": [40, 16]}

conversion = Conversion(rules=rules, config=config_from, prepare=prepare)
