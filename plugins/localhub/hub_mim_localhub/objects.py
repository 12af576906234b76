"""Files by their SHA-256: written beside, checked, flushed, renamed; never changed afterwards."""

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from hub_mim_localhub.errors import HubError
from hub_mim_localhub.names import SHA256


@dataclass(frozen=True)
class Stored:
    """A file as a commit names it.

    Attributes:
        oid: git's SHA-1 of the blob; of the pointer file where `lfs` is true.
        sha256: of the content. size: in bytes. lfs: whether it was uploaded as a large file.
    """

    oid: str
    sha256: str
    size: int
    lfs: bool

    @property
    def etag(self) -> str:
        """Return what the client names the file by in its cache."""
        return self.sha256 if self.lfs else self.oid


def large(sha256: str, size: int) -> Stored:
    """Describe a large file as git-lfs does."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
    return Stored(_git_hash(pointer.encode()), sha256, size, True)


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Objects:
    """The files under a root.

    Args:
        root: folder; `objects/` and `incoming/` are made in it.
    """

    def __init__(self, root: Path):
        self.place, self.incoming = root / "objects", root / "incoming"
        for folder in (self.place, self.incoming):
            folder.mkdir(mode=0o700, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Return where a file lies, whether or not it is there."""
        if not SHA256.fullmatch(sha256):
            raise HubError(400, f"{sha256[:80]!r} is no SHA-256; it has 64 hexadecimal digits")
        return self.place / sha256[:2] / sha256[2:]

    def size(self, sha256: str) -> int | None:
        """Return the size of a file, None where it is not there."""
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, sha256: str, limit: int) -> bytes | None:
        """Return the content of a file of at most `limit` bytes, None for a larger or absent one."""
        size = self.size(sha256)
        return None if size is None or size > limit else self.path(sha256).read_bytes()

    def put(self, content: bytes) -> Stored:
        """Keep a small file."""
        with Incoming(self) as incoming:
            incoming.write(content)
            sha256, size = incoming.keep()
        return Stored(_git_hash(content), sha256, size, False)

    def clean(self) -> int:
        """Remove what interrupted uploads left; returns how many files. Only the one server of a root may call it."""
        left = list(self.incoming.iterdir())
        for path in left:
            path.unlink()
        return len(left)


class Incoming:
    """A file that is arriving; it becomes visible in `keep`, or is gone at the end of the block."""

    def __init__(self, objects: Objects):
        self.objects = objects
        self.partial = objects.incoming / uuid.uuid4().hex
        self.hash, self.size = hashlib.sha256(), 0

    def __enter__(self) -> "Incoming":
        self.file = self.partial.open("xb")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.file.close()
        self.partial.unlink(missing_ok=True)

    def write(self, content: bytes) -> None:
        """Append bytes."""
        self.file.write(content)
        self.hash.update(content)
        self.size += len(content)

    def keep(self, sha256: str | None = None, size: int | None = None) -> tuple[str, int]:
        """Check the hash and the size where given, flush to disk, give the file its name; returns both.

        Raises:
            HubError: the content is not what was announced.
        """
        found = self.hash.hexdigest()
        if (sha256 is not None and sha256 != found) or (size is not None and size != self.size):
            raise HubError(
                400, f"the upload has {self.size} bytes and SHA-256 {found}; {size} bytes and {sha256} were announced"
            )
        goal = self.objects.path(found)
        self.file.flush()
        os.fsync(self.file.fileno())
        goal.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(self.partial, goal)
        for folder in (goal.parent, goal.parent.parent):
            sync_folder(folder)
        return found, self.size


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to disk; Windows cannot open folders, and needs it less."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
