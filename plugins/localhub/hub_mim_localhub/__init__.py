"""A Hub on your own machine, for laptops, tests and groups without a network: `hub-mim serve ROOT`.

It speaks to the unmodified huggingface_hub client. Files lie under ROOT by their hashes; refs, commits and users are in
an SQLite database beside them. `make_app(ROOT)` is the same server as an ASGI application.
"""

from typing import Any

__all__ = ["make_app"]


def __getattr__(name: str) -> Any:
    if name == "make_app":
        from hub_mim_localhub.server import make_app

        return make_app
    raise AttributeError(f"module 'hub_mim_localhub' has no attribute {name!r}")
