"""Verbs that judge and use a checkpoint: measures, vectors, pictures, pages.

Nothing heavy is imported here: every verb imports what it needs when it runs, so that `hub-mim --help` stays fast.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from hub_mim import arguments as given
from hub_mim.commands.options import Features, Json, Map, Overwrite, Pooling, Seed, Skip, assignments, columns_of, quiet
from hub_mim.console import next_steps, print_json, print_pairs, print_table
from hub_mim.embedding import DTYPES
from hub_mim.showing import WHAT


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

    quiet()
    results = run_evaluate(
        folder,
        data,
        protocol=protocol,
        columns=columns_of(map),
        features=features,
        split=split,
        train=train,
        train_split=train_split,
        label=label,
        seed=seed,
        repeats=repeats,
        pooling=pooling,
        options=assignments(option, "--option"),
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

    quiet()
    done = run_embed(
        folder,
        data,
        out,
        columns=columns_of(map),
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

    quiet()
    if (data is None) == (not image):
        raise typer.BadParameter("give rows (--data) or pictures (--image)")
    options = {name: value for name, value in {"layer": layer, "label": label}.items() if value is not None}
    path = run_show(
        folder,
        _pictures(image) if data is None else data,
        out,
        row=row,
        count=count,
        columns=columns_of(map),
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
