"""What hub-mim knows of MultiMAE before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@inproceedings{bachmann2022multimae,
  title     = {{MultiMAE}: Multi-modal Multi-task Masked Autoencoders},
  author    = {Bachmann, Roman and Mizrahi, David and Atanov, Andrei and Zamir, Amir},
  booktitle = {European Conference on Computer Vision},
  year      = {2022},
}
"""

# as in the paper: a fifth at least of each picture
AUGMENTED: dict[str, Any] = {"crop_scale": [0.2, 1.0], "flip_share": 0.5}
LARGE: dict[str, Any] = {
    **AUGMENTED,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "dpt_hooks": [5, 11, 17, 23],
}
# for small pictures and one core
TINY: dict[str, Any] = {
    "crop_scale": [0.5, 1.0],
    "flip_share": 0.5,
    "image_size": 96,
    "patch_size": 12,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 4,
    "decoder_intermediate_size": 192,
    "num_visible": 32,
    "head_hidden_size": 256,
    "head_num_layers": 2,
    "head_num_attention_heads": 4,
    "dpt_hooks": [0, 1, 2, 3],
    "dpt_sizes": [16, 32, 48, 64],
    "dpt_features": 32,
    "modalities": [
        {"name": "rgb", "channels": 3, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        {"name": "depth", "channels": 1, "loss": "l1", "standardize": True, "scale": 65536.0},
        {"name": "semseg", "kind": "categorical", "num_classes": 6, "class_width": 16, "stride": 4},
    ],
}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare MultiMAE."""
    package = "hub_mim_multimae"
    return [
        Method(
            name="multimae",
            title="MultiMAE: multi-modal multi-task masked autoencoders",
            paper="https://arxiv.org/abs/2204.01678",
            citation=CITATION,
            licence="apache-2.0",
            modalities=("image", "depth", "segmentation"),
            config=f"{package}.configuration_multimae:MultiMAEConfig",
            auto={
                "AutoModel": f"{package}.modeling_multimae:MultiMAEModel",
                "AutoModelForPreTraining": f"{package}.modeling_multimae:MultiMAEForPreTraining",
                "AutoModelForImageClassification": f"{package}.modeling_multimae_heads:MultiMAEForImageClassification",
                "AutoModelForSemanticSegmentation": f"{package}.modeling_multimae_heads:MultiMAEForSemanticSegmentation",
                "AutoModelForDepthEstimation": f"{package}.modeling_multimae_heads:MultiMAEForDepthEstimation",
                "AutoProcessor": f"{package}.processing_multimae:MultiMAEProcessor",
            },
            example=f"{package}.example:example",
            sample_data="hub_mim.scenes:scenes",
            presets={"tiny": TINY, "base": AUGMENTED, "large": LARGE},
            parameters={"base": 97_917_072, "large": 315_959_440},
            # pre-training section of the paper; the rate is for a batch of 2048
            recipe={
                "per_device_train_batch_size": 64,
                "num_train_epochs": 1600,
                "learning_rate": 8e-4,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.025,
                "weight_decay": 0.05,
                "adam_beta1": 0.9,
                "adam_beta2": 0.95,
                "max_grad_norm": 0.0,
            },
            evaluators={"reconstruction": f"{package}.evaluation:reconstruction"},
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            conversion=f"{package}.conversion_multimae:conversion",
            parity=f"{package}.parity:predict",
            lora_targets=("q_proj", "v_proj"),
            tags=("depth", "semantic-segmentation", "multimodal"),
        )
    ]
