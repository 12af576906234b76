"""Verbs for who writes a method, and for who sees the hub for the first time.

Nothing heavy is imported here: every verb imports what it needs when it runs, so that `hub-mim --help` stays fast.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from hub_mim import arguments as given
from hub_mim.commands.options import Json, Overwrite, Seed, known_method, quiet
from hub_mim.console import next_steps, print_json, say
from hub_mim.newplugin import MODALITIES


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


def check(
    name: Annotated[str, typer.Argument(help="A method; hub-mim ls shows them.")],
    fast: Annotated[bool, typer.Option("--fast", help="Leave out checks that start processes or a compiler.")] = False,
    json: Json = False,
) -> None:
    """Check a plugin against the contract that every plugin keeps.

    Example: hub-mim check remasker --fast
    """
    import dataclasses

    known_method(name)
    quiet()
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

    quiet()
    report = run_demo(out, seed=seed, overwrite=overwrite)
    if json:
        print_json(report)
