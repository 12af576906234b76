"""Options that verbs share, and what each verb does with them; plugins' verbs may use them too."""

import os
import sys
from typing import Annotated, Any

import typer

from hub_mim import arguments as given
from hub_mim.features import POOLINGS

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

ARGUMENTS: list[str] = []  # what `main` was called with


def launched(asked: str | None) -> None:
    """Where several processes are asked for, and this is none of them, start them with the same arguments, and end."""
    from hub_mim.launching import count_of, end_with_launcher, launch, running, without

    end_with_launcher()
    if asked is not None and not running():
        with given.usage():
            count = count_of(asked)
        raise typer.Exit(launch(count, without(ARGUMENTS, "--launch")))


def quiet() -> None:
    """Keep the libraries' own progress bars off a log, and transformers' off the terminal: hub-mim prints its own line."""
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not sys.stderr.isatty():
        disable_progress_bars()


def known_method(name: str) -> Any:
    """Return an installed method; another name is wrong usage."""
    from hub_mim.plugins import get_method

    with given.usage():
        return get_method(name)


def assignments(items: list[str], option: str) -> dict[str, Any]:
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


def columns_of(items: list[str]) -> dict[str, str] | None:
    """Turn `column=argument` strings into a mapping, None where there are none."""
    pairs = {}
    for item in items:
        column, sign, argument = item.partition("=")
        if not (column and sign and argument):
            raise typer.BadParameter(f"--map takes column=argument, not {item!r}")
        pairs[column] = argument
    return pairs or None


def is_main_process() -> bool:
    """Tell whether this process is the one of several that speaks."""
    return int(os.environ.get("RANK", "0")) == 0
