"""Write files and folders so that a reader sees the old one or the new one, never half of one.

Everything is written beside its target under a hidden name, flushed to disk and then renamed. What is there already is
refused unless the caller says `overwrite=True`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any

from hub_mim.method import suggest

LARGEST_JSON = 64 * 2**20


def refuse_overwrite(path: str | Path, overwrite: bool = False) -> Path:
    """Return `path`, or refuse when something is there already.

    Args:
        path: file or folder that is about to be written; an empty folder counts as nothing.
        overwrite: accept what is there.
    Raises:
        FileExistsError: `path` is a file or a folder that holds something, and `overwrite` is False.
    """
    path = Path(path)
    if overwrite or not os.path.lexists(path):
        return path
    if path.is_dir() and not any(path.iterdir()):
        return path
    kind = "folder" if path.is_dir() else "file"
    raise FileExistsError(f"{kind} {path} already exists; choose another name or pass overwrite=True (--overwrite)")


def check_exists(name: str | Path) -> None:
    """Tell a path that does not exist from a Hub id, so that a typing error does not go to the network.

    Args:
        name: what a user gave; nothing is said of it where it exists, or may be the id of a Hub.
    Raises:
        FileNotFoundError: it has the form of a path (an ending, two slashes, a leading dot or slash), lies in a folder that
            is there or below a file, or is nearly the name of something here.
    """
    text, path = str(name), Path(name).expanduser()
    if path.exists():
        return
    near = suggest(path.name, [entry.name for entry in path.parent.iterdir()]) if path.parent.is_dir() else ""
    formed = (
        path.suffix[1:].isalpha() or text.count("/") > 1 or text.startswith((".", "/", "~")) or path.parent.is_file()
    )
    if formed or near or ("/" in text and path.parent.is_dir()):
        raise FileNotFoundError(f"no file or folder {name}{near}")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, for one sentence about it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def without_worker(error: Exception) -> Exception:
    """Return an error as it was raised in a data worker, without the traceback that torch puts into its message."""
    first, _, rest = str(error).partition("\n")
    if not (first.startswith("Caught ") and "DataLoader worker" in first and rest):
        return error
    kind, colon, text = rest.strip().splitlines()[-1].partition(": ")
    return type(error)(text if colon else kind)


def finished(folder: str | Path, pattern: str) -> list[Path]:
    """Return the files in a folder whose names fit, in order, without hidden ones: those a killed process may have left."""
    return [path for path in sorted(Path(folder).glob(pattern)) if not path.name.startswith(".")]


def write_file(path: str | Path, content: str | bytes, *, overwrite: bool = False) -> Path:
    """Write a whole file atomically, creating the folders above it.

    Args:
        path: the file.
        content: text (written as UTF-8) or bytes.
        overwrite: replace a file that is there.
    Raises:
        FileExistsError: the file is there and `overwrite` is False.
        IsADirectoryError: `path` is a folder.
    """
    path = refuse_overwrite(path, overwrite)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; give the name of a file")
    with new_file(path, overwrite=overwrite) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@contextmanager
def new_file(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden name beside `path` to write to (by pandas, matplotlib, ...) and rename it to `path` at the end.

    The hidden name keeps the ending of `path`, by which writers choose the format. After an error nothing is left; what a
    process that was killed left of the same file is removed (looked for once a process).
    """
    path = refuse_overwrite(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = path.resolve()  # through a link: the file it points to is replaced, not the link
    with _hidden_folder(target.parent, target.name) as folder:
        partial = folder / f".partial{''.join(path.suffixes[-2:])}"
        yield partial
        _sync(partial)
        os.replace(partial, target)
        _sync(target.parent)


def write_json(path: str | Path, content: Any, *, overwrite: bool = False) -> Path:
    """Write `content` as indented JSON with a final newline."""
    return write_file(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n", overwrite=overwrite)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not JSON (the message names the line), nested without end, or larger than any that we read.
    """
    size = os.stat(path).st_size
    if size > LARGEST_JSON:
        raise ValueError(f"{path} has {size} bytes; a JSON file of more than {LARGEST_JSON} is not read")
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path} is not JSON that can be read: it is nested too deeply") from error
    except ValueError as error:  # of the syntax, of the text, of a number with thousands of digits
        raise ValueError(f"{path} is not JSON: {error}") from error


@contextmanager
def new_folder(
    target: str | Path, *, overwrite: bool = False, replaced: tuple[str, ...] = ("*",), last: str = ""
) -> Iterator[Path]:
    """Give an empty folder to fill, which becomes `target` when the block ends without an error.

    Args:
        target: the folder to make. An old one there is exchanged for it at the very end, in one step on Linux. Elsewhere it is
            put aside first; should the process die between the two renames, the next call finds `.NAME.old` and puts it back.
        overwrite: replace a folder that holds something.
        replaced: patterns of the entries of an old folder that do not outlive it; all others are carried over (by
            hard links, so that gigabytes cost nothing and open files stay open), unless the new folder has that name too.
        last: the file without which a reader takes the folder for unfinished. Only a folder that cannot be renamed (the
            current one, one above it, a mount point) needs it: there the entries are moved one by one, this one at the end.
    Yields:
        The folder to fill, a hidden sibling of `target` (same file system, so that the rename is atomic).
    Raises:
        FileExistsError: `target` holds something and `overwrite` is False, or it is a file.
    """
    recover_folder(target)
    path = refuse_overwrite(target, overwrite).resolve()
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{target} is a file; give the name of a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    in_place = path.exists() and (Path.cwd().is_relative_to(path) or os.path.ismount(path))
    with _hidden_folder(path if in_place else path.parent, path.name) as partial:
        yield partial
        if not in_place:
            _usual_modes(partial)
            _carry_over(path, partial, replaced)
        _sync_all(partial)
        if in_place:
            _move_entries(partial, path, replaced, last)
        else:
            _swap(partial, path)


@contextmanager
def _hidden_folder(place: Path, name: str) -> Iterator[Path]:
    """Give an empty hidden folder for the making of `name`, locked while the block runs; those of dead processes are removed."""
    _remove_leftovers(place, name)
    while True:
        folder = place / f"{_hidden(name)}{uuid.uuid4().hex[:8]}.partial"
        folder.mkdir()
        handle = _lock(folder, wait=True)
        if folder.is_dir():
            break
        _unlock(handle)  # another process took it for a leftover before it was locked
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unlock(handle)


def _hidden(name: str) -> str:
    """Return the beginning of the hidden names of `name`, short enough for any file system."""
    return f".{os.fsencode(name)[:200].decode(errors='ignore')}."


def _remove_leftovers(place: Path, name: str) -> None:
    """Remove the hidden folders for `name` that nobody holds: their makers were killed."""
    pattern = re.compile(re.escape(_hidden(name)) + r"[0-9a-f]{8}\.partial")
    for path in (place / each for each in _partials(place) if pattern.fullmatch(each)):
        handle = _lock(path, wait=False)
        if handle is not None:
            shutil.rmtree(path, ignore_errors=True)
            _unlock(handle)


@lru_cache(maxsize=256)
def _partials(place: Path) -> list[str]:
    """Return the hidden names of unfinished work in a folder; looked for once a process, as there may be many files."""
    return [name for name in os.listdir(place) if name.startswith(".") and name.endswith(".partial")]


def _lock(folder: str | Path, *, wait: bool) -> int | None:
    """Lock a folder for as long as the handle is open; a process that dies lets go of it.

    Returns:
        The handle; None where another process has the lock and `wait` is false, where the folder is gone, and where there
        are no such locks (Windows, some network file systems), so that nobody takes what another one makes for a leftover.
    """
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


def recover_folder(target: str | Path) -> None:
    """Finish what a killed `new_folder` left: put the old folder back where the new one never arrived."""
    path = Path(target).resolve()
    aside = _aside(path)
    if not aside.is_dir():
        return
    if path.exists():
        shutil.rmtree(aside)
    else:
        os.rename(aside, path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _carry_over(old: Path, new: Path, replaced: tuple[str, ...]) -> None:
    """Link the entries of `old` that match none of `replaced`, and that `new` lacks, into `new`."""
    for entry in old.iterdir() if old.is_dir() else ():
        goal = new / entry.name
        if goal.exists() or any(fnmatch(entry.name, pattern) for pattern in replaced):
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.copytree(entry, goal, copy_function=_link, symlinks=True)
        else:
            _link(entry, goal)


def _link(source: str | Path, goal: str | Path) -> None:
    """Hard-link a file; copy it where the file system has no hard links."""
    try:
        os.link(source, goal, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, goal, follow_symlinks=False)


def _move_entries(new: Path, path: Path, replaced: tuple[str, ...], last: str) -> None:
    """Put the entries of `new` into `path`, with `last` gone while old and new are mixed."""
    if last:
        (path / last).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry != new and ((new / entry.name).exists() or any(fnmatch(entry.name, pattern) for pattern in replaced)):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for entry in sorted(new.iterdir(), key=lambda entry: entry.name == last):
        os.rename(entry, path / entry.name)
    _sync(path)


def _swap(new: Path, path: Path) -> None:
    """Put a new folder in the place of an old one: in one step where the system can exchange two, else in two renames."""
    aside = _aside(path)
    if path.exists():
        if _exchange(new, path):  # what is now under the hidden name is the old one
            _sync(path.parent)
            return
        os.rename(path, aside)
    try:
        os.rename(new, path)
    except OSError:
        if aside.exists():
            os.rename(aside, path)
        raise
    _sync(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names at once, by Linux's renameat2; tell whether that was possible."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    call = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return call is not None and call(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0


def _usual_modes(folder: Path) -> None:
    """Give every file the mode that a new file gets here; safetensors writes its own for the owner alone."""
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def _sync_all(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            _sync(path)


def _sync(path: Path) -> None:
    """Flush a file or a folder's entries to disk; Windows cannot open folders, and needs it less."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
