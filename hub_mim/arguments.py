"""Checks of what a command line was given, made before anything is imported, read or written; each is a typer callback.

A wrong argument ends with status 2 and one sentence. What shows only when files are read or a Hub is asked ends with status 1.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

from hub_mim.files import check_exists
from hub_mim.method import suggest

SEEDS = 2**32 - 1  # the largest that numpy takes


@contextmanager
def usage() -> Iterator[None]:
    """Tell a ValueError of the block as wrong usage."""
    try:
        yield
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def _each(check: Callable[[Any], None]) -> Callable[[Any], Any]:
    """Make a callback of a check; an option that was not given passes, one that is repeatable is checked value by value."""

    def callback(value: Any) -> Any:
        for each in value if isinstance(value, list) else [] if value is None else [value]:
            with usage():
                check(each)
        return value

    return callback


def one_of(*names: str, valued: bool = False) -> Callable[[Any], Any]:
    """Return a callback that takes these words; they are its `names`. With `valued` each may have a value, as name=value."""

    def check(value: str) -> None:
        if (value.partition("=")[0] if valued else value) not in names:
            raise ValueError(f"no {value!r}{suggest(value, names)}; there are {', '.join(names)}")

    callback = _each(check)
    callback.names = names  # type: ignore[attr-defined]
    return callback


def between(low: float, high: float = float("inf"), *, open_low: bool = False, open_high: bool = False) -> Any:
    """Return a callback that takes numbers in an interval, open at its ends where asked for; `outside` lies not in it."""

    def check(value: float) -> None:
        below = value <= low if open_low else value < low
        above = value >= high if open_high else value > high
        if isnan(value) or below or above or value == float("inf"):
            least = f"above {low:g}" if open_low else f"at least {low:g}"
            most = "" if high == float("inf") else f" and {'below' if open_high else 'at most'} {high:g}"
            raise ValueError(f"{value:g} must be {least}{most}")

    callback = _each(check)
    callback.outside = low if open_low else low - 1  # type: ignore[attr-defined]
    return callback


def _source(value: str) -> None:
    if not value.startswith("sample:"):
        _exists(value)


def _exists(value: str | Path) -> None:
    try:
        check_exists(value)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(str(error)) from error
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise ValueError(f"{str(value)[:80]} cannot be looked at: {error.strerror}") from error


def _checkpoint(value: str) -> None:
    _exists(value)
    if Path(value).is_file():
        raise ValueError(f"{value} is a file; give the folder of a checkpoint (hub-mim convert makes one of it)")


def _file(value: Path) -> None:
    if value.is_dir():
        raise ValueError(f"{value} is a folder; give a file")
    if not value.exists():
        raise ValueError(f"no file {value}")


def _folder(value: Path) -> None:
    if value.is_file():
        raise ValueError(f"{value} is a file; give a folder")
    if not value.is_dir():
        raise ValueError(f"{value} is no folder here")


def _new_file(value: Path) -> None:
    if value.is_dir():
        raise ValueError(f"{value} is a folder; give the name of a file")
    _reachable(value)


def _new_folder(value: Path) -> None:
    if value.is_file():
        raise ValueError(f"{value} is a file; give the name of a folder")
    _reachable(value)


def _reachable(value: Path) -> None:
    above = next((each for each in value.absolute().parents if each.exists()), None)
    if above is not None and not above.is_dir():
        raise ValueError(f"{above} is a file, so nothing can be written below it")


def _address(value: str) -> None:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{value!r} is no address; it must begin with http:// or https://")


def _repository(value: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(value)


source = _each(_source)  # of rows: a path, a Hub id, sample:NAME
checkpoint = _each(_checkpoint)  # folder or Hub id
file = _each(_file)  # to read
folder = _each(_folder)  # to read
new_file = _each(_new_file)  # to write
new_folder = _each(_new_folder)  # to write
address = _each(_address)
repository = _each(_repository)
