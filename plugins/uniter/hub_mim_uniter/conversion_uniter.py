"""From the authors' flat files (and VILLA's, which have the same names) to ours and back."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hub_mim.conversion import Conversion
from hub_mim_uniter.configuration_uniter import UniterConfig


def rules(config: UniterConfig) -> list[WeightRenaming | WeightConverter]:
    """Return no rules: our names are the authors'."""
    return []


def prepare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights by the names of the published code: old files say gamma and beta, some have wrappers' prefixes, and
    BERT's own begin with `bert.`.

    Raises:
        ValueError: the two copies of the table that embeds features and predicts them differ.
    """
    made = {}
    for name, tensor in weights.items():
        clean = name.removeprefix("module.")
        clean = re.sub(r"^bert\.", "uniter.", clean)
        clean = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", clean)
        clean = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", clean)
        made[clean] = tensor
    twice = made.get("feat_regress.weight")
    if twice is not None and not twice.equal(made["uniter.img_embeddings.img_linear.weight"]):
        raise ValueError(
            "feat_regress.weight differs from uniter.img_embeddings.img_linear.weight; the two are one matrix"
        )
    return made


def config_from(weights: Mapping[str, Tensor], **fields: Any) -> UniterConfig:
    """Read the configuration off the weights; the number of heads is a field (default: 64 channels each)."""
    words = weights["uniter.embeddings.word_embeddings.weight"]
    layers = {name.split(".")[3] for name in weights if name.startswith("uniter.encoder.layer.")}
    width = words.shape[1]
    told: dict[str, Any] = {
        "vocab_size": words.shape[0],
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": weights["uniter.encoder.layer.0.intermediate.dense.bias"].shape[0],
        "max_position_embeddings": weights["uniter.embeddings.position_embeddings.weight"].shape[0],
        "type_vocab_size": weights["uniter.embeddings.token_type_embeddings.weight"].shape[0],
        "visual_feat_dim": weights["uniter.img_embeddings.img_linear.weight"].shape[1],
        "visual_pos_dim": weights["uniter.img_embeddings.pos_linear.weight"].shape[1],
    }
    classes = weights.get("region_classifier.net.3.bias")
    if classes is not None:
        told["num_region_classes"] = classes.shape[0]
    heads = {"cls.predictions.bias": "mlm", "feat_regress.bias": "mrfr", "itm_output.bias": "itm"}
    tasks = {task: 1.0 for name, task in heads.items() if name in weights}
    tasks |= {"mrckl": 1.0} if classes is not None else {}
    if tasks:
        told["tasks"] = tasks
    return UniterConfig(**told | fields)


def auto_class(weights: Mapping[str, Tensor]) -> str:
    """Return what a file holds: pre-training heads, or the encoder alone."""
    whole = any(name.startswith(("cls.", "feat_regress.", "region_classifier.", "itm_output.")) for name in weights)
    return "AutoModelForPreTraining" if whole else "AutoModel"


conversion = Conversion(
    rules=rules, config=config_from, model=auto_class, prepare=prepare, licence="mit", ignore=("feat_regress.weight",)
)
