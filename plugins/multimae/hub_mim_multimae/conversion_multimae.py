"""From the authors' state dicts (their own layout, or timm's with rgb alone) to ours and back."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion, split_qkv
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.modalities import DEPTH, RGB, SEMSEG

RENAMED = {
    "^global_tokens": "multimae.global_tokens",
    "^input_adapters.": "multimae.adapters.",
    "^encoder.": "multimae.layers.",
    "^output_adapters.": "decoders.",
    ".attn.proj.": ".attention.o_proj.",
    ".decoder.proj.": ".cross_attention.o_proj.",
    ".decoder.q.": ".cross_attention.q_proj.",
    ".decoder_transformer.": ".blocks.",
    ".norm1.": ".layernorm_before.",
    ".norm2.": ".layernorm_after.",
    ".class_emb.": ".class_embedding.",
    ".proj_context.": ".context_embed.",
    ".out_proj.": ".prediction.",
    ".pos_emb": ".positions.table",
    "multimae.adapters.rgb.proj.": "multimae.adapters.rgb.patch_projection.",
}
DECODER_HEADS = 8


def rules(config: MultiMAEConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rules from the authors' names to ours."""
    own = "multimae.adapters.rgb."
    renamings = []
    for theirs, ours in RENAMED.items():
        names = config.names if own in theirs else ("rgb",)
        renamings += [
            WeightRenaming(
                theirs.replace(own, f"multimae.adapters.{name}."), ours.replace(own, f"multimae.adapters.{name}.")
            )
            for name in names
        ]
    cross = split_qkv("decoder.kv", "cross_attention", ("k_proj", "v_proj"))
    return [*renamings, *split_qkv("attn.qkv", "attention"), *cross]


def prepare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the authors' own layout; a timm ViT (encoder, rgb alone) is brought into it.

    The class token becomes the global token, the position of its own added to it.
    """
    if "patch_embed.proj.weight" not in weights:
        return dict(weights)
    positions = weights["pos_embed"]
    places = positions.shape[1] - 1
    side = round(places**0.5)
    if side * side != places:
        raise ValueError(f"pos_embed has {places} places, which form no square; this layout is not known")
    made = {
        "global_tokens": weights["cls_token"] + positions[:, :1],
        "input_adapters.rgb.pos_emb": positions[:, 1:].transpose(1, 2).reshape(1, -1, side, side),
    }
    for name, tensor in weights.items():
        if name in ("cls_token", "pos_embed") or re.match(r"(norm|fc_norm|head)\.", name):
            continue
        made[re.sub(r"^blocks\.", "encoder.", re.sub(r"^patch_embed\.", "input_adapters.rgb.", name))] = tensor
    return made


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> MultiMAEConfig:
    """Read the configuration off the weights; `modalities` may be given for names other than the paper's."""
    names = list(dict.fromkeys(name.split(".")[1] for name in weights if name.startswith("input_adapters.")))
    names.sort(key=lambda name: {"rgb": 0, "depth": 1, "semseg": 2}.get(name, 3))
    tasks = list(dict.fromkeys(name.split(".")[1] for name in weights if name.startswith("output_adapters.")))
    tasks.sort(key=lambda task: (task.startswith("norm_"), {"rgb": 0, "depth": 1, "semseg": 2}.get(task, 3)))
    patch = max(weights[f"input_adapters.{name}.proj.weight"].shape[-1] for name in names)
    modalities = fields.get("modalities") or [_modality(name, weights, patch) for name in names]
    width = weights["global_tokens"].shape[-1]
    told: dict[str, Any] = {
        "modalities": modalities,
        "normalized_targets": [task.removeprefix("norm_") for task in tasks if task.startswith("norm_")],
        "tasks": tasks if tasks != [*names, *(task for task in tasks if task.startswith("norm_"))] else [],
        "patch_size": patch,
        "image_size": patch * weights[f"input_adapters.{names[0]}.pos_emb"].shape[-1],
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("encoder.")),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": weights["encoder.0.mlp.fc1.weight"].shape[0],
        "num_global_tokens": weights["global_tokens"].shape[1],
    }
    if tasks:
        first = f"output_adapters.{tasks[0]}"
        depths = [int(name.split(".")[3]) for name in weights if name.startswith(f"{first}.decoder_transformer.")]
        told |= {
            "decoder_hidden_size": weights[f"{first}.mask_token"].shape[-1],
            "decoder_num_hidden_layers": 1 + max(depths, default=-1),
            "decoder_num_attention_heads": DECODER_HEADS,
            "decoder_intermediate_size": weights[f"{first}.mlp.fc1.weight"].shape[0],
            "task_embeddings": any(name.startswith(f"{first}.task_embeddings.") for name in weights),
        }
    else:
        told["normalized_targets"] = []
    return MultiMAEConfig(**told | fields)


def _modality(name: str, weights: Mapping[str, Tensor], patch: int) -> dict[str, Any]:
    kernel = weights[f"input_adapters.{name}.proj.weight"]
    classes = weights.get(f"input_adapters.{name}.class_emb.weight")
    if classes is not None:
        return SEMSEG | {
            "num_classes": len(classes),
            "class_width": classes.shape[1],
            "stride": patch // kernel.shape[-1],
        }
    usual = {"rgb": RGB, "depth": DEPTH}.get(name, {})
    return {**usual, "name": name, "channels": kernel.shape[1], "stride": patch // kernel.shape[-1]}


def model_of(weights: Mapping[str, Tensor]) -> str:
    """Return the auto class: of pre-training where there are decoders, else the encoder's."""
    return "AutoModelForPreTraining" if any(name.startswith("output_adapters.") for name in weights) else "AutoModel"


FIXTURE_FIELDS = {"num_attention_heads": 4, "decoder_num_attention_heads": 4}  # weights do not tell heads

conversion = Conversion(rules=rules, config=config_from, model=model_of, prepare=prepare, licence="cc-by-nc-4.0")
