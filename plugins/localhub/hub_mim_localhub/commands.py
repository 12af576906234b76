"""`hub-mim serve`: nothing but argument handling, and the lines that a user pastes."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from hub_mim import arguments as given


def serve(
    root: Annotated[
        Path, typer.Argument(help="Folder of the Hub; made at the first start.", callback=given.new_folder)
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reached from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8800,
    user: Annotated[str | None, typer.Option(help="Name of the first user; default: your login's.")] = None,
    add_user: Annotated[str | None, typer.Option(help="Make one more user (or a new token of one), and end.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Refuse every change.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print every request.")] = False,
) -> None:
    """Serve a Hub from this machine: push, pull and from_pretrained work with the unmodified client.

    Example: hub-mim serve my-hub
    """
    from hub_mim.console import say
    from hub_mim_localhub.errors import HubError
    from hub_mim_localhub.hub import Hub, lock
    from hub_mim_localhub.server import listen, run

    try:
        if add_user is not None:
            hub = Hub(root)
            hub.first_user(user)
            file = hub.token_file if add_user == hub.first_user() else root / f"token-{add_user}"
            hub.accounts.add(add_user, file)
            print(file)
            return
        with lock(root), listen(host, port) as place:
            hub = Hub(root, read_only=read_only)
            name = hub.first_user(user)
            hub.tidy()
            address = f"http://{f'[{host}]' if ':' in host else host}:{place.getsockname()[1]}"
            say(f"serving {root} at {address}{' (read-only)' if read_only else ''}; the user is {name}; Ctrl-C ends it")
            if host not in ("127.0.0.1", "::1", "localhost"):
                say(
                    "others can reach it, and tokens travel unencrypted: put a proxy with TLS in front, or stay on 127.0.0.1"
                )
            say("\nIn another terminal:")
            print(f"export HF_ENDPOINT={address}")
            print("export HF_HUB_DISABLE_XET=1")
            print(f'export HF_TOKEN="$(cat {shlex.quote(str(hub.token_file.resolve()))})"', flush=True)
            run(hub, place, log_level="info" if verbose else "warning")
    except HubError as error:
        raise ValueError(error.message) from error
