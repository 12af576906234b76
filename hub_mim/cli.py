"""The `hub-mim` command: which verbs there are, and how a call ends. The verbs themselves are in `hub_mim.commands`."""

import os
import sys
import traceback
from typing import Annotated, Any

import typer

from hub_mim import __version__
from hub_mim.commands import authoring, catalogue, judging, sharing, training
from hub_mim.commands.options import ARGUMENTS, is_main_process
from hub_mim.console import Stopped, say
from hub_mim.launching import leave_others, report
from hub_mim.secrets import hide

VERBS = (
    catalogue.ls,
    catalogue.info,
    catalogue.doctor,
    training.pretrain,
    judging.evaluate,
    training.finetune,
    judging.embed,
    judging.show,
    judging.report,
    sharing.convert,
    sharing.push,
    sharing.pull,
    authoring.new,
    authoring.check,
    authoring.demo,
)

UsageError: Any = typer.BadParameter.__base__  # typer has no name of its own for it

app = typer.Typer(
    name="hub-mim",
    help="A plugin hub of masked-modelling methods: pre-train, judge and share them.",
    epilog="Example: hub-mim pretrain remasker --data table.csv --out runs/table",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
for verb in VERBS:
    app.command()(verb)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere on the line.")] = False,
) -> None:
    """A plugin hub of masked-modelling methods: pre-train, judge and share them."""
    if version:
        print(__version__)
        raise typer.Exit


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0 on success, 2 on wrong usage, 1 on failure with one sentence on stderr."""
    from hub_mim.plugins import register_commands

    arguments = sys.argv[1:] if arguments is None else arguments
    ARGUMENTS[:] = arguments
    debug = "--debug" in arguments or bool(os.environ.get("HUB_MIM_DEBUG"))
    register_commands(app)
    status = _status([each for each in arguments if each != "--debug"], debug)
    if not status:
        leave_others()
    sys.exit(status)


def _status(arguments: list[str], debug: bool) -> int:
    """Run one call and tell how it ended."""
    try:
        status = app(arguments, prog_name="hub-mim", standalone_mode=False)
    except UsageError as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        say("hub-mim: interrupted")
        return 130
    except Stopped as told:
        if is_main_process():
            say(f"hub-mim: {told}")
        return 0
    except Exception as error:
        line = f"hub-mim: error: {error}" if str(error) else f"hub-mim: error: {type(error).__name__}; see --debug"
        if debug or not report(error):
            say(hide(traceback.format_exc() if debug else line))
        return 1
    return status if isinstance(status, int) else 0


def _wrong_usage(error: Any) -> int:
    """Tell wrong usage in one sentence; a call without anything gets the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    if not is_main_process():
        return 2
    verb = error.ctx.command_path if error.ctx else "hub-mim"
    message = error.format_message().rstrip(".")
    say(hide(f"hub-mim: error: {message[:1].lower()}{message[1:]}; see {verb} --help"))
    return 2
