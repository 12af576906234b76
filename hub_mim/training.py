"""Pre-train a method on rows: one call from a source of rows to a folder that `AutoModel.from_pretrained` loads."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hub_mim.data import Collator, Rows, encode_all, fingerprint, load_rows, split_rows
from hub_mim.files import refuse_overwrite
from hub_mim.method import Method, resolve, suggest
from hub_mim.run import FILE, Run, now
from hub_mim.trainer import KeepBest, MaskedTrainer, ProgressLine

__all__ = ["KeepBest", "MaskedTrainer", "ProgressLine", "Run", "pretrain"]

CHECKPOINTS = "checkpoints"
OURS = ("decay_all", "early_stopping")  # recipe entries that are not TrainingArguments


def pretrain(
    method: str,
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    validation: float = 0.1,
    seed: int = 0,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    init_from: str | None = None,
    lora: bool = False,
    early_stopping: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    streaming: bool = False,
    overwrite: bool = False,
) -> Run:
    """Pre-train a method on rows and write model, processor, card and `run.json` into a folder.

    A run that was interrupted goes on from its last complete checkpoint when it is called again with the same settings.

    Args:
        method: name of an installed method.
        data: see `data.load_rows`.
        out: folder for the result; while training it holds `checkpoints/`.
        preset: one of the method's sizes; default its first.
        config: configuration fields that override the preset.
        columns: column -> argument of the processor.
        split: of a source that has several.
        validation: share of rows held out for the masked loss, in [0, 1).
        seed: of weights, split, order and masks.
        steps: optimiser steps; overrides epochs.
        epochs: passes over the rows; default the recipe's.
        batch_size: rows per step and process.
        learning_rate: at its peak.
        init_from: checkpoint (folder or Hub id) whose matching weights are the start.
        lora: train low-rank adapters on `Method.lora_targets` only; needs `init_from`. The result is merged.
        early_stopping: stop after this many evaluations without a lower held-out loss.
        arguments: further TrainingArguments.
        streaming: read the rows while training; needs `steps`.
        overwrite: start anew although `out` holds a finished or another run.
    Returns:
        The record of the run.
    Raises:
        ValueError: unknown names or values, unreadable data, other settings than the interrupted run's.
        FileExistsError: `out` holds something that is no interrupted run, and `overwrite` is false.
    """
    from transformers import set_seed

    from hub_mim import plugins, registry

    declared = plugins.get_method(method)
    registry.register_method(declared)
    out = Path(out)
    rows = load_rows(data, split=split, columns=columns, streaming=streaming)
    train, held_out = split_rows(rows, validation, seed)
    processor = _processor(declared, train)
    distribution, version = plugins.origin(method)
    preset = preset or next(iter(declared.presets), None)
    run = Run(
        method=method,
        distribution=distribution,
        version=version,
        preset=preset,
        overrides=dict(config or {}),
        data=data
        if isinstance(data, str)
        else str(data)
        if isinstance(data, Path)
        else f"in memory: {type(data).__name__}",
        fingerprint=fingerprint(rows),
        columns=dict(columns) if columns else None,
        split=split,
        validation=validation,
        rows=len(train) if hasattr(train, "__len__") else None,
        validation_rows=len(held_out) if hasattr(held_out, "__len__") else 0,
        seed=seed,
        init_from=init_from,
        lora=lora,
        early_stopping=early_stopping if early_stopping is not None else declared.recipe.get("early_stopping"),
    ).stamp()
    set_seed(seed)
    model = _model(declared, preset, {**_config_of(processor), **(config or {})})
    run.config = json.loads(model.config.to_json_string(use_diff=False))
    recipe = {name: value for name, value in declared.recipe.items() if name not in OURS}
    given = {"max_steps": steps, "num_train_epochs": epochs, "per_device_train_batch_size": batch_size}
    given |= {"learning_rate": learning_rate, **(arguments or {})}
    run.arguments = recipe | {name: value for name, value in given.items() if value is not None}
    resume = prepare_folder(out, run, overwrite)
    if init_from is not None:
        load_matching(model, init_from)
    if lora:
        model = _with_adapters(model, declared, init_from)
    trainer = _trainer(declared, model, processor, train, held_out, run, out)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    _finish(trainer, processor, run, out, declared)
    return run


def _processor(method: Method, rows: Any) -> Any:
    processor_class = resolve(next(method.auto[key] for key in _PROCESSORS if key in method.auto))  # type: ignore[arg-type]
    processor = processor_class()
    return processor.fit(rows) if hasattr(processor, "fit") else processor


_PROCESSORS = ("AutoProcessor", "AutoFeatureExtractor", "AutoImageProcessor", "AutoTokenizer")


def _config_of(processor: Any) -> dict[str, Any]:
    return processor.config_arguments() if hasattr(processor, "config_arguments") else {}


def _model(method: Method, preset: str | None, fields: Mapping[str, Any]) -> Any:
    """Build a model of a preset with some fields overridden.

    Raises:
        ValueError: no such preset, or a field the configuration does not have.
    """
    config_class = resolve(method.config)
    if preset is not None and preset not in method.presets:
        raise ValueError(
            f"{method.name} has no preset {preset!r}{suggest(preset, method.presets)}; it has {', '.join(method.presets)}"
        )
    known = config_class().to_dict()
    for name in fields:
        if name not in known and not hasattr(config_class, name):
            raise ValueError(f"the configuration of {method.name} has no field {name!r}{suggest(name, known)}")
    config = config_class(**{**(method.presets[preset] if preset else {}), **fields})
    return resolve(method.auto["AutoModelForPreTraining"])(config)  # type: ignore[arg-type]


def prepare_folder(out: Path, run: Run, overwrite: bool) -> Path | None:
    """Make the run's folder ready and return the checkpoint to go on from, if any.

    Raises:
        FileExistsError: the folder holds a finished run or something else, and `overwrite` is false.
        ValueError: it holds an interrupted run with other settings.
    """
    from accelerate import PartialState

    from hub_mim.checkpoints import last_complete

    state = PartialState(cpu=bool(run.arguments.get("use_cpu", not has_accelerator())))
    earlier = Run.load(out) if (out / FILE).is_file() else None
    unfinished = earlier is not None and earlier.status == "running" and not overwrite
    if unfinished and earlier is not None:
        difference = earlier.difference(run)
        if difference:
            raise ValueError(
                f"{out} holds an interrupted run with other settings: {difference}; repeat those, or pass overwrite"
            )
        run.started = earlier.started
    else:
        refuse_overwrite(out, overwrite)
    state.wait_for_everyone()  # every process has looked before the first one writes
    if overwrite and state.is_main_process:
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    if state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        run.save(out)
    state.wait_for_everyone()
    return last_complete(out / CHECKPOINTS) if unfinished else None


def load_matching(model: Any, source: str) -> int:
    """Copy every weight of a checkpoint whose name and shape fit into a model, and say how many did.

    Args:
        model: a `PreTrainedModel`.
        source: folder or Hub id with safetensors weights; names may lack or carry the model's base prefix.
    Returns:
        Number of tensors copied.
    Raises:
        ValueError: none fits.
    """
    from hub_mim.console import say
    from hub_mim.sharing import checkpoint_weights

    own = model.state_dict()
    prefix = f"{model.base_model_prefix}."
    fitting = {}
    for name, tensor in checkpoint_weights(source).items():
        for candidate in (name, prefix + name, name.removeprefix(prefix)):
            if candidate in own and own[candidate].shape == tensor.shape:
                fitting[candidate] = tensor
                break
    if not fitting:
        kind = type(model).__name__
        raise ValueError(f"no weight of {source} fits {kind}; give a checkpoint of the same method and size")
    model.load_state_dict(fitting, strict=False)
    say(f"starting from {source}: {len(fitting)} of {len(own)} tensors")
    return len(fitting)


def _with_adapters(model: Any, method: Method, init_from: str | None) -> Any:
    if init_from is None:
        raise ValueError("lora needs a checkpoint to adapt: pass init_from (--init-from)")
    if not method.lora_targets:
        raise ValueError(f"{method.name} declares no lora_targets; train it whole")
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(target_modules=list(method.lora_targets)))


def _trainer(
    method: Method, model: Any, processor: Any, train: Any, held_out: Any, run: Run, out: Path
) -> MaskedTrainer:
    collate = resolve(method.collator) if method.collator else None
    once = getattr(processor, "encode_once", False) and hasattr(train, "__len__")
    wrap = (lambda rows: encode_all(processor, rows)) if once else Rows if hasattr(train, "__len__") else _numbered
    callbacks: list[Any] = [ProgressLine()]
    if run.early_stopping is not None and held_out is not None:
        from transformers import EarlyStoppingCallback

        callbacks.append(EarlyStoppingCallback(early_stopping_patience=run.early_stopping))
    return MaskedTrainer(
        model=model,
        args=_arguments(run, out, held_out is not None),
        train_dataset=wrap(train),
        eval_dataset=wrap(held_out) if held_out is not None else None,
        data_collator=Collator(processor, collate),
        callbacks=callbacks,
        on_step=resolve(method.on_step) if method.on_step else None,
        decay_all=bool(method.recipe.get("decay_all", False)),
    )


def _numbered(rows: Any) -> Any:
    return rows.map(lambda row, index: {**row, "row_index": index}, with_indices=True)


def _arguments(run: Run, out: Path, evaluate: bool) -> Any:
    """Return the TrainingArguments of a run: the recipe, then what logging and saving need."""
    import os

    import torch
    from transformers import TrainingArguments

    given = dict(run.arguments)
    known = {each.name for each in TrainingArguments.__dataclass_fields__.values()}
    for name in given:
        if name not in known:
            raise ValueError(f"TrainingArguments has no field {name!r}{suggest(name, known)}")
    total = _total_steps(given, run.rows, int(os.environ.get("WORLD_SIZE", "1")))
    every = max(1, total // 10)
    defaults: dict[str, Any] = {
        "seed": run.seed,
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
    warm = given.get("warmup_steps")
    if isinstance(warm, float) and warm < 1:
        given["warmup_steps"] = round(warm * total)
    return TrainingArguments(output_dir=str(out / CHECKPOINTS), **{**defaults, **given})


def has_accelerator() -> bool:
    """Tell whether there is something faster than the CPU here."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def _total_steps(given: Mapping[str, Any], rows: int | None, processes: int) -> int:
    if given.get("max_steps", -1) > 0:
        return int(given["max_steps"])
    if rows is None:
        raise ValueError("a stream has no known length; pass the number of steps (--steps)")
    batch = given.get("per_device_train_batch_size", 8) * given.get("gradient_accumulation_steps", 1) * processes
    return max(1, math.ceil(math.ceil(rows / batch) * given.get("num_train_epochs", 3)))


def _finish(trainer: MaskedTrainer, processor: Any, run: Run, out: Path, method: Method) -> None:
    """Evaluate what is kept, then write the folder on the main process."""
    from hub_mim import sharing

    state = trainer.state
    final = trainer.evaluate() if trainer.eval_dataset is not None else {}
    run.steps, run.epochs = state.global_step, round(float(state.epoch or 0), 4)
    run.history = [{name: value for name, value in line.items() if _figure(value)} for line in state.log_history]
    losses = [line["loss"] for line in run.history if "loss" in line]
    run.losses = {"loss": losses[-1]} if losses else {}
    run.losses |= {name: value for name, value in final.items() if name.startswith("eval_loss")}
    run.status, run.ended = "finished", now()
    if trainer.is_world_process_zero():
        model = trainer.accelerator.unwrap_model(trainer.model)
        if run.lora:
            model = model.merge_and_unload()
        model.config._name_or_path = ""
        sharing.save(out, model, processor, run=run, overwrite=True)
        logs = out / CHECKPOINTS / "runs"  # where transformers' TensorBoard callback writes
        if logs.is_dir():
            shutil.copytree(logs, out / "runs", dirs_exist_ok=True)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
