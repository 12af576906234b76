"""The two hooks a plugin may implement; the markers `hookspec` and `hookimpl`."""

from typing import TYPE_CHECKING

from pluggy import HookimplMarker, HookspecMarker

from hub_mim.method import Method

if TYPE_CHECKING:
    import typer

hookspec = HookspecMarker("hub_mim")
hookimpl = HookimplMarker("hub_mim")


@hookspec
def hub_mim_methods() -> list[Method]:  # type: ignore[empty-body]
    """Return the methods that this plugin brings; nothing heavy may be imported for it."""


@hookspec
def hub_mim_commands(app: "typer.Typer") -> None:
    """Add this plugin's own verbs to `hub-mim`; what they need is imported inside them."""
