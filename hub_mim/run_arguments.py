"""TrainingArguments of a run: what the method's recipe says, what the caller says, and what both leave to us."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_mim.bucketing import TokenBatches
from hub_mim.method import Method, suggest
from hub_mim.run import Run
from hub_mim.run_folder import CHECKPOINTS

OURS = ("decay_all", "early_stopping")  # recipe entries that are not TrainingArguments
PLACED = ("output_dir", "seed", "hub_token")  # TrainingArguments that pretrain itself decides, or that are secret


def given_arguments(
    method: Method,
    steps: int | None,
    epochs: float | None,
    batch_size: int | None,
    learning_rate: float | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the TrainingArguments that the recipe and the caller name.

    Raises:
        ValueError: a name that TrainingArguments does not have or that is not the caller's to give, or a value out of range.
    """
    from transformers import TrainingArguments

    recipe = {name: value for name, value in method.recipe.items() if name not in OURS}
    if epochs is not None:
        recipe.pop("max_steps", None)
    asked = {"max_steps": steps, "num_train_epochs": epochs, "per_device_train_batch_size": batch_size}
    asked |= {"learning_rate": learning_rate}
    for name, value in asked.items():
        if value is not None and value <= 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
    given = {**recipe, **{name: value for name, value in asked.items() if value is not None}, **arguments}
    known = set(TrainingArguments.__dataclass_fields__) - set(PLACED)
    for name in given:
        if name in PLACED:
            raise ValueError(f"{name} is no argument to pass on; the folder, the seed and tokens have their own places")
        if name not in known:
            raise ValueError(f"TrainingArguments has no field {name!r}{suggest(name, known)}")
    return given


def training_arguments(run: Run, out: Path, evaluate: bool, lengths: list[int] | None = None) -> Any:
    """Return the TrainingArguments of a run, and note in its record those that differ from transformers' defaults."""
    import torch
    from transformers import TrainingArguments

    given = dict(run.arguments)
    total = _total_steps(given, run.rows, int(os.environ.get("WORLD_SIZE", "1")), lengths, run.tokens_per_batch)
    every = given.get("eval_steps", given.get("save_steps", max(1, total // 10)))
    warm = given.get("warmup_steps")
    if isinstance(warm, float) and warm < 1:
        given["warmup_steps"] = round(warm * total)
    defaults: dict[str, Any] = {
        "seed": run.seed,
        "per_device_eval_batch_size": given.get("per_device_train_batch_size", 8),
        "logging_steps": max(1, total // 50),
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": every,
        "load_best_model_at_end": evaluate,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "report_to": "none",
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "use_cpu": not has_accelerator(),
        "ddp_find_unused_parameters": False,
    }
    if given.get("push_to_hub"):
        defaults["hub_model_id"] = out.resolve().name
    used = {**defaults, **given}
    made = TrainingArguments(output_dir=str(out / CHECKPOINTS), **used)
    usual = {name: field.default for name, field in TrainingArguments.__dataclass_fields__.items()}
    run.training_arguments = {name: value for name, value in used.items() if value != usual[name]}
    run.processes = made.world_size
    return made


def has_accelerator() -> bool:
    """Tell whether there is something faster than the CPU here."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _total_steps(
    given: Mapping[str, Any],
    rows: int | None,
    processes: int,
    lengths: list[int] | None = None,
    tokens: int | None = None,
) -> int:
    if given.get("max_steps", -1) > 0:
        return int(given["max_steps"])
    if rows is None:
        raise ValueError("a stream has no known length; pass the number of steps (--steps)")
    together = given.get("gradient_accumulation_steps", 1)
    if lengths is not None and tokens is not None:
        each = math.ceil(len(TokenBatches(lengths, tokens, processes=processes)) / together)
    else:
        each = math.ceil(rows / (given.get("per_device_train_batch_size", 8) * together * processes))
    return max(1, math.ceil(each * given.get("num_train_epochs", 3)))
