"""Checkpoints that are complete or do not count: a marker with every file's size and hash is written last.

transformers' Trainer resumes from the checkpoint with the highest number, whatever is in it: without the optimiser's
file it starts the schedule again and says nothing. Here a checkpoint without a fitting marker is passed over.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hub_mim.console import say
from hub_mim.files import read_json, sha256, write_json
from hub_mim.typed import fits

MARKER = "complete.json"
LOCK = "lock"
FACTS = {"size", "sha256"}  # of each file
STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: str | Path) -> None:
    """Flush every file of a checkpoint to disk, then write the marker that makes it count."""
    folder = Path(folder)
    files = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / MARKER, files, overwrite=True)


def fault(folder: str | Path) -> str | None:
    """Return what is wrong with a checkpoint, None where every file is there as it was written."""
    folder = Path(folder)
    if not (folder / MARKER).is_file():
        return "it was never finished"
    try:
        files = read_json(folder / MARKER)
    except ValueError:
        return f"{MARKER} is damaged"
    if not fits(files, dict[str, dict[str, int | str]]) or any(each.keys() != FACTS for each in files.values()):
        return f"{MARKER} is damaged"
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != facts["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {facts['size']}"
        if sha256(path) != facts["sha256"]:
            return f"{name} is damaged"
    return None


def last_complete(folder: str | Path) -> Path | None:
    """Return the newest complete checkpoint in a folder, saying on stderr which newer ones were passed over.

    A checkpoint whose best predecessor is damaged does not count: the run could not end with its best weights.
    """
    for checkpoint in numbered(folder):
        wrong = fault(checkpoint) or _best_fault(checkpoint)
        if wrong is None:
            return checkpoint
        say(f"passing over {checkpoint.name}: {wrong}")
    return None


def _best_fault(checkpoint: Path) -> str | None:
    """Return what is wrong with the best checkpoint that this one's state names, in words."""
    state = checkpoint / STATE
    step = json.loads(state.read_text(encoding="utf-8")).get("best_global_step") if state.is_file() else None
    best = checkpoint.with_name(f"checkpoint-{step}")
    if not step or best == checkpoint:
        return None
    wrong = fault(best)
    return f"{best.name}, the best so far, is not whole: {wrong}" if wrong else None


@contextmanager
def exclusive(folder: str | Path, doing: str = "") -> Iterator[None]:
    """Hold a folder against other processes; a killed one lets go of it by itself.

    Workers of a killed `torchrun` live on, and two runs that write into one folder damage both. `doing` tells what the other
    one does; default that it trains into the folder above.

    Raises:
        RuntimeError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows has another kind of lock
        yield
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, not kept by forked data workers
        except OSError as error:
            raise RuntimeError(
                f"another process is {doing or f'training into {folder.parent}'}; wait for it or end it, or choose another place"
            ) from error
        yield


@contextmanager
def in_turn(folder: str | Path) -> Iterator[None]:
    """Wait until no other process changes what lies in a folder; no file is left behind, a killed process lets go."""
    try:
        import fcntl
    except ImportError:  # Windows cannot lock a folder
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def numbered(folder: str | Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    folder = Path(folder)
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
