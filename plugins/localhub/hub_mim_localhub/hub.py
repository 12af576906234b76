"""The Hub under a root folder: its users, repositories, history and files, and the lock that keeps a second server out."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hub_mim_localhub.accounts import Accounts, default_user
from hub_mim_localhub.database import Database
from hub_mim_localhub.history import History
from hub_mim_localhub.objects import Objects
from hub_mim_localhub.repositories import Repositories

TOKEN = "token"
UNUSED_DAYS = 1  # how long an uploaded file may wait for its commit


class Hub:
    """All that a server serves.

    Args:
        root: folder; made if it is not there. Nobody else on the machine can look into a new one.
        read_only: whether every change is refused.
    """

    def __init__(self, root: str | Path, *, read_only: bool = False):
        self.root, self.read_only = Path(root), read_only
        self.root.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.database = Database(self.root / "hub.sqlite")
        self.objects = Objects(self.root)
        self.accounts = Accounts(self.database)
        self.repositories = Repositories(self.database)
        self.history = History(self.database, self.objects)

    @property
    def token_file(self) -> Path:
        """Return where the token of the first user lies."""
        return self.root / TOKEN

    def first_user(self, name: str | None = None) -> str:
        """Make a user and a token where there is none yet; returns the first user's name."""
        names = self.accounts.names()
        if not names:
            self.accounts.add(name or default_user(), self.token_file)
            names = self.accounts.names()
        return names[0]

    def tidy(self) -> None:
        """Remove what interrupted uploads and deleted repositories left. Only under the lock."""
        self.objects.clean()
        self.history.collect(datetime.now(UTC) - timedelta(days=UNUSED_DAYS))


@contextmanager
def lock(root: str | Path, seconds: float = 0) -> Iterator[None]:
    """Keep other servers off a root while the block runs; the lock goes with the process, however it ends.

    Args:
        root: folder; made if it is not there.
        seconds: how long to wait for another one to end.
    Raises:
        RuntimeError: another server has it.
    """
    Path(root).mkdir(parents=True, mode=0o700, exist_ok=True)
    handle = os.open(Path(root) / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + seconds
        while not _locked(handle):
            if time.monotonic() >= end:
                raise RuntimeError(f"{root} is being served by another process; stop that one, or serve another folder")
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
