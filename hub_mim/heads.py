"""Heads for fine-tuning: which class of a method has one, how its parts are told apart, learning rates by depth."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hub_mim.checking import takes
from hub_mim.method import Method, resolve, suggest

# task -> auto classes that have a head for it, the first that a model has is taken
TASKS: dict[str, tuple[str, ...]] = {
    "classification": (
        "AutoModelForImageClassification",
        "AutoModelForAudioClassification",
        "AutoModelForVideoClassification",
        "AutoModelForSequenceClassification",
        "AutoModelForGraphClassification",
    ),
    "segmentation": ("AutoModelForSemanticSegmentation",),
}
_DEPTH = re.compile(r"(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.")


def head_class(method: Method, config: Any, task: str) -> Any:
    """Return the class that a method, or transformers for its own models, has for a task.

    Raises:
        ValueError: an unknown task, or no class for it.
    """
    from hub_mim.auto import auto_class

    if task not in TASKS:
        raise ValueError(f"no task {task!r}{suggest(task, TASKS)}; there are {', '.join(TASKS)}")
    for auto in TASKS[task]:
        declared = method.auto.get(auto)
        if isinstance(declared, str):
            return resolve(declared)
        mapping = auto_class(auto)._model_mapping
        if declared is None and type(config) in mapping:
            return mapping[type(config)]
    heads = [auto for auto in method.auto if auto.startswith("AutoModelFor") and auto != "AutoModelForPreTraining"]
    raise ValueError(
        f"{method.name} has no head for {task} (it has {', '.join(heads) or 'none at all'}); judge its frozen features by "
        "`hub-mim evaluate --protocol linear`"
    )


def load_head(folder: Any, task: str) -> Any:
    """Load a fine-tuned model of a task from its folder."""
    from transformers import AutoConfig

    from hub_mim.plugins import method_or_native

    config = AutoConfig.from_pretrained(str(folder))
    return head_class(method_or_native(config.model_type, config.architectures), config, task).from_pretrained(folder)


def new_parts(model: Any) -> tuple[str, ...]:
    """Return the names of the modules beside the encoder: the head."""
    return tuple(
        name
        for name, module in model.named_children()
        if name != model.base_model_prefix and any(True for _ in module.parameters())
    )


def freeze_encoder(model: Any) -> None:
    """Leave only the head to be trained."""
    for weight in getattr(model, model.base_model_prefix).parameters():
        weight.requires_grad_(False)


@takes(rate=">0", decay="", weight_decay=">=0")
def decayed_groups(model: Any, rate: float, decay: float, weight_decay: float) -> Callable[[], list[dict[str, Any]]]:
    """Return what gives the optimiser's groups: the learning rate falls by `decay` with each block towards the input.

    The head has the full rate, block i of L has decay ** (L - i), embeddings decay ** (L + 1); biases, norms and other
    vectors get no weight decay.

    Args:
        model: a fine-tuning model.
        rate: of the head, above 0.
        decay: in (0, 1].
        weight_decay: of matrices.
    Raises:
        ValueError: decay is out of range, or no numbered blocks are found in the encoder.

    Source: Clark et al. 2020 (arXiv:2003.10555); as in He et al. 2022 (arXiv:2111.06377), appendix A.1.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"layer_decay is {decay}; it must lie in (0, 1]")
    prefix = f"{model.base_model_prefix}."
    found = {name: _DEPTH.search(name) for name, _ in model.named_parameters() if name.startswith(prefix)}
    count = 1 + max((int(match[1]) for match in found.values() if match), default=-1)
    if count == 0:
        raise ValueError(f"no numbered blocks in {type(model).__name__}; fine-tune without layer_decay")

    def depth(name: str) -> int:
        if name not in found:
            return count + 1
        match = found[name]
        if match is not None:
            return int(match[1]) + 1
        return 0 if "embed" in name or "token" in name or "position" in name else count + 1

    def groups() -> list[dict[str, Any]]:
        made: dict[tuple[int, bool], dict[str, Any]] = {}
        for name, weight in model.named_parameters():
            matrix = weight.dim() > 1
            place = depth(name), matrix
            scale = decay ** (count + 1 - place[0])
            usual = {"params": [], "lr": rate * scale, "weight_decay": weight_decay if matrix else 0.0}
            made.setdefault(place, usual)["params"].append(weight)
        return list(made.values())

    return groups
