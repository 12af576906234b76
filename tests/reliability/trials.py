"""Break a command in one way, read what is left as a user would, call it again: the old state or the new one, never a mixture.

A kill needs no run of its own: one undisturbed call is watched, and what lies on the disk before and after each of its writes is
kept. States that are alike are looked at once. Full disks, refusals and networks that fail are met by a process of their own.
"""

import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from uuid import UUID

from breaking import DISK, NETWORK, Breaker, broken
from snapshots import Snapshots, tree_hash

LIMIT = 900  # seconds that a call may take, on a busy machine too; a hang is a loss
OLD, NEW, NOTHING, UNSEEN = "old", "new", "nothing", "unseen"
TOLD, UNEXPECTED = 1, 2  # status of a call that ends with a sentence, and with an error that nobody promised
PROMISED = (ValueError, OSError, RuntimeError, sqlite3.Error)
CLOCKS = ("hub_mim.trainer", "transformers.trainer", "transformers.trainer_utils", "huggingface_hub.utils._http")
CORRUPT = {"corrupt begin": 0.0, "corrupt middle": 0.5}  # where in a file one bit is turned


@dataclass(frozen=True)
class Command:
    """A command under test.

    Attributes:
        name: of it. prepare: (folder) -> lays out what it needs, and the old state. run: (folder) -> the call.
        state: (folder) -> OLD, NEW, NOTHING, or what is wrong; as a reader sees it. start: the state before.
        network: its points are requests to a Hub, not writes. elsewhere: it changes more than the folder.
        hashed: patterns of files whose bytes are known by a hash, so that a turned bit is never taken for good; None where no
            bits are turned.
    """

    name: str
    prepare: Callable[[Path], Any]
    run: Callable[[Path], Any]
    state: Callable[[Path], str]
    start: str = NOTHING
    network: bool = False
    elsewhere: bool = False
    hashed: tuple[str, ...] | None = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """What can be done to it at each of its points."""
        return NETWORK if self.network else DISK


def forked(action: Callable[[], Any]) -> tuple[int, Any]:
    """Run something in a fork; returns its status (minus the signal) and what it returned or raised, in words."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(LIMIT)
        status = 0
        try:
            with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
                told = action()
        except BaseException as error:
            sentence = isinstance(error, PROMISED) and not isinstance(error, UnicodeError)
            status, told = TOLD if sentence else UNEXPECTED, _in_words(error)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(told, default=str).encode())
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def _in_words(error: BaseException) -> str:
    if os.environ.get("FAULTS_DEBUG"):
        traceback.print_exc()
    return "".join(traceback.format_exception_only(error)).strip()[-600:]


@contextmanager
def still() -> Iterator[None]:
    """Stop the clocks whose time is written down, and draw hidden names in order, so that like states have like bytes."""
    numbers = count(1)
    clock = SimpleNamespace(time=lambda: 0.0, perf_counter=lambda: 0.0, sleep=lambda seconds: None)
    today = SimpleNamespace(now=lambda zone=UTC: datetime(2000, 1, 1, tzinfo=zone))
    changes = {f"{module}.time": clock for module in CLOCKS} | {"hub_mim.run.datetime": today}
    with ExitStack() as stack:
        for name, stopped in changes.items():
            if name.rpartition(".")[0] in sys.modules:  # nobody else writes a time
                stack.enter_context(patch(name, stopped, create=True))
        stack.enter_context(patch("uuid.uuid4", lambda: UUID(int=next(numbers) << 96)))
        yield


class Tested:
    """A command, the folder in which it is broken, and what is known of the states that it can leave.

    Attributes:
        points: its write points, in words. spoilable: state and path of the files that it had written shortly before its end
            and at its end.
    """

    def __init__(self, command: Command, place: Path):
        self.command, self.place = command, place
        self.watched = not command.network and not command.elsewhere
        self.folder = self._laid_out()
        self.snapshots = Snapshots(Path(tempfile.mkdtemp(dir=place)) / "states", self.folder)
        self.initial = self.snapshots.keep()
        self.known: dict[str, list[tuple[int, Any]]] = {}
        self.points = self._watch()
        self.spoilable = self._spoilable() if self.watched and command.hashed is not None else []

    def _laid_out(self) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.place))
        status, told = forked(lambda: self.command.prepare(folder) and None)
        if status:
            raise RuntimeError(f"{self.command.name} cannot be prepared: {told}")
        return folder

    def _watch(self) -> list[str]:
        """Return the points of an undisturbed call, whose states are kept, after checking what it makes."""

        def watched() -> tuple[list[str], dict[str, str]]:
            seen = self.snapshots.see if self.watched else None
            breaker = Breaker(self.folder, network=self.command.network, seen=seen)
            with still(), broken(breaker):
                self.command.run(self.folder)
            return breaker.points, self.snapshots.left

        status, told = forked(watched)
        if status:
            raise RuntimeError(f"{self.command.name} fails undisturbed: {told}")
        found = forked(lambda: self.command.state(self.folder))
        if found != (0, NEW):
            raise RuntimeError(f"{self.command.name} undisturbed leaves {found}")
        self.snapshots.left = told[1]
        return [point for point in told[0] if (point == "request") == self.command.network]

    def _spoilable(self) -> list[tuple[str, str]]:
        """Return the files that the call has written: those it is about to replace at its end, and those of the result."""
        states = [self.snapshots.keep()]
        for number in range(len(self.points), 0, -1):
            named = self.snapshots.left[f"{number} kill"]
            if self._read(named) == (0, self.command.start):
                states.append(named)
                break
        before = self.snapshots.files(self.initial)
        return [
            (named, path)
            for named in states
            for path, content in sorted(self.snapshots.files(named).items())
            if content and before.get(path) != content
        ]

    def _read(self, named: str) -> tuple[int, Any]:
        self.snapshots.restore(named)
        return forked(lambda: self.command.state(self.folder))

    def trials(self) -> list[tuple[int, str]]:
        """Return the numbers and faults of all that can be done: to a point of the call, to a file that it wrote."""
        points = [(number, fault) for number in range(1, len(self.points) + 1) for fault in self.command.faults]
        return points + [(number, fault) for number in range(1, len(self.spoilable) + 1) for fault in CORRUPT]

    def what(self, number: int, fault: str) -> str:
        """Return what a trial breaks, in words."""
        return self.spoilable[number - 1][1] if fault in CORRUPT else self.points[number - 1]

    def lost(self, number: int, fault: str) -> str | None:
        """Break the command or its file and look; returns what was lost, None where nothing was, UNSEEN for bytes without a
        hash that are not what they were."""
        if fault in CORRUPT:
            named, path = self.spoilable[number - 1]
            self.snapshots.restore(named)
            turn_bit(self.folder / path, CORRUPT[fault])
            return _verdict_of_rot(self._aftermath(), any(fnmatch(path, each) for each in self.command.hashed or ()))
        status, told = self._break(number, fault)
        if status == -signal.SIGALRM:
            return "the call hangs"
        if fault == "kill" and status != -signal.SIGKILL:
            return f"it was not killed: {status} {told}"
        return _verdict(self.command, status, told, self._aftermath())

    def _break(self, number: int, fault: str) -> tuple[int, Any]:
        """Bring the folder into the state that a fault leaves; returns how the call ended."""
        if self.watched and fault in ("kill", "torn"):
            self.snapshots.restore(self.snapshots.left[f"{number} {fault}"])
            return -signal.SIGKILL, None
        if self.command.elsewhere:
            shutil.rmtree(self.folder)
            self.folder = self._laid_out()
        else:
            self.snapshots.restore(self.initial)

        def spoilt() -> None:
            breaker = Breaker(self.folder, number, fault, network=self.command.network)
            with still(), broken(breaker):
                self.command.run(self.folder)

        return forked(spoilt)

    def _aftermath(self) -> list[tuple[int, Any]]:
        """Read what was left, call again, read again; of states that are alike once."""
        named = None if self.command.elsewhere else tree_hash(self.folder)
        if named in self.known:
            return self.known[named]
        steps = (self.command.state, self.command.run, self.command.state)
        found = [forked(lambda step=step: step(self.folder)) for step in steps]  # type: ignore[misc]
        if named is not None:
            self.known[named] = found
        return found


def _verdict(command: Command, status: int, told: Any, after: list[tuple[int, Any]]) -> str | None:
    found, again, later = after
    if found not in ((0, command.start), (0, NEW)):
        return f"after it, {found[1]} (the call: {status} {told})"
    if status == 0 and found[1] != NEW:
        return f"the call says that all is well, and the state is {found[1]}"
    if status == UNEXPECTED:
        return f"the call ends without a sentence: {told}"
    if again[0]:
        return f"called again: {again}"
    return None if later == (0, NEW) else f"called again it leaves {later}"


def _verdict_of_rot(after: list[tuple[int, Any]], hashed: bool) -> str | None:
    found, again, later = after
    if found[0] not in (0, TOLD):
        return f"reading it ends without a sentence: {found}"
    if again[0] not in (0, TOLD):
        return f"called again: {again}"
    if again[0] == TOLD or later == (0, NEW):
        return None
    return f"called again it leaves {later}, and there is a hash" if hashed else UNSEEN


def turn_bit(path: Path, share: float) -> None:
    """Change one bit of a file, as a disk does: at the beginning (0), in the middle (0.5)."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)
