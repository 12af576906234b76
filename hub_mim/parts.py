"""Finished parts of a long call, in a hidden folder beside the file that it writes: the next call goes on from them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from hub_mim.checkpoints import LOCK
from hub_mim.console import say
from hub_mim.files import finished, read_json, sha256, write_file, write_json

RECORD = "settings.json"


def parts_of(out: Path) -> Path:
    """Return the folder for the parts of a file. Whoever uses it holds it by `checkpoints.exclusive`."""
    return out.with_name(f".{out.name}.parts")


def weights_in(folder: Any) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a folder, to tell them from those of another call; none elsewhere."""
    place = Path(folder) if isinstance(folder, str | Path) else None
    return {path.name: sha256(path) for path in sorted(place.glob("*.safetensors"))} if place else {}


def open_parts(folder: Path, settings: Mapping[str, Any]) -> list[Path]:
    """Return the undamaged parts of an earlier call with these settings, in order; those of others are thrown away."""
    plain = json.loads(json.dumps(settings))
    if (folder / RECORD).is_file() and read_json(folder / RECORD) == plain:
        return keep_undamaged(finished(folder, "*.parquet"))
    (folder / RECORD).unlink(missing_ok=True)
    for path in folder.glob("*") if folder.is_dir() else ():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_json(folder / RECORD, plain)
    return []


def write_hashed(path: Path, content: bytes) -> Path:
    """Write a file, replacing one that is there, whose name carries the hash of its bytes; `keep_undamaged` looks at it."""
    named = path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:16]}{path.suffix}")
    return write_file(named, content, overwrite=True)


def keep_undamaged(files: list[Path]) -> list[Path]:
    """Return files of `write_hashed` up to the first one that is damaged; that one and those after it are removed, and told."""
    whole = list(takewhile(lambda path: path.stem.endswith(f"-{sha256(path)[:16]}"), files))
    if len(whole) < len(files):
        say(f"{files[len(whole)]} is damaged: it is made again, and so is what follows it")
    for path in files[len(whole) :]:
        path.unlink()
    return whole


def remove_parts(folder: Path) -> None:
    """Remove a folder of parts, its record first: of what a kill leaves of them nothing is taken for finished."""
    (folder / RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
