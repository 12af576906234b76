"""The `hub-mim` command: one short function per verb, each a thin layer over a public function.

Nothing heavy is imported here: every verb imports what it needs when it runs, so that `hub-mim --help` stays fast.
"""

import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from hub_mim import __version__
from hub_mim import arguments as given
from hub_mim.console import Stopped, next_steps, print_json, print_pairs, print_table, say
from hub_mim.embedding import DTYPES
from hub_mim.features import POOLINGS
from hub_mim.heads import TASKS
from hub_mim.newplugin import MODALITIES
from hub_mim.secrets import hide
from hub_mim.showing import WHAT
from hub_mim.starting import choose_preset

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout instead of text.")]
Map = Annotated[
    list[str], typer.Option("--map", help="column=argument: feed this column as that argument; repeatable.")
]
Launch = Annotated[
    str | None, typer.Option(help='Train on so many processes of this machine; "auto": one a GPU. See also torchrun.')
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps; overrides epochs.")]
EarlyStopping = Annotated[int | None, typer.Option(min=1, help="Stop after this many evaluations without gain.")]
Pooling = Annotated[
    str,
    typer.Option(help="auto, pooler, mean, first or max.", callback=given.one_of(*POOLINGS)),
]
Skip = Annotated[bool, typer.Option("--skip-unreadable", help="Leave out rows that cannot be read, and say which.")]
Features = Annotated[
    str | None,
    typer.Option(
        help="A second table, for methods that take one: of the nodes of a table of edges.", callback=given.source
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=given.SEEDS, help="Seed of weights, split, order and masks.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]

Endpoint = Annotated[
    str | None,
    typer.Option(help="Address of the Hub; default HF_ENDPOINT, else huggingface.co.", callback=given.address),
]

UsageError: Any = typer.BadParameter.__base__  # typer has no name of its own for it

app = typer.Typer(
    name="hub-mim",
    help="A plugin hub of masked-modelling methods: pre-train, judge and share them.",
    epilog="Example: hub-mim pretrain remasker --data table.csv --out runs/table",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere on the line.")] = False,
) -> None:
    """A plugin hub of masked-modelling methods: pre-train, judge and share them."""
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def ls(
    hub: Annotated[bool, typer.Option("--hub", help="List the checkpoints that a Hub holds instead.")] = False,
    search: Annotated[str | None, typer.Option(help="With --hub: part of a name.")] = None,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """List the installed methods and where each comes from, or the checkpoints of a Hub.

    Example: hub-mim ls --hub --search wine
    """
    if hub:
        _ls_hub(search, endpoint, json)
        return
    if search is not None or endpoint is not None:
        raise typer.BadParameter("--search and --endpoint go with --hub")
    from hub_mim import plugins

    rows = [
        (
            name,
            method.title,
            ", ".join(method.modalities),
            method.licence,
            " ".join(plugins.origin(name)),
            plugins.source(name),
        )
        for name, method in sorted(plugins.methods().items())
    ]
    if json:
        keys = ("name", "title", "modalities", "licence", "distribution", "source")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
    else:
        print_table(("METHOD", "TITLE", "MODALITIES", "LICENCE", "FROM", "SOURCE"), rows)
    for plugin in plugins.broken():
        say(f"{plugin.name} ({plugin.distribution} {plugin.version}) is set apart: {plugin.error}; see hub-mim doctor")


def _ls_hub(search: str | None, endpoint: str | None, json: bool) -> None:
    from hub_mim.transfer import listed

    found = listed(search=search, endpoint=endpoint)
    if json:
        print_json(found)
        return
    rows = [
        (
            each["repository"] + (" (private)" if each["private"] else ""),
            (each["method"] or "?") + ("" if each["installed"] else " (not installed)"),
            ", ".join(each["tags"]),
            each["modified"],
        )
        for each in found
    ]
    print_table(("REPOSITORY", "METHOD", "TAGS", "CHANGED"), rows)


@app.command()
def info(name: Annotated[str, typer.Argument(help="A method, or the folder of a run.")], json: Json = False) -> None:
    """Tell about a method (paper, presets, recipe) or about a finished run.

    Example: hub-mim info remasker
    """
    facts = _run_facts(Path(name)) if (Path(name) / "run.json").is_file() else _method_facts(name)
    if json:
        print_json(facts)
    else:
        print_pairs({key: _flat(value) for key, value in facts.items() if key not in ("config", "history")})


def _method_facts(name: str) -> dict[str, Any]:
    from hub_mim import plugins

    method = _method(name)
    distribution, version = plugins.origin(method.name)
    facts = {key: getattr(method, key) for key in ("name", "title", "paper", "licence", "modalities", "tags")}
    facts |= {"from": f"{distribution} {version}", "auto classes": dict(method.auto)}
    facts |= {"presets": {key: dict(value) for key, value in method.presets.items()}, "recipe": dict(method.recipe)}
    return facts | {"evaluators": sorted(method.evaluators), "adapters (LoRA) on": list(method.lora_targets)}


def _run_facts(folder: Path) -> dict[str, Any]:
    from hub_mim.run import Run

    return Run.load(folder).to_dict()


def _flat(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{key}={{}}" if item == {} else f"{key}={_flat(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


@app.command()
def doctor(json: Json = False) -> None:
    """Look for what is broken here: plugins, libraries, accelerators.

    Example: hub-mim doctor
    """
    import dataclasses

    from hub_mim.doctor import diagnose

    findings = diagnose()
    if json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"[{finding.level}] {finding.text}" + (f"\n        {finding.advice}" if finding.advice else ""))
    raise typer.Exit(1 if any(finding.level == "error" for finding in findings) else 0)


@app.command()
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
    method = _method(name)
    with given.usage():
        choose_preset(method, preset, None)
    _launched(launch)
    _quiet()
    from hub_mim.training import pretrain as run_pretrain

    run = run_pretrain(
        name,
        data,
        out,
        preset=preset,
        config=_assignments(config, "--config"),
        processor=_assignments(processor, "--processor"),
        columns=_columns(map),
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
        arguments=_assignments(set, "--set"),
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
        | _assignments([each for each in augment if "=" in each], "--augment"),
        overwrite=overwrite,
    )
    if not _is_main_process():
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


@app.command()
def evaluate(
    folder: Annotated[str, typer.Argument(help="Folder of a checkpoint, or a Hub id.", callback=given.checkpoint)],
    data: Annotated[str, typer.Option(help="Rows to judge it on; see hub-mim pretrain --help.", callback=given.source)],
    protocol: Annotated[
        str | None,
        typer.Option(
            help="linear, mae-linear, hear, planetoid-probe, knn, few-label, finetune, dense, zero-shot, "
            "image-text-retrieval, retrieval, rankme, "
            "or the method's own."
        ),
    ] = None,
    map: Map = [],  # noqa: B006
    features: Features = None,
    split: Annotated[str | None, typer.Option(help="The split of the data to judge on.")] = None,
    train: Annotated[
        str | None,
        typer.Option(help="Rows that a probe learns from; default a part of the data.", callback=given.source),
    ] = None,
    train_split: Annotated[str | None, typer.Option(help="The split of these; alone, it is that of the data.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    seed: Seed = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Seeds of a probe; the interval is over these.")] = 3,
    pooling: Pooling = "auto",
    option: Annotated[list[str], typer.Option(help="name=value of the protocol; repeatable.")] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(min=1, help="Use at most this many rows.")] = None,
    save: Annotated[bool, typer.Option("--save", help="Keep the results in the folder and in its card.")] = False,
    json: Json = False,
) -> None:
    """Judge a checkpoint beside a random model: masked loss, probes of frozen features, the method's own measures.

    Example: hub-mim evaluate runs/table --data test.csv
    """
    import dataclasses

    from hub_mim.evaluation import evaluate as run_evaluate

    _quiet()
    results = run_evaluate(
        folder,
        data,
        protocol=protocol,
        columns=_columns(map),
        features=features,
        split=split,
        train=train,
        train_split=train_split,
        label=label,
        seed=seed,
        repeats=repeats,
        pooling=pooling,
        options=_assignments(option, "--option"),
        limit=limit,
        save=save,
    )
    if json:
        print_json([dataclasses.asdict(result) for result in results])
    else:
        rows = [
            (r.metric_type, r.metric_value, _interval(r.interval), r.protocol, r.dataset_name, r.split) for r in results
        ]
        print_table(("MEASURE", "VALUE", "95 % INTERVAL", "PROTOCOL", "DATA", "SPLIT"), rows)


def _interval(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"


@app.command()
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
    _launched(launch)
    _quiet()
    from hub_mim.finetuning import finetune as run_finetune

    run = run_finetune(
        folder,
        data,
        out,
        task=task,
        label=label,
        columns=_columns(map),
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
        arguments=_assignments(set, "--set"),
        overwrite=overwrite,
    )
    if not _is_main_process():
        return
    if json:
        print_json(run.to_dict())
    else:
        print_pairs({"made": out, "rows": run.rows, "held out": run.validation_rows, "steps": run.steps} | run.losses)
    next_steps(f"hub-mim info {out}", f"hub-mim push {out} OWNER/NAME")


@app.command()
def embed(
    folder: Annotated[str, typer.Argument(help="Folder of a checkpoint, or a Hub id.", callback=given.checkpoint)],
    data: Annotated[str, typer.Option(help="Rows to embed; see hub-mim pretrain --help.", callback=given.source)],
    out: Annotated[Path, typer.Option(help="File ending in .parquet or .npy.", callback=given.new_file)],
    map: Map = [],  # noqa: B006
    features: Features = None,
    split: Annotated[str | None, typer.Option(help="The split of the data.")] = None,
    id: Annotated[str | None, typer.Option(help="Column whose values name the rows; default their numbers.")] = None,
    per: Annotated[
        str | None, typer.Option(help="row, or what the method embeds besides, such as frame or node.")
    ] = None,
    pooling: Pooling = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 64,
    dtype: Annotated[str, typer.Option(help="float32, bf16 or fp16.", callback=given.one_of(*DTYPES))] = "float32",
    streaming: Annotated[bool, typer.Option("--streaming", help="Read the rows while embedding.")] = False,
    skip_unreadable: Skip = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write one vector a row, or a part of it, into a parquet or npy file; goes on where an interrupted call stopped.

    Example: hub-mim embed runs/table --data table.csv --out vectors.parquet
    """
    import dataclasses

    from hub_mim.embedding import embed as run_embed

    _quiet()
    done = run_embed(
        folder,
        data,
        out,
        columns=_columns(map),
        features=features,
        split=split,
        streaming=streaming,
        id=id,
        per=per,
        pooling=pooling,
        batch_size=batch_size,
        dtype=dtype,
        skip_unreadable=skip_unreadable,
        overwrite=overwrite,
    )
    if json:
        print_json(dataclasses.asdict(done))
    else:
        left_out = {"left out": len(done.skipped)} if done.skipped else {}
        print_pairs({"made": done.path, "rows": done.rows, "width": done.width} | left_out)
    if out.suffix == ".parquet":
        next_steps(f"datasets.Dataset.from_parquet({str(out)!r}).with_format('numpy')['embedding']")
    else:
        next_steps(f"numpy.load({str(out)!r})")


@app.command()
def show(
    folder: Annotated[
        str, typer.Argument(help="Folder of a pre-training checkpoint, or a Hub id.", callback=given.checkpoint)
    ],
    data: Annotated[str | None, typer.Option(help="Rows; see hub-mim pretrain --help.", callback=given.source)] = None,
    image: Annotated[list[Path], typer.Option(help="A picture instead of rows; repeatable.", callback=given.file)] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Picture to write.", callback=given.new_file)] = Path("shown.png"),
    row: Annotated[int, typer.Option(min=0, help="Number of the first row.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="How many rows.")] = 4,
    what: Annotated[
        str,
        typer.Option(help="prediction, attention or embedding.", callback=given.one_of(*WHAT)),
    ] = "prediction",
    layer: Annotated[int | None, typer.Option(help="Of the attention; from the end where below 0.")] = None,
    label: Annotated[str | None, typer.Option(help="Column that colours the embedding's points.")] = None,
    map: Map = [],  # noqa: B006
    features: Features = None,
    split: Annotated[str | None, typer.Option(help="The split of the data.")] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw rows as a checkpoint sees them: masked, predicted, original; or where it looks, or where it puts them.

    Example: hub-mim show runs/table --data table.csv --row 7 --out shown.png
    """
    from hub_mim.showing import show as run_show

    _quiet()
    if (data is None) == (not image):
        raise typer.BadParameter("give rows (--data) or pictures (--image)")
    options = {name: value for name, value in {"layer": layer, "label": label}.items() if value is not None}
    path = run_show(
        folder,
        _pictures(image) if data is None else data,
        out,
        row=row,
        count=count,
        columns=_columns(map),
        features=features,
        split=split,
        seed=seed,
        what=what,
        overwrite=overwrite,
        **options,
    )
    if json:
        print_json({"picture": str(path)})
    else:
        print_pairs({"made": path})


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.", callback=given.folder)],
    out: Annotated[Path, typer.Option(help="Page to write.", callback=given.new_file)] = Path("report.html"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write one page about a run, or the comparison of several: curves, results, settings, how to repeat.

    Example: hub-mim report runs/first runs/second --out report.html
    """
    from hub_mim.reporting import report as run_report

    path = run_report(runs, out, overwrite=overwrite)
    if json:
        print_json({"page": str(path)})
    else:
        print_pairs({"made": path})


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help="A method; hub-mim ls shows them.")],
    file: Annotated[
        Path,
        typer.Argument(help="The authors' checkpoint: torch, safetensors, npz or msgpack.", callback=given.file),
    ],
    out: Annotated[Path, typer.Argument(help="Folder for the converted checkpoint.", callback=given.new_folder)],
    config: Annotated[list[str], typer.Option(help="field=value that the weights do not tell; repeatable.")] = [],  # noqa: B006
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Turn an authors' checkpoint into a folder that AutoModel loads; nothing is guessed.

    Example: hub-mim convert remasker authors.pth converted
    """
    from hub_mim.conversion import convert as run_convert

    _method(name)
    _quiet()
    report = run_convert(name, file, out, config=_assignments(config, "--config"), overwrite=overwrite)
    if json:
        print_json(report.to_dict())
    else:
        print(report)
    next_steps(f"hub-mim info {name}", f"AutoModel.from_pretrained({str(out)!r})  # after import hub_mim")


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a checkpoint.", callback=given.folder)],
    repository: Annotated[
        str, typer.Argument(help="OWNER/NAME; without an owner, your own.", callback=given.repository)
    ],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; made if it is not there.")] = None,
    tag: Annotated[str | None, typer.Option(help="Name to give the commit, such as v1.0.")] = None,
    message: Annotated[str | None, typer.Option(help="Of the commit.")] = None,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Open a pull request instead.")] = False,
    remote_shim: Annotated[
        bool, typer.Option("--remote-shim", help="Add two lines of code for users of trust_remote_code.")
    ] = False,
    endpoint: Endpoint = None,
    json: Json = False,
) -> None:
    """Push a checkpoint to a Hub in one commit: weights, processor, card, run.json, results.

    Example: hub-mim push runs/table ada/table --tag v1.0
    """
    import dataclasses

    from hub_mim.transfer import push as run_push

    _quiet()
    pushed = run_push(
        folder,
        repository,
        private=private,
        revision=revision,
        tag=tag,
        message=message,
        pull_request=pull_request,
        remote_shim=remote_shim,
        endpoint=endpoint,
    )
    if json:
        print_json(dataclasses.asdict(pushed))
    else:
        count = len(pushed.changed)
        changed = f"{count} file{'s' * (count != 1)}" if count else "nothing: all is there already"
        print_pairs({"made": pushed.url, "revision": pushed.revision, "commit": pushed.commit, "changed": changed})
    next_steps(
        f"AutoModel.from_pretrained({pushed.repository!r}, revision={pushed.commit!r})  # after import hub_mim",
        f"hub-mim pull {pushed.repository} copy --revision {pushed.commit}",
    )


@app.command()
def pull(
    repository: Annotated[str, typer.Argument(help="OWNER/NAME.", callback=given.repository)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.", callback=given.new_folder)],
    revision: Annotated[str | None, typer.Option(help="Branch, tag, commit, or refs/pr/1.")] = None,
    endpoint: Endpoint = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Pull a checkpoint from a Hub into a folder; code and pickles are left out.

    Example: hub-mim pull ada/table table --revision v1.0
    """
    from hub_mim.transfer import pull as run_pull

    _quiet()
    commit = run_pull(repository, folder, revision=revision, overwrite=overwrite, endpoint=endpoint)
    if json:
        print_json({"folder": str(folder), "commit": commit})
    else:
        print_pairs({"made": folder, "commit": commit})
    next_steps(f"AutoModel.from_pretrained({str(folder)!r})  # after import hub_mim", f"hub-mim info {folder}")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the method: lower-case letters, digits and hyphens.")],
    modality: Annotated[
        str,
        typer.Option(
            help="image, audio, text, table, graph or image-text.",
            callback=given.one_of(*MODALITIES),
        ),
    ] = "image",
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default hub-mim-NAME.", callback=given.new_folder)
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a plugin that works: a small masked autoencoder to turn into your method.

    Example: hub-mim new my-method --modality audio
    """
    from hub_mim.newplugin import new_plugin

    with given.usage():
        folder = new_plugin(name, out, modality=modality, overwrite=overwrite)
    say(f"made {folder}")
    next_steps(f"pip install -e {folder}", f"hub-mim check {name} --fast", f"hub-mim info {name}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="A method; hub-mim ls shows them.")],
    fast: Annotated[bool, typer.Option("--fast", help="Leave out checks that start processes or a compiler.")] = False,
    json: Json = False,
) -> None:
    """Check a plugin against the contract that every plugin keeps.

    Example: hub-mim check remasker --fast
    """
    import dataclasses

    _method(name)
    _quiet()
    from hub_mim.testing import check_plugin

    results = check_plugin(name, on_fail=None, fast=fast, callback=None if json else _say_result)
    if json:
        print_json([dataclasses.asdict(result) for result in results])
    failed = [result for result in results if result.status == "failed"]
    counts = {status: sum(r.status == status for r in results) for status in ("passed", "failed", "skipped")}
    say(f"\n{name}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    raise typer.Exit(1 if failed else 0)


def _say_result(result: Any) -> None:
    print(f"{result.status:8} {result.check}" + (f"  {result.message}" if result.message else ""), flush=True)


@app.command()
def demo(
    out: Annotated[
        Path,
        typer.Option(help="Folder for the model, the card and the pictures.", callback=given.new_folder),
    ] = Path("demo"),
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Show the hub at work on real data, with nothing to download.

    Example: hub-mim demo
    """
    from hub_mim.demo import run_demo

    _quiet()
    report = run_demo(out, seed=seed, overwrite=overwrite)
    if json:
        print_json(report)


def _launched(asked: str | None) -> None:
    """Where several processes are asked for, and this is none of them, start them with the same arguments, and end."""
    from hub_mim.launching import count_of, end_with_launcher, launch, running, without

    end_with_launcher()
    if asked is not None and not running():
        with given.usage():
            count = count_of(asked)
        raise typer.Exit(launch(count, without(_ARGUMENTS, "--launch")))


_ARGUMENTS: list[str] = []  # what `main` was called with


def _quiet() -> None:
    """Keep the libraries' own progress bars off a log, and transformers' off the terminal: hub-mim prints its own line."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()


def _method(name: str) -> Any:
    from hub_mim.plugins import get_method

    with given.usage():
        return get_method(name)


def _pictures(paths: list[Path]) -> list[dict[str, Any]]:
    """Return a row for each picture.

    Raises:
        ValueError: a file that is none.
    """
    from PIL import Image, UnidentifiedImageError

    rows = []
    for path in paths:
        try:
            rows.append({"images": Image.open(path).convert("RGB")})
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} is no picture that can be read ({error})") from None
    return rows


def _assignments(items: list[str], option: str) -> dict[str, Any]:
    """Turn `field=value` strings into a mapping; values are read as JSON where they are JSON, else as text."""
    import json

    values = {}
    for item in items:
        key, sign, text = item.partition("=")
        if not (key and sign):
            raise typer.BadParameter(f"{option} takes field=value, not {item!r}")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = {"True": True, "False": False, "None": None}.get(text, text)
    return values


def _columns(items: list[str]) -> dict[str, str] | None:
    pairs = {}
    for item in items:
        column, sign, argument = item.partition("=")
        if not (column and sign and argument):
            raise typer.BadParameter(f"--map takes column=argument, not {item!r}")
        pairs[column] = argument
    return pairs or None


def _is_main_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0 on success, 2 on wrong usage, 1 on failure with one sentence on stderr."""
    from hub_mim.plugins import register_commands

    arguments = sys.argv[1:] if arguments is None else arguments
    _ARGUMENTS[:] = arguments
    debug = "--debug" in arguments or bool(os.environ.get("HUB_MIM_DEBUG"))
    register_commands(app)
    try:
        status = app([each for each in arguments if each != "--debug"], prog_name="hub-mim", standalone_mode=False)
    except UsageError as error:
        sys.exit(_wrong_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        say("hub-mim: interrupted")
        sys.exit(130)
    except Stopped as told:
        if _is_main_process():
            say(f"hub-mim: {told}")
        sys.exit(0)
    except Exception as error:
        from hub_mim.launching import report

        line = f"hub-mim: error: {error}" if str(error) else f"hub-mim: error: {type(error).__name__}; see --debug"
        if debug or not report(error):
            say(hide(traceback.format_exc() if debug else line))
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _wrong_usage(error: Any) -> int:
    """Tell wrong usage in one sentence; a call without anything gets the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    if not _is_main_process():
        return 2
    verb = error.ctx.command_path if error.ctx else "hub-mim"
    message = error.format_message().rstrip(".")
    say(hide(f"hub-mim: error: {message[:1].lower()}{message[1:]}; see {verb} --help"))
    return 2
