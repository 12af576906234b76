"""What hub-mim knows of UNITER before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@inproceedings{chen2020uniter,
  title     = {UNITER: UNiversal Image-TExt Representation Learning},
  author    = {Chen, Yen-Chun and Li, Linjie and Yu, Licheng and El Kholy, Ahmed and Ahmed, Faisal and Gan, Zhe and
               Cheng, Yu and Liu, Jingjing},
  booktitle = {European Conference on Computer Vision},
  year      = {2020},
}
"""

# for one core, and features of crops
NANO: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 128,
    # a narrow model with the base model's small weights stays long on a plateau where it does not look at regions
    "initializer_range": 0.08,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    # words teach so small a model most: see the README's figures
    "tasks": {"mlm": 8.0, "itm": 1.0, "mrfr": 0.5, "mrckl": 0.5},
    "mask_ratio": 0.3,
}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare UNITER."""
    package = "hub_mim_uniter"
    return [
        Method(
            name="uniter",
            title="UNITER: universal image-text representation learning",
            paper="https://arxiv.org/abs/1909.11740",
            citation=CITATION,
            licence="mit",
            modalities=("image", "text"),
            config=f"{package}.configuration_uniter:UniterConfig",
            auto={
                "AutoModel": f"{package}.modeling_uniter:UniterModel",
                "AutoModelForPreTraining": f"{package}.modeling_uniter:UniterForPreTraining",
                "AutoModelForVisualQuestionAnswering": f"{package}.modeling_uniter_heads:UniterForQuestionAnswering",
                "AutoModelForMultipleChoice": f"{package}.modeling_uniter_heads:UniterForMultipleChoice",
                "AutoProcessor": f"{package}.processing_uniter:UniterProcessor",
            },
            example=f"{package}.example:example",
            sample_data="hub_mim_regions.example:sample",
            presets={
                "nano": NANO,
                "base": {},
                "large": {
                    "hidden_size": 1024,
                    "num_hidden_layers": 24,
                    "num_attention_heads": 16,
                    "intermediate_size": 4096,
                },
            },
            parameters={"base": 112_938_887, "large": 340_524_935},
            # in-domain pre-training of the base size; batches there are of 10,240 tokens
            recipe={
                "per_device_train_batch_size": 64,
                "max_steps": 200_000,
                "learning_rate": 5e-5,
                "warmup_steps": 0.05,
                "weight_decay": 0.01,
                "adam_beta2": 0.98,
                "adam_epsilon": 1e-6,
                "max_grad_norm": 5.0,
            },
            conversion=f"{package}.conversion_uniter:conversion",
            parity=f"{package}.parity:predict",
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            lora_targets=("query", "value"),
            tags=("visual-question-answering",),
        )
    ]
