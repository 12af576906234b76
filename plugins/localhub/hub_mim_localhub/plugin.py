"""The entry point of this distribution: one command, no method."""

from typing import Any

from hub_mim import hookimpl


@hookimpl
def hub_mim_commands(app: Any) -> None:
    """Add `hub-mim serve`."""
    from hub_mim_localhub.commands import serve

    app.command()(serve)
