"""MAE's released weights (github.com/facebookresearch/mae, CC-BY-NC-4.0) as transformers' `ViTMAE`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import ViTMAEConfig
from transformers.core_model_loading import WeightRenaming

from hub_mim.conversion import Conversion, Rules, split_qkv

HEADS = {768: 12, 1024: 16, 1280: 16}  # by width, of the released encoders; the decoder has 16 heads
DECODER_HEADS = 16

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def _rules(config: ViTMAEConfig) -> Rules:
    renamings = [
        (r"^cls_token$", "vit.embeddings.cls_token"),
        (r"^pos_embed$", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
        (r"^blocks\.(\d+)\.", r"vit.layers.\1."),
        (r"^norm\.", "vit.layernorm."),
        (r"^mask_token$", "decoder.mask_token"),
        (r"^decoder_pos_embed$", "decoder.decoder_pos_embed"),
        (r"^decoder_blocks\.(\d+)\.", r"decoder.decoder_layers.\1."),
        (r"^decoder_(embed|norm|pred)\.", r"decoder.decoder_\1."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.o_proj."),
    ]
    return [*(WeightRenaming(old, new) for old, new in renamings), *split_qkv("attn.qkv", "attention")]


def _config(weights: Mapping[str, Tensor], **fields: Any) -> ViTMAEConfig:
    """Return the configuration that the tensors tell; an encoder alone is given the decoder of the paper."""
    width, channels, patch, _ = weights["patch_embed.proj.weight"].shape
    places = weights["pos_embed"].shape[1] - 1
    told: dict[str, Any] = {
        "hidden_size": width,
        "num_channels": channels,
        "patch_size": patch,
        "image_size": patch * round(places**0.5),
        "num_hidden_layers": _depth(weights, "blocks."),
        "num_attention_heads": HEADS.get(width, max(1, width // 64)),
        "intermediate_size": weights["blocks.0.mlp.fc1.weight"].shape[0],
        "layer_norm_eps": 1e-6,
        "norm_pix_loss": True,
    }
    if "decoder_embed.weight" in weights:
        told |= {
            "decoder_hidden_size": weights["decoder_embed.weight"].shape[0],
            "decoder_num_hidden_layers": _depth(weights, "decoder_blocks."),
            "decoder_num_attention_heads": DECODER_HEADS,
            "decoder_intermediate_size": weights["decoder_blocks.0.mlp.fc1.weight"].shape[0],
        }
    return ViTMAEConfig(**told | fields)


def _depth(weights: Mapping[str, Tensor], start: str) -> int:
    return 1 + max(int(name.removeprefix(start).split(".")[0]) for name in weights if name.startswith(start))


def _model(weights: Mapping[str, Tensor]) -> str:
    return "AutoModelForPreTraining" if "decoder_embed.weight" in weights else "AutoModel"


CONVERSION = Conversion(rules=_rules, config=_config, model=_model, licence="cc-by-nc-4.0", processor=IMAGENET)
