"""What hub-mim knows of LXMERT before anything of it is imported."""

from typing import Any

from hub_mim.hookspecs import hookimpl
from hub_mim.method import Method

CITATION = """
@inproceedings{tan2019lxmert,
  title     = {LXMERT: Learning Cross-Modality Encoder Representations from Transformers},
  author    = {Tan, Hao and Bansal, Mohit},
  booktitle = {Conference on Empirical Methods in Natural Language Processing},
  year      = {2019},
}
"""

# for one core, and features of crops
NANO: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "l_layers": 2,
    "r_layers": 1,
    "x_layers": 2,
    "max_position_embeddings": 64,
    # a narrow model with the base model's small weights stays long on a plateau where it does not look at regions
    "initializer_range": 0.08,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    # sentences of a few words; 0.15 leaves some of them without any to predict
    "mask_ratio": 0.3,
}


@hookimpl
def hub_mim_methods() -> list[Method]:
    """Declare LXMERT."""
    package = "hub_mim_lxmert"
    return [
        Method(
            name="lxmert",
            model_type="lxmert_mim",
            title="LXMERT: learning cross-modality encoder representations from Transformers",
            paper="https://arxiv.org/abs/1908.07490",
            citation=CITATION,
            licence="mit",
            modalities=("image", "text"),
            config=f"{package}.configuration_lxmert_mim:LxmertMimConfig",
            auto={
                "AutoModel": f"{package}.modeling_lxmert_mim:LxmertMimModel",
                "AutoModelForPreTraining": f"{package}.modeling_lxmert_mim:LxmertMimForPreTraining",
                "AutoModelForVisualQuestionAnswering": f"{package}.modeling_lxmert_mim_heads:LxmertMimForQuestionAnswering",
                "AutoProcessor": f"{package}.processing_lxmert_mim:LxmertMimProcessor",
            },
            example=f"{package}.example:example",
            sample_data="hub_mim_regions.example:sample",
            presets={"nano": NANO, "base": {}},
            parameters={"base": 228_051_752},
            recipe={
                "per_device_train_batch_size": 256,
                "num_train_epochs": 20,
                "learning_rate": 1e-4,
                "warmup_steps": 0.05,
                "weight_decay": 0.01,
                "decay_all": True,
                "max_grad_norm": 1.0,
            },
            conversion=f"{package}.conversion_lxmert:conversion",
            parity=f"{package}.parity:predict",
            picture=f"{package}.drawing:draw",
            flops=f"{package}.flops:forward_flops",
            lora_targets=("query", "value"),
            tags=("visual-question-answering",),
        )
    ]
