"""From big_vision's files (npz) to ours and back; layers apart or stacked (scan), fixed resolution or NaFlex.

Their names are flax paths: kernels are (in, out), of attention (width, heads, channels). What they hold tells the configuration:
towers alone (as released), or a decoder as well. `export_towers` of the converted model gives plain transformers' checkpoints;
those that are released (`google/siglip2-*`) need no conversion: `from_pretrained` reads them.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import ConversionOps, Transpose, WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion, Reshape
from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig

HEAD = "siglip.vision_model.head."
VISION, TEXT = "siglip.vision_model.encoder.layers.", "siglip.text_model.encoder.layers."
RENAMED = {
    "^t": "siglip.logit_scale",
    "^b": "siglip.logit_bias",
    "^img.Transformer.encoderblock_": VISION,
    "^img.Transformer.encoder_norm.scale": "siglip.vision_model.post_layernorm.weight",
    "^img.Transformer.encoder_norm.bias": "siglip.vision_model.post_layernorm.bias",
    "^img.embedding.": "siglip.vision_model.embeddings.patch_embedding.",
    "^img.pos_embedding": "siglip.vision_model.embeddings.pos_embedding",
    "^img.MAPHead_0.LayerNorm_0.scale": f"{HEAD}layernorm.weight",
    "^img.MAPHead_0.LayerNorm_0.bias": f"{HEAD}layernorm.bias",
    "^img.MAPHead_0.MultiHeadDotProductAttention_0.": f"{HEAD}attention.",
    "^img.MAPHead_0.MlpBlock_0.": f"{HEAD}MlpBlock_0.",
    "^img.MAPHead_0.probe": f"{HEAD}probe",
    "^txt.Embed_0.embedding": "siglip.text_model.embeddings.token_embedding.weight",
    "^txt.pos_embedding": "siglip.text_model.embeddings.pos_embedding",
    "^txt.Encoder_0.encoderblock_": TEXT,
    "^txt.Encoder_0.encoder_norm.scale": "siglip.text_model.final_layer_norm.weight",
    "^txt.Encoder_0.encoder_norm.bias": "siglip.text_model.final_layer_norm.bias",
    "^txt.head.": "siglip.text_model.head.",
    "^decoder.EncDecBlock_": "decoder.layers.",
    "^decoder.EmbedTargets.embedding": "decoder.embed_tokens.weight",
    "^decoder.pos_embedding_decoder": "decoder.embed_positions",
    "^decoder.LayerNorm.scale": "decoder.norm.weight",
    "^decoder.LayerNorm.bias": "decoder.norm.bias",
    "^decoder.LogitsDense.": "decoder.output.",
    ".MultiHeadDotProductAttention_0.": ".self_attn.",
    ".LayerNorm_0.scale": ".layer_norm1.weight",
    ".LayerNorm_0.bias": ".layer_norm1.bias",
    ".LayerNorm_1.scale": ".layer_norm2.weight",
    ".LayerNorm_1.bias": ".layer_norm2.bias",
    ".MlpBlock_0.Dense_0.": ".mlp.fc1.",
    ".MlpBlock_0.Dense_1.": ".mlp.fc2.",
    ".SelfAttn.": ".self_attention.",
    ".CrossAttn.": ".cross_attention.",
    ".LayerNorm1.scale": ".self_norm.weight",
    ".LayerNorm1.bias": ".self_norm.bias",
    ".LayerNorm2.scale": ".cross_norm.weight",
    ".LayerNorm2.bias": ".cross_norm.bias",
    ".LayerNorm3.scale": ".mlp_norm.weight",
    ".LayerNorm3.bias": ".mlp_norm.bias",
}
QKV = {"query": "q_proj", "key": "k_proj", "value": "v_proj"}


class JoinHeads(ConversionOps):
    """Attention's heads, an axis of their own in flax: (W, H, C) to (H C, W), (H, C) to (H C), out (H, C, W) to (W, H C).

    Several sources (queries, keys, values) are stacked into one target.

    Args:
        heads: part of a layer's name -> its number of heads, the first that fits. out: the output's projection.
    """

    def __init__(self, heads: Mapping[str, int], out: bool = False):
        self.heads, self.out = dict(heads), out

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Return the tensors joined."""
        found = [_single(input_dict[name]) for name in source_patterns]
        if self.out:
            made = [each.flatten(0, 1).T for each in found]
        else:
            made = [each.flatten(-2) if each.dim() == 2 else each.flatten(1).T for each in found]
        return {target_patterns[0]: torch.cat(made).contiguous()}

    @property
    def reverse_op(self) -> ConversionOps:
        """Return the operation that undoes this one."""
        return PartHeads(self.heads, self.out)


class PartHeads(ConversionOps):
    """Undo `JoinHeads`."""

    def __init__(self, heads: Mapping[str, int], out: bool = False):
        self.heads, self.out = dict(heads), out

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Return the heads apart."""
        name = str(kwargs["full_layer_name"])
        heads = next(count for part, count in self.heads.items() if part in name)
        (tensor,) = (_single(each) for each in input_dict.values())
        if self.out:
            return {target_patterns[0]: tensor.T.unflatten(0, (heads, -1)).contiguous()}
        parts = tensor.chunk(len(target_patterns))
        made = [(part if part.dim() == 1 else part.T).unflatten(-1, (heads, -1)).contiguous() for part in parts]
        return dict(zip(target_patterns, made, strict=True))

    @property
    def reverse_op(self) -> ConversionOps:
        """Return the operation that undoes this one."""
        return JoinHeads(self.heads, self.out)


class Patches(ConversionOps):
    """A patch kernel (P, P, C, W) to (W, C, P, P), or back."""

    def __init__(self, back: bool = False):
        self.back = back

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        """Return the kernel with its axes in the other order."""
        (tensor,) = (_single(each) for each in input_dict.values())
        return {target_patterns[0]: tensor.permute((2, 3, 1, 0) if self.back else (3, 2, 0, 1)).contiguous()}

    @property
    def reverse_op(self) -> ConversionOps:
        """Return the operation that undoes this one."""
        return Patches(not self.back)


def _single(value: Any) -> Tensor:
    found: Tensor = value[0] if isinstance(value, list) else value
    return found


def rules(config: Siglip2MimConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rules from big_vision's names, parted by dots, to ours."""
    text, vision = config.text_config, config.vision_config
    decoder = config.decoder_num_attention_heads or text.num_attention_heads
    heads = {"vision_model": vision.num_attention_heads, "text_model": text.num_attention_heads, "decoder": decoder}
    made: list[WeightRenaming | WeightConverter] = [WeightRenaming(*pair) for pair in RENAMED.items()]
    for theirs, ours in (("kernel", "in_proj_weight"), ("bias", "in_proj_bias")):
        sources = [f"head.attention.{name}.{theirs}" for name in QKV]
        made.append(WeightConverter(sources, f"head.attention.{ours}", [JoinHeads(heads)]))
    made.append(
        WeightConverter("head.attention.out.kernel", "head.attention.out_proj.weight", [JoinHeads(heads, out=True)])
    )
    made.append(WeightConverter("head.attention.out.bias", "head.attention.out_proj.bias", [Reshape((-1,), (-1,))]))
    for place, out in (("self_attn", "out_proj"), ("self_attention", "o_proj"), ("cross_attention", "o_proj")):
        for name, own in QKV.items():
            for theirs, ours in (("kernel", "weight"), ("bias", "bias")):
                made.append(WeightConverter(f"{place}.{name}.{theirs}", f"{place}.{own}.{ours}", [JoinHeads(heads)]))
        made.append(WeightConverter(f"{place}.out.kernel", f"{place}.{out}.weight", [JoinHeads(heads, out=True)]))
        made.append(WeightConverter(f"{place}.out.bias", f"{place}.{out}.bias", [Reshape((-1,), (-1,))]))
    for layer in ("mlp.fc1", "mlp.fc2", "text_model.head", "decoder.output"):
        made.append(WeightConverter(f"{layer}.kernel", f"{layer}.weight", [Transpose()]))
    return [*made, *_embeddings(config)]


def _embeddings(config: Siglip2MimConfig) -> list[WeightRenaming | WeightConverter]:
    text, vision = config.text_config, config.vision_config
    kernel = Transpose() if config.naflex else Patches()
    places = vision.num_patches if config.naflex else (config.image_size // config.patch_size) ** 2
    side = round(places**0.5)
    theirs = (side, side, -1) if config.naflex else (1, places, -1)
    embeddings = "vision_model.embeddings"
    return [
        WeightConverter(f"{embeddings}.patch_embedding.kernel", f"{embeddings}.patch_embedding.weight", [kernel]),
        WeightConverter(
            f"{embeddings}.pos_embedding", f"{embeddings}.position_embedding.weight", [Reshape((places, -1), theirs)]
        ),
        WeightConverter(
            "text_model.embeddings.pos_embedding",
            "text_model.embeddings.position_embedding.weight",
            [Reshape((text.max_position_embeddings, -1), (1, text.max_position_embeddings, -1))],
        ),
    ]


ONE_LAYOUT = (
    (r"EncDecBlock(\d)", r"EncDecBlock_\1"),
    (r"\.MLP\.", ".MlpBlock_0."),
)  # the decoder's names as the towers'


def prepare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by names parted by dots, without the prefix of files, every layer by itself."""
    made: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        own = name.removeprefix("params/").replace("/", ".")
        for pattern, new in ONE_LAYOUT:
            own = re.sub(pattern, new, own)
        stacked = re.fullmatch(r"(.*\.encoderblock)\.(.+)", own)
        if stacked is None:
            made[own] = tensor
        else:
            made |= {f"{stacked[1]}_{number}.{stacked[2]}": each for number, each in enumerate(tensor)}
    return made


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> Siglip2MimConfig:
    """Read the configuration off prepared weights, the number of heads too.

    Raises:
        ValueError: they are not SigLIP's.
    """
    if "img.embedding.kernel" not in weights or "txt.Embed_0.embedding" not in weights:
        raise ValueError(
            f"these are no towers of SigLIP: there is no img/embedding/kernel among {len(weights)} weights"
        )
    kernel, places = weights["img.embedding.kernel"], weights["img.pos_embedding"]
    naflex = kernel.dim() == 2
    vision, text = _tower(weights, "img.Transformer"), _tower(weights, "txt.Encoder_0")
    if naflex:
        vision |= {"patch_size": round((kernel.shape[0] / 3) ** 0.5), "num_patches": places.shape[0] * places.shape[1]}
    else:
        vision |= {"patch_size": kernel.shape[0], "image_size": kernel.shape[0] * round(places.shape[1] ** 0.5)}
    text |= {
        "vocab_size": weights["txt.Embed_0.embedding"].shape[0],
        "projection_size": weights["txt.head.bias"].shape[0],
    }
    text["max_position_embeddings"] = weights["txt.pos_embedding"].shape[1]
    told: dict[str, Any] = {"naflex": naflex, "vision_config": vision, "text_config": text, "losses": ["sigmoid"]}
    depth = len({name.split(".")[1] for name in weights if name.startswith("decoder.EncDecBlock")})
    if depth:
        told |= {
            "losses": ["sigmoid", "caption"],
            "decoder_num_hidden_layers": depth,
            "decoder_num_attention_heads": weights["decoder.EncDecBlock_0.SelfAttn.query.kernel"].shape[1],
            "decoder_intermediate_size": weights["decoder.EncDecBlock_0.MlpBlock_0.Dense_0.kernel"].shape[1],
            "decoder_length": weights["decoder.pos_embedding_decoder"].shape[1],
            "decoder_bias": "decoder.EncDecBlock_0.LayerNorm1.bias" in weights,
        }
    return Siglip2MimConfig(**told | fields)


def _tower(weights: Mapping[str, Tensor], prefix: str) -> dict[str, int]:
    first = f"{prefix}.encoderblock_0"
    layers = {
        name.removeprefix(f"{prefix}.encoderblock_").split(".")[0]
        for name in weights
        if f"{prefix}.encoderblock_" in name
    }
    query = weights[f"{first}.MultiHeadDotProductAttention_0.query.kernel"]
    return {
        "hidden_size": query.shape[0],
        "num_attention_heads": query.shape[1],
        "num_hidden_layers": len(layers),
        "intermediate_size": weights[f"{first}.MlpBlock_0.Dense_0.kernel"].shape[1],
    }


def authors_name(name: str) -> str:
    """Return big_vision's name of a prepared weight, layers apart."""
    if name.startswith("decoder."):
        name = re.sub(r"EncDecBlock_(\d)", r"EncDecBlock\1", name).replace(".MlpBlock_0.", ".MLP.")
    return name.replace(".", "/")


conversion = Conversion(rules=rules, config=config_from, prepare=prepare, licence="apache-2.0")
