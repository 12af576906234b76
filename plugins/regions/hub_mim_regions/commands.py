"""`hub-mim regions`: find the regions of pictures and keep them in one file."""

from pathlib import Path
from typing import Annotated

import typer

from hub_mim import arguments as given
from hub_mim.commands.options import Json, Overwrite
from hub_mim.console import next_steps, print_json, print_pairs

# as in sources and boxes, which import numpy
BACKENDS = ("crop", "detector", "grid", "backbone", "stored")
BOX_FORMS = ("xyxy", "xywh", "cxcywh")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(regions)


def regions(
    images: Annotated[
        str,
        typer.Argument(
            help="Folder of pictures, a table with an image column, or stored regions.", callback=given.source
        ),
    ],
    out: Annotated[Path, typer.Argument(help="File ending in .parquet.", callback=given.new_file)],
    backend: Annotated[
        str,
        typer.Option(
            help="detector, grid, backbone, crop, or stored (tsv, npz, parquet).",
            callback=given.one_of(*BACKENDS),
        ),
    ] = "detector",
    model: Annotated[
        str | None, typer.Option(help="Detector or backbone: folder or Hub id.", callback=given.checkpoint)
    ] = None,
    max_regions: Annotated[int, typer.Option(min=1, help="Regions of a picture.")] = 36,
    grid: Annotated[int, typer.Option(min=1, help="Cells a side, of the grid.")] = 6,
    size: Annotated[int, typer.Option(min=1, help="Pixels a side, of a crop.")] = 16,
    box_form: Annotated[
        str, typer.Option(help="xyxy, xywh or cxcywh, of given boxes in pixels.", callback=given.one_of(*BOX_FORMS))
    ] = "xyxy",
    split: Annotated[str | None, typer.Option(help="The split of the data.")] = None,
    id: Annotated[
        str | None, typer.Option(help="Column whose values name the pictures; default their numbers.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 8,
    show: Annotated[
        Path | None,
        typer.Option(help="Picture to write, of the first pictures with their boxes.", callback=given.new_file),
    ] = None,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out pictures that cannot be read, and say which.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Find the regions of pictures and keep boxes, features and labels in one file; goes on where it was interrupted.

    Example: hub-mim regions pictures/ regions.parquet --backend grid --model facebook/dinov2-base
    """
    from hub_mim_regions.extraction import extract

    options = {"detector": {"regions": max_regions}, "grid": {"grid": grid}, "crop": {"size": size}}.get(backend, {})
    done = extract(
        images,
        out,
        backend=backend,
        model=model,
        options=options,
        max_regions=max_regions,
        box_form=box_form,
        split=split,
        id=id,
        batch_size=batch_size,
        show=show,
        skip_unreadable=skip_unreadable,
        overwrite=overwrite,
    )
    if json:
        print_json(done)
    else:
        print_pairs(done)
    next_steps(f"hub-mim pretrain uniter --data {out} --out runs/pairs  # beside a column of text")
