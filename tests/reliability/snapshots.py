"""The states that a folder passes through, each kept once: what a process that was killed at a write would have left there."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from breaking import tear


def tree_hash(folder: Path) -> str:
    """Return a hash of all names, modes, links and bytes below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)}\0{path.lstat().st_mode:o}\0".encode())
        if path.is_symlink():
            found.update(os.readlink(path).encode())
        elif path.is_file():
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:24]


def copy_tree(source: Path, goal: Path) -> None:
    """Copy a folder as it is, with times, symbolic and hard links."""
    subprocess.run(["cp", "-a", str(source), str(goal)], check=True)


class Snapshots:
    """Copies of a folder by the hash of what it holds.

    Args:
        place: for the copies. folder: that is copied.
    """

    def __init__(self, place: Path, folder: Path):
        self.place, self.folder = place, folder
        self.left: dict[str, str] = {}  # point and fault -> hash of what they leave
        place.mkdir()

    def keep(self) -> str:
        """Copy the folder, unless that state of it is known; returns its hash."""
        named = tree_hash(self.folder)
        if not (self.place / named).exists():
            copy_tree(self.folder, self.place / named)
        return named

    def restore(self, named: str) -> None:
        """Put the folder back into a state."""
        shutil.rmtree(self.folder)
        copy_tree(self.place / named, self.folder)

    def files(self, named: str) -> dict[str, bytes]:
        """Return path -> content of the files of a state, without what dead processes left under hidden names."""
        found = {path.relative_to(self.place / named).as_posix(): path for path in (self.place / named).rglob("*")}
        return {
            name: path.read_bytes()
            for name, path in found.items()
            if path.is_file() and not path.is_symlink() and ".partial" not in name
        }

    def see(self, fault: str, number: int, kind: str, path: str) -> None:
        """Keep what a fault at a point leaves; called before and after the write, see `breaking.Breaker`."""
        named = self.keep()
        if fault == "kill":
            self.left[f"{number} kill"] = named
        if fault == ("kill" if kind == "rmtree" else "torn"):
            inside = Path(path).relative_to(self.folder.resolve())
            self.left[f"{number} torn"] = self.changed(named, lambda copy: tear(copy / inside, kind))

    def changed(self, named: str, change: Callable[[Path], None]) -> str:
        """Keep a state with a change; returns its hash."""
        copy = self.place / "changing"
        copy_tree(self.place / named, copy)
        change(copy)
        found = tree_hash(copy)
        if (self.place / found).exists():
            shutil.rmtree(copy)
        else:
            copy.rename(self.place / found)
        return found
