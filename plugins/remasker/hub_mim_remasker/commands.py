"""`hub-mim impute`: fill the gaps of a table file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from hub_mim import arguments as given
from hub_mim.commands.options import Json, Overwrite
from hub_mim.console import next_steps, print_json, print_table, say


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(impute)


def impute(
    table: Annotated[
        Path, typer.Argument(help="csv, tsv or parquet with gaps; it is not changed.", callback=given.file)
    ],
    out: Annotated[Path, typer.Option(help="The filled table: csv, tsv or parquet.", callback=given.new_file)],
    model: Annotated[
        str | None,
        typer.Option(help="Trained model (folder or Hub id); default: train one.", callback=given.checkpoint),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the model; default: beside the output.", callback=given.new_folder)
    ] = None,
    n_imputations: Annotated[int, typer.Option(help="Fillings; more than 1 are drawn, each into a file.", min=1)] = 1,
    legacy: Annotated[bool, typer.Option("--legacy", help="The authors' model and recipe.")] = False,
    max_steps: Annotated[int | None, typer.Option(help="Optimiser steps.", min=1)] = None,
    compare: Annotated[bool, typer.Option(help="Measure on held-out cells beside scikit-learn's imputers.")] = True,
    seed: Annotated[int, typer.Option(min=0, max=given.SEEDS, help="Decides weights, order, masks and draws.")] = 0,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="1 or 2 trainings at a time; default: as cores allow.")
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Fill the gaps of a table with ReMasker, and measure how well on cells held out.

    Example: hub-mim impute data.csv --out filled.csv
    """
    from transformers.utils import logging

    from hub_mim_remasker.filling import JOBS, fill_file

    logging.disable_progress_bar()  # transformers' own; ours is one line
    filling = fill_file(
        table,
        out,
        model=model,
        save=save,
        n_imputations=n_imputations,
        legacy=legacy,
        max_steps=max_steps,
        compare=compare,
        seed=seed,
        jobs=jobs or JOBS,
        overwrite=overwrite,
        progress=say,
    )
    if json:
        print_json(filling.to_dict())
    else:
        print_comparison(filling)
    for what, path in filling.files.items():
        say(f"{what}: {path}")
    steps = [f"hub-mim impute other.csv --out other-filled.csv --model {filling.files['model']}"]
    if model is None:
        steps.append(f"hub-mim info {filling.files['model']}")
    next_steps(*steps)


def print_comparison(filling: Any) -> None:
    """Print the errors per column, and where they come from."""
    if not filling.comparison:
        return
    names = list(filling.comparison[0].errors)
    rows = [[e.column, e.kind, e.missing, e.held_out, *(e.errors[name] for name in names)] for e in filling.comparison]
    print_table(("COLUMN", "KIND", "MISSING", "HELD OUT", *(name.upper() for name in names)), rows)
    print(filling.explanation)
