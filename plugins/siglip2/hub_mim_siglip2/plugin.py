"""What hub-mim knows of SigLIP 2 before anything of it is imported."""

from collections.abc import Mapping
from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@article{tschannen2025siglip2,
  title   = {{SigLIP} 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization, and Dense
             Features},
  author  = {Tschannen, Michael and Gritsenko, Alexey and Wang, Xiao and Naeem, Muhammad Ferjad and others},
  journal = {arXiv preprint arXiv:2502.14786},
  year    = {2025},
}
"""


def _size(
    width: int, depth: int, inner: int, heads: int, factor: float, text: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return a preset: the picture tower, the text tower (default as large), the weight of the self-supervised losses."""
    names = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
    vision = dict(zip(names, (width, depth, inner, heads), strict=True))
    return {
        "vision_config": {**vision, "image_size": 256, "patch_size": 16},
        "text_config": {**(text or vision), "vocab_size": 256_000, "projection_size": width},
        "loss_weights": {"sigmoid": 1.0, "caption": 1.0, "distillation": factor, "masked": 0.25 * factor},
    }


SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "intermediate_size": 4304, "num_attention_heads": 16}
# for one core: small pictures, and a vocabulary that is learnt from the rows
NANO: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "image_size": 96,
        "patch_size": 12,
    },
    "text_config": {
        "hidden_size": 128,
        "num_hidden_layers": 3,
        "intermediate_size": 384,
        "num_attention_heads": 4,
        "vocab_size": 2048,
        "max_position_embeddings": 48,
    },
    "decoder_length": 48,
    "box_bins": 32,
    "num_local_views": 2,
    "local_crop_size": 48,
    "head_hidden_size": 128,
    "head_bottleneck_size": 64,
    "num_prototypes": 512,
    "vocabulary_chunk": 2048,
    # for batches of about 64: with the paper's -10, meant for 32k pairs, hundreds of steps go into the bias alone
    "logit_bias_init": -4.0,
    "logit_scale_init": 2.64,
}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare SigLIP 2."""
    package = "hub_mim_siglip2"
    return [
        Method(
            name="siglip2",
            model_type="siglip2_mim",
            title="SigLIP 2: pictures and texts in one space, with captioning, self-distillation and masked prediction",
            paper="https://arxiv.org/abs/2502.14786",
            citation=CITATION,
            licence="apache-2.0",
            modalities=("image", "text"),
            config=f"{package}.configuration_siglip2_mim:Siglip2MimConfig",
            auto={
                "AutoModel": f"{package}.modeling_siglip2_mim:Siglip2MimModel",
                "AutoModelForPreTraining": f"{package}.modeling_siglip2_mim:Siglip2MimForPreTraining",
                "AutoProcessor": f"{package}.processing_siglip2_mim:Siglip2MimProcessor",
            },
            example=f"{package}.example:example",
            sample_data=f"{package}.example:sample",
            presets={
                "nano": NANO,
                "base": _size(768, 12, 3072, 12, 0.25),
                "large": _size(1024, 24, 4096, 16, 0.5),
                "so400m": _size(1152, 27, 4304, 16, 1.0),
                "giant-opt": _size(1536, 40, 6144, 16, 0.5, SO400M),
            },
            # with decoder and heads; the towers alone are as large as the released ones (see the tests)
            parameters={
                "base": 871_541_250,
                "large": 1_654_698_498,
                "so400m": 2_040_525_362,
                "giant-opt": 2_789_323_122,
            },
            # section 2.1: 40 billion examples of 10 billion pictures; the rate is for a batch of 32k pairs
            recipe={
                "per_device_train_batch_size": 64,
                "num_train_epochs": 4,
                "learning_rate": 1e-3,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.016,
                "weight_decay": 1e-4,
                "max_grad_norm": 1.0,
            },
            on_step=f"{package}.modeling_siglip2_mim:on_step",
            conversion=f"{package}.conversion_siglip2:conversion",
            parity=f"{package}.parity:predict",
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            embed_per="image",
            lora_targets=("q_proj", "v_proj"),
            tags=("zero-shot-image-classification", "image-captioning", "self-distillation"),
        )
    ]
