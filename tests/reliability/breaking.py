"""Break one write of this process: every open for writing, rename, flush, removal and request is a point at which it can fail.

What a library writes by itself (safetensors, torch, parquet, SQLite) is one point, whatever it calls.
"""

import builtins
import errno
import io
import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import safetensors.torch
import torch
from pyarrow.parquet import ParquetWriter

DISK = ("kill", "torn", "full", "denied")
NETWORK = ("kill", "cut before", "cut after")
CONTENT = ("open", "fsync", "safetensors", "torch", "parquet")  # points at which a file's bytes are at stake
CHANGES = ("BEGIN IMMEDIATE", "INSERT", "UPDATE", "DELETE", "COMMIT")  # statements of SQLite that write

Seen = Callable[[str, int, str, str], None]


class Breaker:
    """Count the write points below a folder, and break the one with a number.

    Args:
        root: only what this process writes below it counts. at: the number, 0 for none. fault: one of DISK or NETWORK.
        network: count requests too.
        seen: called before ("kill") and after ("torn") every write with the fault that is possible there, the point's number,
            its kind and path.
    """

    def __init__(
        self, root: Path, at: int = 0, fault: str = "kill", *, network: bool = False, seen: Seen | None = None
    ):
        self.root, self.at, self.fault, self.seen = str(root.resolve()), at, fault, seen
        self.network = network or fault in NETWORK[1:]
        self.points: list[str] = []
        self.process, self.busy, self.lock = os.getpid(), False, threading.RLock()

    def point(self, kind: str, place: Any, then: Callable[[], Any]) -> Any:
        """Do a write, or break it."""
        with self.lock:
            path = None if self.busy or os.getpid() != self.process else self._path(place)
            if path is None:
                return then()
            self.busy = True
            try:
                self.points.append(f"{kind} {Path(path).suffix or Path(path).name[-12:]}")
                if len(self.points) == self.at:
                    self._break(kind, path, then)
                return self._shown(kind, path, then)
            finally:
                self.busy = False

    def request(self, then: Callable[[], Any], error: Callable[[], Exception]) -> Any:
        """Send a request, or break it; a network that is cut stays so."""
        self.points.append("request")
        if not self.at or len(self.points) < self.at:
            return then()
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "cut after" and len(self.points) == self.at:
            then()
        raise error()

    def _shown(self, kind: str, path: str, then: Callable[[], Any]) -> Any:
        number = len(self.points)
        if self.seen is None:
            return then()
        self.seen("kill", number, kind, path)
        try:
            return then()
        finally:
            self.seen("torn", number, kind, path)

    def _path(self, place: Any) -> str | None:
        if isinstance(place, int):
            place = f"/proc/self/fd/{place}"
        if not isinstance(place, str | os.PathLike):
            return None
        path = os.path.realpath(os.path.dirname(place)) + "/" + os.path.basename(place)
        path = os.path.realpath(place) if path.startswith("/proc/") else path
        return path if path.startswith(self.root + "/") else None

    def _break(self, kind: str, path: str, then: Callable[[], Any]) -> None:
        number = {"full": errno.ENOSPC, "denied": errno.EACCES}.get(self.fault)
        if number is not None and kind == "sqlite":
            full = "database or disk is full"
            raise sqlite3.OperationalError(full if self.fault == "full" else "unable to open database file")
        if number is not None:
            raise OSError(number, os.strerror(number), path)  # Python makes a PermissionError of EACCES
        if self.fault == "torn":
            then()
            tear(path, kind)
        os.kill(os.getpid(), signal.SIGKILL)


def tear(path: str | Path, kind: str) -> None:
    """Leave what a machine that loses its power leaves of a write: half of a file that is not flushed, and its end wrong; half
    of a folder that was being removed. A file that has two names was flushed under the first one."""
    if kind in CONTENT and os.path.isfile(path) and os.stat(path).st_nlink == 1:
        with open(path, "rb") as file:
            content = file.read()
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
        os.write(handle, content[: len(content) // 2] + b"\xff\x00")
        os.close(handle)
    elif kind == "rmtree":
        for entry in sorted(Path(path).rglob("*"))[::2]:
            if not entry.is_dir():
                entry.unlink()


@contextmanager
def broken(breaker: Breaker) -> Iterator[None]:
    """Send every write of this process through a breaker."""
    with ExitStack() as stack:

        def wrap(owner: Any, name: str, kind: str, which: int = 0, when: Callable[..., bool] | None = None) -> None:
            stack.enter_context(patch.object(owner, name, _through(breaker, getattr(owner, name), kind, which, when)))

        for name in ("replace", "rename", "link", "symlink"):
            wrap(os, name, name, which=1)
        for name in ("unlink", "remove", "rmdir", "mkdir", "truncate", "fsync"):
            wrap(os, name, name)
        wrap(os, "open", "open", when=_by_flags)
        wrap(builtins, "open", "open", when=_by_mode)
        wrap(io, "open", "open", when=_by_mode)
        wrap(safetensors.torch, "serialize_file", "safetensors", which=1)
        wrap(torch, "save", "torch", which=1)
        wrap(shutil, "rmtree", "rmtree")
        _wrap_parquet(stack, breaker)
        _wrap_sqlite(stack, breaker)
        if breaker.network:
            _wrap_requests(stack, breaker)
        yield


def _through(
    breaker: Breaker, real: Callable[..., Any], kind: str, which: int, when: Callable[..., bool] | None
) -> Callable[..., Any]:
    """Return a function that is a write point of the path in its argument number `which`."""

    def call(*given: Any, **options: Any) -> Any:
        if len(given) <= which or (when is not None and not when(*given, **options)):
            return real(*given, **options)
        return breaker.point(kind, given[which], lambda: real(*given, **options))

    return call


def _by_mode(file: Any, mode: str = "r", *rest: Any, **options: Any) -> bool:
    return bool(set(options.get("mode", mode)) & set("wax+"))


def _by_flags(path: Any, given: int, *rest: Any, **options: Any) -> bool:
    return bool(given & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _wrap_parquet(stack: ExitStack, breaker: Breaker) -> None:
    init = ParquetWriter.__init__

    def start(self: Any, where: Any, *given: Any, **options: Any) -> None:
        self._where = where if isinstance(where, str | os.PathLike) else None
        breaker.point("parquet", self._where, lambda: init(self, where, *given, **options))

    def written(real: Callable[..., Any]) -> Callable[..., Any]:
        def write(self: Any, *given: Any, **options: Any) -> Any:
            return breaker.point("parquet", self._where, lambda: real(self, *given, **options))

        return write

    stack.enter_context(patch.object(ParquetWriter, "__init__", start))
    for name in ("write_table", "close"):
        stack.enter_context(patch.object(ParquetWriter, name, written(getattr(ParquetWriter, name))))


def _wrap_sqlite(stack: ExitStack, breaker: Breaker) -> None:
    connect = sqlite3.connect

    class Connection(sqlite3.Connection):
        place: Any = None

        def execute(self, statement: str, *values: Any) -> Any:
            if not statement.lstrip().startswith(CHANGES):
                return super().execute(statement, *values)
            return breaker.point("sqlite", self.place, lambda: super(Connection, self).execute(statement, *values))

        def executemany(self, *values: Any) -> Any:
            return breaker.point("sqlite", self.place, lambda: super(Connection, self).executemany(*values))

    def connected(place: Any, *given: Any, **options: Any) -> Any:
        made = connect(place, *given, factory=Connection, **options)
        made.place = place
        return made

    stack.enter_context(patch.object(sqlite3, "connect", connected))


def _wrap_requests(stack: ExitStack, breaker: Breaker) -> None:
    send = httpx2.Client.send

    def sent(self: Any, *given: Any, **options: Any) -> Any:
        return breaker.request(lambda: send(self, *given, **options), lambda: httpx2.ConnectError("the network is cut"))

    stack.enter_context(patch.object(httpx2.Client, "send", sent))
