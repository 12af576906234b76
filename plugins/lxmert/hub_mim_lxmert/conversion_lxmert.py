"""From the authors' files to ours and back: `bert.` is `lxmert.`, all else has one name everywhere.

Released transformers checkpoints (`unc-nlp/lxmert-*`) have our names already: `from_pretrained` reads them.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion
from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig


def rules(config: LxmertMimConfig) -> list[WeightRenaming | WeightConverter]:
    """Return the rule from the authors' names to ours."""
    return [WeightRenaming("^bert.", "lxmert.")]


def prepare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names of the published code: some files have the prefix of a wrapper, fine-tuned ones another."""
    return {
        name.removeprefix("module.").removeprefix("lxrt_encoder.model."): tensor for name, tensor in weights.items()
    }


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> LxmertMimConfig:
    """Read the configuration off the weights; the number of heads is a field (default: 64 channels each)."""
    words = weights["bert.embeddings.word_embeddings.weight"]

    def depth(name: str) -> int:
        return len({key.split(".")[3] for key in weights if key.startswith(f"bert.encoder.{name}.")})

    told: dict[str, Any] = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_attention_heads": max(1, words.shape[1] // 64),
        "intermediate_size": weights["bert.encoder.layer.0.intermediate.dense.bias"].shape[0],
        "max_position_embeddings": weights["bert.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": weights["bert.embeddings.token_type_embeddings.weight"].shape[0],
        "l_layers": depth("layer"),
        "r_layers": depth("r_layers"),
        "x_layers": depth("x_layers"),
        "visual_feat_dim": weights["bert.encoder.visn_fc.visn_fc.weight"].shape[1],
        "visual_pos_dim": weights["bert.encoder.visn_fc.box_fc.weight"].shape[1],
        "task_obj_predict": any(name.startswith("obj_predict_head.") for name in weights),
        "task_qa": "answer_head.logit_fc.3.bias" in weights,
    }
    for name, key in (
        ("num_object_labels", "obj_predict_head.decoder_dict.obj.bias"),
        ("num_attr_labels", "obj_predict_head.decoder_dict.attr.bias"),
        ("num_qa_labels", "answer_head.logit_fc.3.bias"),
    ):
        told |= {name: weights[key].shape[0]} if key in weights else {}
    return LxmertMimConfig(**told | fields)


def auto_class(weights: Mapping[str, Tensor]) -> str:
    """Return what a file holds: pre-training heads, or the encoder alone."""
    return "AutoModelForPreTraining" if any(name.startswith("cls.") for name in weights) else "AutoModel"


conversion = Conversion(
    rules=rules, config=config_from, model=auto_class, prepare=prepare, licence="mit", ignore=(r"logit_fc\..*",)
)
