"""What hub-mim knows of regions: a command, no method."""

from typing import Any

from hub_mim.hookspecs import hookimpl


@hookimpl
def hub_mim_commands(app: Any) -> None:
    """Add `hub-mim regions`."""
    from hub_mim_regions.commands import register

    register(app)
