"""`python -m hub_mim_localhub ROOT`: the same as `hub-mim serve ROOT`, without the other verbs."""

import typer

from hub_mim_localhub.commands import serve

if __name__ == "__main__":
    typer.run(serve)
