"""Verbs that train: from rows, and from a checkpoint on labelled rows.

Nothing heavy is imported here: every verb imports what it needs when it runs, so that `hub-mim --help` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from hub_mim import arguments as given
from hub_mim.commands.options import (
    EarlyStopping,
    Features,
    Json,
    Launch,
    Map,
    Overwrite,
    Seed,
    Skip,
    Steps,
    assignments,
    columns_of,
    is_main_process,
    known_method,
    launched,
    quiet,
)
from hub_mim.console import next_steps, print_json, print_pairs
from hub_mim.heads import TASKS
from hub_mim.starting import choose_preset


def pretrain(
    name: Annotated[str, typer.Argument(help="A method; hub-mim ls shows them.")],
    data: Annotated[
        str, typer.Option(help="csv, tsv, parquet, jsonl, a folder, a Hub id, or sample:NAME.", callback=given.source)
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the run; continued if it was interrupted.", callback=given.new_folder)
    ],
    preset: Annotated[str | None, typer.Option(help="A size of the method; hub-mim info NAME lists them.")] = None,
    config: Annotated[list[str], typer.Option(help="field=value of the model's configuration; repeatable.")] = [],  # noqa: B006 (typer copies it)
    processor: Annotated[list[str], typer.Option(help="argument=value of the method's processor; repeatable.")] = [],  # noqa: B006
    map: Map = [],  # noqa: B006
    features: Features = None,
    split: Annotated[str | None, typer.Option(help="The split of the data to train on.")] = None,
    validation: Annotated[
        float,
        typer.Option(help="Share of rows held out, in [0, 1).", callback=given.between(0, 1, open_high=True)),
    ] = 0.1,
    seed: Seed = 0,
    steps: Steps = None,
    epochs: Annotated[
        float | None,
        typer.Option(
            help="Passes over the data; default: the method's recipe.", callback=given.between(0, open_low=True)
        ),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per step and process.")] = None,
    tokens_per_batch: Annotated[
        int | None, typer.Option(min=1, help="Tokens per step and process, in place of rows.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.", callback=given.between(0, open_low=True))
    ] = None,
    init_from: Annotated[
        str | None, typer.Option(help="Checkpoint (folder or Hub id) to start from.", callback=given.checkpoint)
    ] = None,
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters only.")] = False,
    early_stopping: EarlyStopping = None,
    set: Annotated[list[str], typer.Option(help="argument=value of TrainingArguments; repeatable.")] = [],  # noqa: B006
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the rows while training.")] = False,
    mfu: Annotated[bool, typer.Option("--mfu", help="Measure the share of the device's peak that is used.")] = False,
    skip_unreadable: Skip = False,
    skip_bad_steps: Annotated[
        bool,
        typer.Option("--skip-bad-steps", help="Skip steps whose gradient is no number, instead of ending the run."),
    ] = False,
    plain_steps: Annotated[
        bool,
        typer.Option("--plain-steps", help="Train a model of transformers' as transformers runs it, though slower."),
    ] = False,
    half_weights: Annotated[
        bool,
        typer.Option(
            "--half-weights", help="With --set bf16=true: weights in 16 bits, float32 copies in the optimiser."
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder to keep decoded pictures in, for later epochs and runs.", callback=given.new_folder),
    ] = None,
    cache_side: Annotated[
        int | None, typer.Option(min=1, help="Shorter side that cached pictures are shrunk to.")
    ] = None,
    draft_side: Annotated[
        int | None, typer.Option(min=1, help="Decode JPEG files smaller, down to so many pixels of the shorter side.")
    ] = None,
    augment: Annotated[
        list[str],
        typer.Option(
            help="crop, flip: as the paper's recipe has it; or with a value, as flip=0.5; repeatable.",
            callback=given.one_of("crop", "flip", valued=True),
        ),
    ] = [],  # noqa: B006
    launch: Launch = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Pre-train a method on your rows; the run's folder loads with AutoModel.

    Example: hub-mim pretrain remasker --data table.csv --out runs/table --preset tiny --epochs 50
    """
    method = known_method(name)
    with given.usage():
        choose_preset(method, preset, None)
    launched(launch)
    quiet()
    from hub_mim.training import pretrain as run_pretrain

    run = run_pretrain(
        name,
        data,
        out,
        preset=preset,
        config=assignments(config, "--config"),
        processor=assignments(processor, "--processor"),
        columns=columns_of(map),
        features=features,
        split=split,
        validation=validation,
        seed=seed,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        tokens_per_batch=tokens_per_batch,
        learning_rate=learning_rate,
        init_from=init_from,
        lora=lora,
        early_stopping=early_stopping,
        arguments=assignments(set, "--set"),
        streaming=streaming,
        mfu=mfu,
        skip_unreadable=skip_unreadable,
        skip_bad_steps=skip_bad_steps,
        plain_steps=plain_steps,
        half_weights=half_weights,
        cache=cache,
        cache_side=cache_side,
        draft_side=draft_side,
        augment={each: None for each in augment if "=" not in each}
        | assignments([each for each in augment if "=" in each], "--augment"),
        overwrite=overwrite,
    )
    if not is_main_process():
        return
    losses = run.losses
    if json:
        print_json(run.to_dict())
    else:
        print_pairs({"made": out, "rows": run.rows, "steps": run.steps} | losses | run.speed)
    next_steps(
        f'python -c "import hub_mim; from transformers import AutoModel; '
        f'print(AutoModel.from_pretrained({str(out)!r}).config)"',
        f"hub-mim evaluate {out} --data {data}",
    )


def finetune(
    folder: Annotated[
        str, typer.Argument(help="Folder of a pre-trained checkpoint, or a Hub id.", callback=given.checkpoint)
    ],
    data: Annotated[str, typer.Option(help="Labelled rows; see hub-mim pretrain --help.", callback=given.source)],
    out: Annotated[
        Path, typer.Option(help="Folder for the result; continued if it was interrupted.", callback=given.new_folder)
    ],
    task: Annotated[
        str,
        typer.Option(
            help="What the new head is for: classification or segmentation.",
            callback=given.one_of(*TASKS),
        ),
    ] = "classification",
    label: Annotated[str | None, typer.Option(help="Column of the classes.")] = None,
    map: Map = [],  # noqa: B006
    features: Features = None,
    split: Annotated[str | None, typer.Option(help="The split of the data.")] = None,
    validation: Annotated[
        float,
        typer.Option(
            help="Share of each class held out, in (0, 1).",
            callback=given.between(0, 1, open_low=True, open_high=True),
        ),
    ] = 0.2,
    labels_per_class: Annotated[int | None, typer.Option(min=1, help="Use so many labelled rows a class.")] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Train the head alone.")] = False,
    lora: Annotated[bool, typer.Option("--lora", help="Train low-rank adapters and the head.")] = False,
    layer_decay: Annotated[
        float | None,
        typer.Option(help="Learning rate's factor from block to block.", callback=given.between(0, 1, open_low=True)),
    ] = None,
    from_scratch: Annotated[bool, typer.Option("--from-scratch", help="Without pre-training, to compare.")] = False,
    seed: Seed = 0,
    steps: Steps = None,
    epochs: Annotated[
        float | None,
        typer.Option(help="Passes over the data; default 20.", callback=given.between(0, open_low=True)),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per step and process; default 32.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate; default 5e-4.", callback=given.between(0, open_low=True))
    ] = None,
    early_stopping: EarlyStopping = None,
    set: Annotated[list[str], typer.Option(help="argument=value of TrainingArguments; repeatable.")] = [],  # noqa: B006
    launch: Launch = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fine-tune a checkpoint on labelled rows; the result's folder loads with its auto class.

    Example: hub-mim finetune runs/pictures --data labelled --label species --out runs/species --layer-decay 0.75
    """
    launched(launch)
    quiet()
    from hub_mim.finetuning import finetune as run_finetune

    run = run_finetune(
        folder,
        data,
        out,
        task=task,
        label=label,
        columns=columns_of(map),
        features=features,
        split=split,
        validation=validation,
        labels_per_class=labels_per_class,
        freeze=freeze,
        lora=lora,
        layer_decay=layer_decay,
        from_scratch=from_scratch,
        seed=seed,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        early_stopping=early_stopping,
        arguments=assignments(set, "--set"),
        overwrite=overwrite,
    )
    if not is_main_process():
        return
    if json:
        print_json(run.to_dict())
    else:
        print_pairs({"made": out, "rows": run.rows, "held out": run.validation_rows, "steps": run.steps} | run.losses)
    next_steps(f"hub-mim info {out}", f"hub-mim push {out} OWNER/NAME")
