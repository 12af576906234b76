"""What hub-mim knows of MW-MAE before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@inproceedings{yadav2024mwmae,
  title     = {Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio Learners},
  author    = {Yadav, Sarthak and Theodoridis, Sergios and Hansen, Lars Kai and Tan, Zheng-Hua},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
}
"""


def _size(width: int, heads: int, depth: int = 12) -> dict[str, Any]:
    """Return the arguments of one of the authors' encoders; the decoder is the same for all."""
    return {
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_hidden_layers": depth,
        "intermediate_size": 4 * width,
    }


# for one core: the paper's patches and windows, a small encoder and decoder
NANO: dict[str, Any] = {
    **_size(96, 4, 4),
    "decoder_hidden_size": 64,
    "decoder_num_hidden_layers": 2,
    "decoder_intermediate_size": 256,
}
# the plain masked autoencoder that the paper compares with: a class token, ordinary attention in the decoder
BASELINE: dict[str, Any] = {"decoder_window_sizes": [], "use_cls_token": True}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare MW-MAE."""
    package = "hub_mim_mwmae"
    return [
        Method(
            name="mwmae",
            title="MW-MAE: masked autoencoders with multi-window local-global attention are better audio learners",
            paper="https://arxiv.org/abs/2306.00561",
            citation=CITATION,
            licence="apache-2.0",
            modalities=("audio",),
            config=f"{package}.configuration_mwmae:MwMaeConfig",
            auto={
                "AutoModel": f"{package}.modeling_mwmae:MwMaeModel",
                "AutoModelForPreTraining": f"{package}.modeling_mwmae:MwMaeForPreTraining",
                "AutoModelForAudioClassification": f"{package}.modeling_mwmae:MwMaeForAudioClassification",
                "AutoFeatureExtractor": f"{package}.feature_extraction_mwmae:MwMaeFeatureExtractor",
            },
            example=f"{package}.example:example",
            sample_data=f"{package}.example:sample",
            presets={
                "nano": NANO,
                "nano-mae": NANO | BASELINE,
                "tiny": _size(192, 3),
                "small": _size(384, 6),
                "medium": _size(512, 8),
                "base": {},
                "base-mae": BASELINE,
                "large": _size(1024, 16, 24),
                "huge": _size(1280, 16, 32),
            },
            parameters={"tiny": 12_694_704, "base": 92_814_576, "base-mae": 92_814_784, "large": 310_248_944},
            # the authors' configuration; the rate is for a batch of 1024
            recipe={
                "per_device_train_batch_size": 128,
                "num_train_epochs": 100,
                "learning_rate": 6e-5,
                "lr_scheduler_type": "cosine",
                "warmup_steps": 0.1,
                "weight_decay": 0.05,
                "max_grad_norm": 0.0,
            },
            embeds={"frame": f"{package}.streaming:frames", "scene": f"{package}.streaming:scenes"},
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            conversion=f"{package}.conversion_mwmae:conversion",
            parity=f"{package}.parity:predict",
            lora_targets=("q_proj", "v_proj"),
            tags=("audio-classification",),
        )
    ]
