"""Pre-train a method on rows: one call from a source of rows to a folder that `AutoModel.from_pretrained` loads."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hub_mim import augmenting, sharded, stopping
from hub_mim.augmenting import Augmentation
from hub_mim.bucketing import row_lengths
from hub_mim.callbacks import EarlyStopping, KeepBest, ProgressLine, plain, reproducible
from hub_mim.checking import takes
from hub_mim.console import say
from hub_mim.data import Collator, Rows, encode_all, fingerprint, hold_out, load_for, readable
from hub_mim.method import Method, resolve
from hub_mim.on_device import OnDevice, in_bytes
from hub_mim.provenance import licence_of, name_of
from hub_mim.run import Run, now
from hub_mim.run_arguments import given_arguments, training_arguments
from hub_mim.run_folder import CHECKPOINTS, interrupted_run, open_folder, written
from hub_mim.speed import StepTimes, utilisation
from hub_mim.starting import add_adapters, choose_preset, load_matching, make_model, make_processor
from hub_mim.stream_rows import OnePass
from hub_mim.streams import Stream
from hub_mim.trainer import MaskedTrainer

__all__ = ["KeepBest", "MaskedTrainer", "ProgressLine", "Run", "load_matching", "pretrain"]


@takes(
    seed=">=0",
    steps=">=1",
    epochs=">0",
    tokens_per_batch=">=1",
    learning_rate=">0",
    early_stopping=">=1",
    cache_side=">=1",
    draft_side=">=1",
)
def pretrain(
    method: str,
    data: Any,
    out: str | Path,
    *,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    processor: Any = None,
    columns: Mapping[str, str] | None = None,
    features: Any = None,
    split: str | None = None,
    validation: float = 0.1,
    seed: int = 0,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    learning_rate: float | None = None,
    init_from: str | None = None,
    lora: bool = False,
    early_stopping: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    streaming: bool = False,
    mfu: bool = False,
    skip_unreadable: bool = False,
    skip_bad_steps: bool = False,
    plain_steps: bool = False,
    half_weights: bool = False,
    cache: str | Path | None = None,
    cache_side: int | None = None,
    draft_side: int | None = None,
    augment: Mapping[str, Any] | Sequence[str] | None = None,
    overwrite: bool = False,
) -> Run:
    """Pre-train a method on rows and write model, processor, card and `run.json` into a folder.

    A run that was interrupted goes on from its last complete checkpoint when it is called again with the same settings.

    Args:
        method: name of an installed method.
        data: see `data.load_rows`.
        out: folder for the result; while training it holds `checkpoints/`, and what was there before stays until the end.
        preset: one of the method's sizes; default that of `init_from`, else the method's first.
        config: configuration fields that override the preset.
        processor: arguments of the method's processor, such as an image size, or a processor itself.
        columns: column -> argument of the processor.
        features: a second table, for methods that take one; see `data.load_for`.
        split: of a source that has several.
        validation: share of rows held out for the masked loss, in [0, 1).
        seed: of weights, split, order and masks.
        steps: optimiser steps; overrides epochs.
        epochs: passes over the rows; default the recipe's.
        batch_size: rows per step and process.
        tokens_per_batch: tokens per step and process, in place of a number of rows; rows of like lengths meet. Every row is
            encoded once to know its length.
        learning_rate: at its peak.
        init_from: checkpoint (folder or Hub id) whose matching weights are the start; what matched is told on stderr.
        lora: train low-rank adapters on `Method.lora_targets` only; needs `init_from`. The result is merged.
        early_stopping: stop after this many evaluations without a lower held-out loss.
        arguments: further TrainingArguments, such as `bf16`, `dataloader_num_workers`, `report_to`, `save_steps`.
        streaming: read the rows while training; needs `steps`.
        mfu: measure steps and the share of the device's peak that they use; kept as `speed` of the run.
        skip_unreadable: leave out rows that the processor cannot read (of a stream those that cannot be decoded), and say
            which; otherwise the first one ends the run.
        skip_bad_steps: leave the weights as they are in a step whose gradient is no number, instead of ending the run.
        plain_steps: run a method of transformers' exactly as transformers does, where hub-mim has a faster way to the same
            loss (`Method.quicken`).
        half_weights: keep the weights of linear layers in bfloat16 and a float32 copy in the optimiser, see `half_weights`;
            with `arguments={"bf16": True}`.
        cache, cache_side: folder for the rows' pictures as pixels, and the side that they are made smaller to; see
            `picture_cache.cached`.
        draft_side: decode JPEG files at a half, a quarter or an eighth of their size where no side becomes shorter than this.
            Pixels differ a little from those of whole files. With `cache`, `cache_side` does it.
        augment: names of `augmenting.Augmentation`'s arguments, with the values of the method's recipe, or a mapping of
            these to other values: crops and flips in training, on the device.
        overwrite: start anew although `out` holds a finished or another run.
    Returns:
        The record of the run.
    Raises:
        Stopped: SIGTERM asked for it (`stopping`); a checkpoint was written, and the same call goes on.
        ValueError: unknown names or values, unreadable data, other settings than the interrupted run's.
        FileExistsError: `out` holds something that is no interrupted run, and `overwrite` is false.
        FloatingPointError: a loss is no number.
    """
    from accelerate import PartialState
    from transformers import set_seed

    from hub_mim import plugins, registry
    from hub_mim.picture_cache import cached

    declared = plugins.get_method(method)
    registry.register_method(declared)
    augment = augmenting.resolved(augment, declared)
    out = Path(out)
    earlier, looked = interrupted_run(out, overwrite), written(out)
    rows = load_for(declared, data, features=features, split=split, columns=columns, streaming=streaming)
    mark = fingerprint(rows)
    if cache is not None:
        with PartialState().main_process_first():
            rows = cached(rows, cache, cache_side)
    rows = rows if draft_side is None else _drafted(rows, draft_side, cache)
    train, held_out = hold_out(declared, rows, validation, seed)
    if early_stopping is not None and held_out is None:
        raise ValueError("early stopping needs held-out rows; give a validation share above 0 (--validation)")
    chosen = choose_preset(declared, preset, init_from)
    fields = {**(declared.presets[chosen] if chosen else {}), **(config or {})}
    encoder = make_processor(declared, train, init_from, fields, processor)
    if skip_unreadable:
        train, held_out = (_only_readable(encoder, part) for part in (train, held_out))
    if hasattr(encoder, "expand"):
        train = encoder.expand(train, seed)
    run = Run(
        method=method,
        preset=chosen,
        overrides=dict(config or {}),
        processor=_recorded(processor),
        data=name_of(data),
        fingerprint=mark,
        data_licence=licence_of(data),
        columns=dict(columns) if columns else None,
        split=split,
        validation=validation,
        rows=len(train) if hasattr(train, "__len__") else None,
        validation_rows=len(held_out) if hasattr(held_out, "__len__") else 0,
        seed=seed,
        recipe=dict(declared.recipe),
        init_from=init_from,
        lora=lora,
        early_stopping=early_stopping if early_stopping is not None else declared.recipe.get("early_stopping"),
        tokens_per_batch=tokens_per_batch,
        skip_bad_steps=skip_bad_steps,
        plain_steps=plain_steps,
        half_weights=half_weights,
        cache_side=cache_side if cache is not None else None,
        draft_side=draft_side,
        augment=augment,
    ).stamp()
    run.distribution, run.version = plugins.origin(method)
    run.arguments = given_arguments(declared, steps, epochs, batch_size, learning_rate, arguments or {})
    set_seed(seed)
    told = encoder.config_arguments() if hasattr(encoder, "config_arguments") else {}
    model = make_model(declared, run.preset, {**told, **(config or {})}, init_from)
    run.config = json.loads(model.config.to_json_string(use_diff=False))
    if init_from is not None:
        load_matching(model, init_from)
    if lora:
        model = add_adapters(model, declared, init_from)
    lengths = None if tokens_per_batch is None else row_lengths(encoder, train)
    used = training_arguments(run, out, held_out is not None, lengths)
    with open_folder(out, run, earlier, looked) as resume:
        skip = skip_unreadable
        trainer = _trainer(declared, model, encoder, train, held_out, run, used, lengths, skip)
        if declared.quicken and not plain_steps and not trainer.is_fsdp_enabled:  # FSDP gathers what is called whole
            resolve(declared.quicken)(model)
        times = StepTimes()
        if mfu:
            trainer.add_callback(times)
        stopping.train(trainer, resume)
        if mfu:
            run.speed = utilisation(trainer, times)
        _finish(trainer, encoder, run, out)
    return run


def _only_readable(processor: Any, rows: Any) -> Any:
    if rows is None or not hasattr(rows, "__len__"):  # a stream's are left out when it is their turn
        return rows
    kept, skipped = readable(processor, rows)
    if int(os.environ.get("RANK", "0")) == 0:
        for told in skipped:
            say(f"left out {told}")
    return kept


def _drafted(rows: Any, side: int, cache: Any) -> Any:
    from hub_mim.drafting import with_drafts

    if cache is not None:
        raise ValueError(
            "cached pictures are decoded once; leave out draft_side (--draft-side), or the cache (--cache)"
        )
    return with_drafts(rows, side)


def _recorded(processor: Any) -> dict[str, Any]:
    """Return what a run keeps of the processor that it was given: its arguments."""
    if processor is None:
        return {}
    return dict(processor) if isinstance(processor, Mapping) else dict(processor.to_dict())


def _trainer(
    method: Method,
    model: Any,
    processor: Any,
    train: Any,
    held_out: Any,
    run: Run,
    arguments: Any,
    lengths: list[int] | None = None,
    skip: bool = False,
) -> MaskedTrainer:
    once = getattr(processor, "encode_once", False)
    whole = bool(once or method.collator or method.on_finish)  # these look at batches themselves
    travel = None if whole else in_bytes(processor)

    def wrap(rows: Any, train: bool = False) -> Any:
        if rows is None:
            return None
        if not hasattr(rows, "__len__"):
            return _stream(rows, run, arguments, skip) if train else OnePass(rows, skip)
        return encode_all(processor, rows) if once else Rows(rows)

    callbacks: list[Any] = [ProgressLine()]
    if run.early_stopping is not None and held_out is not None:
        callbacks.append(EarlyStopping(run.early_stopping))
    return MaskedTrainer(
        model=model,
        args=arguments,
        train_dataset=wrap(train, train=True),
        eval_dataset=wrap(held_out),
        data_collator=Collator(
            processor, resolve(method.collator) if method.collator else None, travel.processor if travel else None
        ),
        callbacks=callbacks,
        on_step=resolve(method.on_step) if method.on_step else None,
        decay_all=bool(method.recipe.get("decay_all", False)),
        draws=resolve(method.draws) if method.draws else None,
        lengths=lengths,
        tokens=run.tokens_per_batch,
        skip_bad_steps=run.skip_bad_steps,
        half_weights=run.half_weights,
        on_device=OnDevice(travel.table if travel else None, Augmentation(**run.augment) if run.augment else None),
    )


def _stream(rows: Any, run: Run, arguments: Any, skip_unreadable: bool) -> Stream:
    return Stream(
        rows,
        batch_size=arguments.train_batch_size,
        seed=run.seed,
        process=arguments.process_index,
        processes=arguments.world_size,
        workers=arguments.dataloader_num_workers,
        skip_unreadable=skip_unreadable,
    )


def record_training(trainer: MaskedTrainer, run: Run) -> None:
    """Note in a run's record what its training did: steps, passes, the best step, what was logged, the last loss."""
    state = trainer.state
    run.steps, run.epochs = state.global_step, round(float(state.epoch or 0), 4)
    run.best_step, run.history = state.best_global_step, reproducible(state.log_history)
    losses = [line["loss"] for line in run.history if "loss" in line]
    run.losses = {"loss": losses[-1]} if losses else {}


def kept_model(trainer: MaskedTrainer, run: Run) -> Any:
    """Return what was trained as it is saved: without wrappers, its adapters merged; all processes must call it."""
    model = sharded.whole(trainer, trainer.accelerator.unwrap_model(trainer.model))
    if run.lora:
        model = model.merge_and_unload()
    model.config._name_or_path = ""
    return model


def _finish(trainer: MaskedTrainer, processor: Any, run: Run, out: Path) -> None:
    """Evaluate what is kept, then write the folder on the main process."""
    from hub_mim import plugins, sharing

    record_training(trainer, run)
    if trainer.eval_dataset is not None:
        on_finish = plugins.get_method(run.method).on_finish
        if on_finish is not None:
            resolve(on_finish)(plain(trainer.model), trainer.get_eval_dataloader(), run.seed)
        final = trainer.evaluate()
        run.losses |= {name: value for name, value in final.items() if name.startswith("eval_loss")}
    run.status, run.ended = "finished", now()
    kept = kept_model(trainer, run)
    if trainer.is_world_process_zero():
        sharing.save(out, kept, processor, run=run, overwrite=True)
        logs = out / CHECKPOINTS / "runs"  # where transformers' TensorBoard callback writes
        if logs.is_dir():
            shutil.copytree(logs, out / "runs", dirs_exist_ok=True)
        if trainer.args.push_to_hub:
            _push(trainer, out)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _push(trainer: MaskedTrainer, out: Path) -> None:
    """Push what was saved, after what Trainer pushed on the way; a Hub that does not answer costs no training."""
    from hub_mim.transfer import push

    trainer._finish_current_push()
    try:
        pushed = push(
            out,
            str(trainer.hub_model_id),
            private=bool(trainer.args.hub_private_repo),
            revision=trainer.args.hub_revision,
        )
    except (ValueError, RuntimeError, OSError) as error:
        say(
            f"the run is whole in {out}, but was not pushed: {error}; try again by `hub-mim push {out} {trainer.hub_model_id}`"
        )
    else:
        say(f"pushed to {pushed.url}, commit {pushed.commit}")
