"""Verbs that bring checkpoints from elsewhere, and to others.

Nothing heavy is imported here: every verb imports what it needs when it runs, so that `hub-mim --help` stays fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from hub_mim import arguments as given
from hub_mim.commands.options import Endpoint, Json, Overwrite, assignments, known_method, quiet
from hub_mim.console import next_steps, print_json, print_pairs


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

    known_method(name)
    quiet()
    report = run_convert(name, file, out, config=assignments(config, "--config"), overwrite=overwrite)
    if json:
        print_json(report.to_dict())
    else:
        print(report)
    next_steps(f"hub-mim info {name}", f"AutoModel.from_pretrained({str(out)!r})  # after import hub_mim")


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

    quiet()
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

    quiet()
    commit = run_pull(repository, folder, revision=revision, overwrite=overwrite, endpoint=endpoint)
    if json:
        print_json({"folder": str(folder), "commit": commit})
    else:
        print_pairs({"made": folder, "commit": commit})
    next_steps(f"AutoModel.from_pretrained({str(folder)!r})  # after import hub_mim", f"hub-mim info {folder}")
