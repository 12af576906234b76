"""What hub-mim knows of CFM-ViT before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@inproceedings{kim2023cfmvit,
  title     = {Contrastive Feature Masking Open-Vocabulary Vision Transformer},
  author    = {Kim, Dahun and Angelova, Anelia and Kuo, Weicheng},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2023},
}
"""

# for pictures of 96 pixels and one core
NANO: dict[str, Any] = {
    "image_size": 96,
    "patch_size": 8,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 64,
    "text_hidden_size": 128,
    "text_num_hidden_layers": 2,
    "text_num_attention_heads": 4,
    "text_intermediate_size": 512,
    "joint_dim": 128,
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 256,
}
LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "text_hidden_size": 1024,
    "text_num_attention_heads": 16,
    "text_intermediate_size": 4096,
    "joint_dim": 1024,
}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare CFM-ViT."""
    package = "hub_mim_cfm_vit"
    return [
        Method(
            name="cfm_vit",
            title="CFM-ViT: contrastive feature masking vision transformer",
            paper="https://arxiv.org/abs/2309.00775",
            citation=CITATION,
            licence="apache-2.0",
            modalities=("image", "text"),
            config=f"{package}.configuration_cfm_vit:CfmVitConfig",
            auto={
                "AutoModel": f"{package}.modeling_cfm_vit:CfmVitModel",
                "AutoModelForPreTraining": f"{package}.modeling_cfm_vit:CfmVitForPreTraining",
                "AutoModelForImageClassification": f"{package}.modeling_cfm_vit_heads:CfmVitForImageClassification",
                "AutoProcessor": f"{package}.processing_cfm_vit:CfmVitProcessor",
            },
            example=f"{package}.example:example",
            sample_data=f"{package}.example:sample",
            presets={"nano": NANO, "base": {}, "large": LARGE},
            parameters={"base": 203_601_409, "large": 496_542_721},  # of our sizes: the paper tells none of the whole
            # the paper's, as far as it is known; the rate is for a batch of 4096
            recipe={
                "per_device_train_batch_size": 64,
                "max_steps": 500_000,
                "learning_rate": 5e-4,
                "lr_scheduler_type": "linear",
                "warmup_steps": 0.02,
                "weight_decay": 0.01,
            },
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            conversion=f"{package}.conversion_cfm_vit:conversion",
            parity=f"{package}.parity:predict",
            embed_per="image",
            lora_targets=("q_proj", "v_proj"),
            tags=("contrastive", "image-text", "open-vocabulary-detection"),
        )
    ]
