"""Fine-tune a checkpoint on labelled rows: one call from rows to a folder that its auto class loads."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim import stopping
from hub_mim.callbacks import EarlyStopping, ProgressLine
from hub_mim.checking import takes
from hub_mim.data import Collator, Rows, fingerprint, load_for
from hub_mim.method import Method
from hub_mim.on_device import OnDevice, in_bytes
from hub_mim.provenance import licence_of, name_of
from hub_mim.run import Run, now
from hub_mim.run_arguments import given_arguments, training_arguments
from hub_mim.run_folder import CHECKPOINTS, interrupted_run, open_folder, written
from hub_mim.starting import add_adapters, load_matching
from hub_mim.trainer import MaskedTrainer

if TYPE_CHECKING:
    import numpy as np

RECIPE: dict[str, Any] = {
    "num_train_epochs": 20,
    "per_device_train_batch_size": 32,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
}


@takes(
    labels_per_class=">=1",
    layer_decay=">0 <=1",
    seed=">=0",
    steps=">=1",
    epochs=">0",
    learning_rate=">0",
    early_stopping=">=1",
)
def finetune(
    source: str | Path,
    data: Any,
    out: str | Path,
    *,
    task: str = "classification",
    label: str | None = None,
    columns: Mapping[str, str] | None = None,
    features: Any = None,
    split: str | None = None,
    validation: float = 0.2,
    labels_per_class: int | None = None,
    freeze: bool = False,
    lora: bool = False,
    layer_decay: float | None = None,
    from_scratch: bool = False,
    seed: int = 0,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    early_stopping: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Run:
    """Fine-tune a checkpoint with a head for a task.

    Args:
        source: folder or Hub id of a pre-trained model: a plugin's, or one of transformers' own.
        data: labelled rows, see `data.load_rows`.
        out: folder for the result; while training it holds `checkpoints/`, from which an interrupted call goes on.
        task: one of `heads.TASKS`.
        label: column of the classes, or of the class maps; default the first of "label", "labels", "class", "target".
        columns, split: see `data.load_rows`. features: see `data.load_for`.
        validation: share of each class that is held out, on which the best step is chosen, in (0, 1).
        labels_per_class: use at most so many of the remaining rows of each class.
        freeze: train the head alone. lora: train adapters and the head; they are merged at the end.
        layer_decay: factor of the learning rate from block to block towards the input, in (0, 1].
        from_scratch: leave the weights of `source` out: the same model without pre-training, to compare with.
        seed: of the head, the split and the order.
        steps, epochs, batch_size, learning_rate, early_stopping, arguments: see `pretrain`; default `RECIPE`.
        overwrite: start anew although `out` holds a finished or another run.
    Returns:
        The record of the run; its accuracy is kept in the folder's results beside that of the most frequent class.
    Raises:
        ValueError: no head for the task, no labels, unknown names or values; other settings than the interrupted run's.
        FileExistsError: `out` holds something that is no interrupted run, and `overwrite` is false.
    """
    from transformers import AutoConfig, set_seed

    import hub_mim
    from hub_mim import heads, label_maps, loading, plugins

    hub_mim.register()
    out = Path(out)
    earlier, looked = interrupted_run(out, overwrite), written(out)
    loading.check_loadable(source)
    told = loading.read_config(source)
    method = plugins.method_or_native(told["model_type"], told.get("architectures"))
    config = AutoConfig.from_pretrained(str(source))
    kind = heads.head_class(method, config, task)
    processor = loading.load_processor(source)
    rows = load_for(method, data, features=features, split=split, columns=columns)
    if task == "segmentation":
        if labels_per_class is not None:
            raise ValueError(
                "labels_per_class needs one class a row, and here each pixel has one; take fewer rows instead"
            )
        chosen, classes, train, held_out = label_maps.labelled(rows, label, validation, seed)
    else:
        chosen, classes, train, held_out = _labelled(rows, label, validation, labels_per_class, seed)
    run = Run(
        method=method.name,
        data=name_of(data),
        fingerprint=fingerprint(rows),
        data_licence=licence_of(data),
        columns=dict(columns) if columns else None,
        split=split,
        validation=validation,
        rows=len(train),
        validation_rows=len(held_out),
        seed=seed,
        recipe=dict(RECIPE),
        init_from=str(source),
        lora=lora,
        early_stopping=early_stopping,
        task={
            "task": task,
            "label": chosen,
            "labels_per_class": labels_per_class,
            "freeze": freeze,
            "layer_decay": layer_decay,
            "from_scratch": from_scratch,
        },
    ).stamp()
    run.distribution, run.version = plugins.origin(method.name)
    plan = dataclasses.replace(method, recipe=RECIPE)
    run.arguments = given_arguments(plan, steps, epochs, batch_size, learning_rate, arguments or {})
    set_seed(seed)
    config.id2label, config.label2id = dict(enumerate(classes)), {name: number for number, name in enumerate(classes)}
    model = kind(_for_class(kind, config))
    if not from_scratch:
        load_matching(model, str(source))
    model = _prepare(model, method, source, run, freeze, lora, layer_decay)
    run.config = json.loads(model.config.to_json_string(use_diff=False))
    with open_folder(out, run, earlier, looked) as resume:
        trainer = _trainer(method, model, processor, train, held_out, run, training_arguments(run, out, True))
        stopping.train(trainer, resume)
        _finish(trainer, processor, held_out, classes, run, out)
    return run


def _for_class(kind: Any, config: Any) -> Any:
    """Return a configuration that fits a head of another type than the checkpoint's, such as a ViT's for MAE."""
    if isinstance(config, kind.config_class):
        return config
    known = kind.config_class().to_dict()
    own = {name: value for name, value in config.to_dict().items() if name in known}
    left_out = ("model_type", "architectures", "transformers_version")
    return kind.config_class(**{name: value for name, value in own.items() if name not in left_out})


def _labelled(
    rows: Any, label: str | None, validation: float, per_class: int | None, seed: int
) -> tuple[str, list[str], Any, Any]:
    """Return the label's column, the names of the classes, rows to learn from and held-out ones, `labels` as numbers."""
    import numpy as np

    from hub_mim.probes import stratified_split
    from hub_mim.protocols import few, label_column, read_labels

    if not 0 < validation < 1:
        raise ValueError(
            f"the validation share is {validation}; it must lie between 0 and 1, for the best step is chosen on it"
        )
    if not hasattr(rows, "__len__"):
        raise ValueError("a stream cannot be fine-tuned on, because its classes are not known; leave streaming out")
    labels = read_labels(rows, label)
    chosen = label_column(rows, label)
    if labels.dtype.kind == "f":
        raise ValueError(f"the labels in {chosen!r} are quantities ({len(np.unique(labels))} values), not classes")
    classes, numbers = np.unique(labels, return_inverse=True)
    train, held = stratified_split(labels, validation, seed)
    if per_class is not None:
        train = train[few(labels[train], per_class, seed)]
    lost = set(range(len(classes))) - set(numbers[train].tolist())
    if lost or len(held) == 0:
        raise ValueError(f"a class of {chosen!r} has too few rows to learn from and to hold out; the least is two")
    told = rows.remove_columns([chosen]).add_column("labels", numbers.tolist())
    return chosen, _class_names(rows, chosen, classes), told.select(train.tolist()), told.select(held.tolist())


def _class_names(rows: Any, label: str, classes: np.ndarray) -> list[str]:
    """Return the names of the classes: those of a `datasets.ClassLabel`, else the values."""
    feature = getattr(rows, "features", {}).get(label)
    names = getattr(feature, "names", None)
    return [names[int(value)] if names else str(value) for value in classes]


def _prepare(
    model: Any, method: Method, source: Any, run: Run, freeze: bool, lora: bool, layer_decay: float | None
) -> Any:
    """Choose what is trained, and how fast."""
    from hub_mim.heads import decayed_groups, freeze_encoder, new_parts

    if freeze and lora:
        raise ValueError("freeze leaves nothing for lora to adapt; choose one")
    if freeze:
        freeze_encoder(model)
    if layer_decay is not None:
        if lora:
            raise ValueError("layer_decay and lora do not go together; choose one")
        given = run.arguments
        model.parameter_groups = decayed_groups(
            model, given["learning_rate"], layer_decay, given.get("weight_decay", 0.0)
        )
    if lora:
        if not method.lora_targets:
            method = dataclasses.replace(method, lora_targets=_projections(model))
        model = add_adapters(model, method, str(source), new_parts(model))
    return model


def _projections(model: Any) -> tuple[str, ...]:
    """Return the last names of an encoder's query and value projections, for models whose plugin declares none."""
    known = ("q_proj", "v_proj", "query", "value")
    found = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    names = tuple(name for name in known if name in found)
    if not names:
        raise ValueError(f"no query and value projections in {type(model).__name__}; fine-tune it whole")
    return names


class LabelCollator:
    """Encode rows without their labels, and put these beside as int64 (B,)."""

    def __init__(self, processor: Any, in_bytes: Any = None):
        self.collate = Collator(processor, in_bytes=in_bytes)

    def __call__(self, rows: Any) -> dict[str, Any]:
        """Return the batch."""
        import torch

        labels = torch.tensor([row["labels"] for row in rows])
        return self.collate([{name: value for name, value in row.items() if name != "labels"} for row in rows]) | {
            "labels": labels
        }


def _collator(processor: Any, run: Run, plain: Any) -> Any:
    from hub_mim.label_maps import MapCollator

    kind = MapCollator if run.task["task"] == "segmentation" else LabelCollator
    return kind(processor, plain)


def _trainer(
    method: Method, model: Any, processor: Any, train: Any, held_out: Any, run: Run, arguments: Any
) -> MaskedTrainer:
    callbacks: list[Any] = [ProgressLine()]
    if run.early_stopping is not None:
        callbacks.append(EarlyStopping(run.early_stopping))
    travel = in_bytes(processor)
    return MaskedTrainer(
        model=model,
        args=arguments,
        train_dataset=Rows(train),
        eval_dataset=Rows(held_out),
        data_collator=_collator(processor, run, travel.processor if travel else None),
        callbacks=callbacks,
        on_device=OnDevice(travel.table) if travel else None,
    )


def _finish(trainer: MaskedTrainer, processor: Any, held_out: Any, classes: list[str], run: Run, out: Path) -> None:
    """Judge what is kept on the held-out rows, then write the folder on the main process."""
    from hub_mim import label_maps, sharing
    from hub_mim.training import kept_model, record_training

    record_training(trainer, run)
    final = trainer.evaluate()
    run.losses |= {name: value for name, value in final.items() if name.startswith("eval_loss")}
    run.status, run.ended = "finished", now()
    model = kept_model(trainer, run)
    if trainer.is_world_process_zero():
        vars(model).pop("parameter_groups", None)
        measure = label_maps.results if run.task["task"] == "segmentation" else _results
        results = measure(model, processor, held_out, run)
        run.losses[results[0].metric_type] = results[0].metric_value
        sharing.save(out, model, processor, run=run, results=results, overwrite=True)
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _results(model: Any, processor: Any, held_out: Any, run: Run) -> list[Any]:
    """Return the accuracy on the held-out rows, and that of always naming the most frequent class."""
    import numpy as np
    import torch

    from hub_mim.data import batches
    from hub_mim.results import Result, finetuning_facts

    model.eval()
    collate, right = LabelCollator(processor), []
    for part in batches(held_out, 64):
        batch = {name: value.to(model.device) for name, value in collate(part).items()}
        with torch.no_grad():
            right += (model(**batch).logits.argmax(-1) == batch["labels"]).tolist()
    labels = np.array(held_out["labels"])
    frequent = float((labels == np.bincount(labels).argmax()).mean())
    facts = finetuning_facts(run, len(held_out))
    return [
        Result(metric_type="accuracy", metric_value=float(np.mean(right)), **facts),
        Result(metric_type="accuracy (most frequent class)", metric_value=frequent, **facts),
    ]
