"""Refs and commits of repositories. A commit is one database transaction; its files were flushed to disk before."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hub_mim_localhub import metadata
from hub_mim_localhub.accounts import now, stamp
from hub_mim_localhub.database import Database
from hub_mim_localhub.errors import HubError, no_entry, no_revision
from hub_mim_localhub.names import COMMIT, check_ref
from hub_mim_localhub.objects import Objects, Stored
from hub_mim_localhub.repositories import Repository

MAIN = "refs/heads/main"
PULLS = "refs/pr/"
MAX_FILES = 100_000


@dataclass(frozen=True)
class File(Stored):
    """A file of a commit, and the commit that brought it."""

    changed: str


@dataclass(frozen=True)
class Change:
    """One operation of a commit.

    Attributes:
        path: of a file, or of a folder where `folder` is true.
        file: what it becomes; None deletes.
    """

    path: str
    file: Stored | None = None
    folder: bool = False


class History:
    """Refs and commits of all repositories of a database."""

    def __init__(self, database: Database, objects: Objects):
        self.database, self.objects = database, objects

    def begin(self, repository: Repository) -> None:
        """Give a new repository its first, empty commit."""
        with self.database.write() as connection:
            if _ref(connection, repository.number, MAIN) is None:
                commit = _insert(connection, repository, None, repository.owner, "initial commit", "", {})
                _set_ref(connection, repository.number, MAIN, commit, repository.owner)

    def resolve(self, repository: Repository, revision: str) -> str:
        """Return the commit of a branch, a tag, a full ref name, or the beginning of a commit's hash.

        Raises:
            HubError: there is none.
        """
        with self.database.read() as connection:
            return _resolve(connection, repository.number, revision)

    def refs(self, repository: Repository) -> dict[str, str]:
        """Return the commits of all refs by full name."""
        with self.database.read() as connection:
            rows = connection.execute(
                "SELECT name, target FROM refs WHERE repo = ? ORDER BY name", (repository.number,)
            )
            return {row["name"]: row["target"] for row in rows}

    def ref_author(self, repository: Repository, name: str) -> str | None:
        """Return who made a ref, None where it is not there."""
        with self.database.read() as connection:
            row = _ref(connection, repository.number, name)
        return None if row is None else row["author"]

    def files(self, repository: Repository, commit: str) -> dict[str, File]:
        """Return the files of a commit by path, sorted."""
        with self.database.read() as connection:
            return _files(connection, repository.number, commit)

    def file(self, repository: Repository, commit: str, path: str) -> File:
        """Return one file of a commit.

        Raises:
            HubError: it is not there.
        """
        query = "SELECT * FROM files WHERE repo = ? AND oid_of_commit = ? AND path = ?"
        with self.database.read() as connection:
            row = connection.execute(query, (repository.number, commit, path)).fetchone()
        if row is None:
            raise no_entry(path, commit)
        return _file(row)

    def commits(self, repository: Repository, commit: str, start: int, count: int) -> tuple[list[dict[str, Any]], bool]:
        """Return a commit and those before it, newest first, `count` from `start` on, and whether there are more."""
        query = """WITH RECURSIVE line (oid, parent, depth) AS (
            SELECT oid, parent, 0 FROM commits WHERE repo = :repo AND oid = :oid
            UNION ALL SELECT commits.oid, commits.parent, depth + 1 FROM commits JOIN line ON commits.oid = line.parent
            WHERE commits.repo = :repo AND depth < :last)
            SELECT commits.* FROM line JOIN commits ON commits.repo = :repo AND commits.oid = line.oid
            WHERE depth >= :start ORDER BY depth"""
        values = {"repo": repository.number, "oid": commit, "last": start + count, "start": start}
        with self.database.read() as connection:
            rows = [dict(row) for row in connection.execute(query, values)]
        return rows[:count], len(rows) > count

    def titles(self, repository: Repository, oids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return title and date of commits by hash."""
        query = "SELECT oid, title, date FROM commits WHERE repo = ? AND oid IN (SELECT value FROM json_each(?))"
        with self.database.read() as connection:
            rows = connection.execute(query, (repository.number, json.dumps(sorted(set(oids)))))
            return {row["oid"]: {"id": row["oid"], "title": row["title"], "date": row["date"]} for row in rows}

    def has(self, user: str, sha256: str) -> int | None:
        """Return the size of a file that a user has uploaded or may read, None of any other: a hash alone gives nothing."""
        query = """SELECT 1 FROM uploads WHERE sha256 = :sha256 AND user = :user UNION ALL
            SELECT 1 FROM files JOIN repos ON repos.id = files.repo
            WHERE sha256 = :sha256 AND (private = 0 OR owner = :user) LIMIT 1"""
        with self.database.read() as connection:
            known = connection.execute(query, {"sha256": sha256, "user": user}).fetchone()
        return self.objects.size(sha256) if known else None

    def uploaded(self, user: str, sha256: str) -> None:
        """Note that a user has uploaded a file."""
        with self.database.write() as connection:
            connection.execute("INSERT OR REPLACE INTO uploads VALUES (?, ?, ?)", (sha256, user, now()))

    def commit(
        self,
        repository: Repository,
        revision: str,
        author: str,
        title: str,
        message: str,
        changes: list[Change],
        *,
        begun_at: str,
        parent: str | None = None,
        pull_request: bool = False,
    ) -> tuple[str, str]:
        """Commit changes to a branch or pull request, or as a new pull request.

        Args:
            begun_at: the commit that the ref named when the request arrived.
            parent: the commit that the author had seen, or its first digits.
        Returns:
            The commit (the ref's own where nothing differs) and the full name of the ref.
        Raises:
            HubError: 412 where the ref has moved on, 404 for deleting what is not there.
        """
        with self.database.write() as connection:
            name = writable_ref(revision)
            head = _resolve(connection, repository.number, name)
            if not pull_request and (head != begun_at or (parent and not head.startswith(parent))):
                raise HubError(412, "A commit has happened since. Please refresh and try again.", commit=head)
            base = _resolve(connection, repository.number, parent) if pull_request and parent else head
            before = _files(connection, repository.number, base)
            after = _apply(before, changes, base)
            if pull_request:
                name = f"{PULLS}{_next_pull(connection, repository.number)}"
            elif after == before:
                return head, name
            commit = _insert(connection, repository, base, author, title, message, after)
            _set_ref(connection, repository.number, name, commit, author)
            if name == MAIN:
                self._describe(connection, repository, after.get("README.md"))
            return commit, name

    def _describe(self, connection: sqlite3.Connection, repository: Repository, card: Stored | None) -> None:
        """Keep what the card says, for lists and searches."""
        text = None if card is None else self.objects.read(card.sha256, metadata.MAX_CARD)
        try:
            data = {} if text is None else metadata.read_metadata(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise HubError(400, "README.md is not UTF-8 text") from error
        connection.execute(
            "UPDATE repos SET modified = ?, card = ?, tags = ? WHERE id = ?",
            (now(), json.dumps(data), json.dumps(metadata.tags(data)), repository.number),
        )

    def create_ref(self, repository: Repository, name: str, revision: str, author: str) -> None:
        """Make a branch or tag.

        Raises:
            HubError: the name is taken or cannot be one, or there is no such revision.
        """
        check_ref(name.split("/", 2)[2])
        with self.database.write() as connection:
            target = _resolve(connection, repository.number, revision)
            if _ref(connection, repository.number, name) is not None:
                raise HubError(409, f"{name} exists already")
            _set_ref(connection, repository.number, name, target, author)

    def delete_ref(self, repository: Repository, name: str) -> None:
        """Remove a branch or tag; the main branch stays."""
        if name == MAIN:
            raise HubError(400, "the branch main cannot be deleted")
        with self.database.write() as connection:
            if _ref(connection, repository.number, name) is None:
                raise no_revision(name.split("/", 2)[2])
            connection.execute("DELETE FROM refs WHERE repo = ? AND name = ?", (repository.number, name))

    def collect(self, before: datetime) -> int:
        """Remove files that no commit has and that arrived before a time; returns how many.

        Only at the start of the one server of a root: a running one may be about to commit them.
        """
        with self.database.write() as connection:
            kept = {row["sha256"] for row in connection.execute("SELECT DISTINCT sha256 FROM files")}
            connection.execute("DELETE FROM uploads WHERE date < ?", (stamp(before),))
        doomed = [
            path
            for path in self.objects.place.glob("*/*")
            if path.parent.name + path.name not in kept and path.stat().st_mtime < before.timestamp()
        ]
        for path in doomed:
            path.unlink()
        return len(doomed)


def writable_ref(revision: str) -> str:
    """Return the full name of a ref that can be committed to: a branch or a pull request."""
    if revision.startswith("refs/") and not revision.startswith(("refs/heads/", PULLS)):
        raise HubError(400, f"{revision} is no branch and no pull request")
    return revision if revision.startswith("refs/") else f"refs/heads/{revision}"


def _ref(connection: sqlite3.Connection, repo: int, name: str) -> sqlite3.Row | None:
    found: sqlite3.Row | None = connection.execute(
        "SELECT target, author FROM refs WHERE repo = ? AND name = ?", (repo, name)
    ).fetchone()
    return found


def _set_ref(connection: sqlite3.Connection, repo: int, name: str, target: str, author: str) -> None:
    connection.execute(
        "INSERT INTO refs VALUES (?, ?, ?, ?) ON CONFLICT (repo, name) DO UPDATE SET target = excluded.target",
        (repo, name, target, author),
    )


def _resolve(connection: sqlite3.Connection, repo: int, revision: str) -> str:
    for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
        if name.startswith("refs/") and (row := _ref(connection, repo, name)) is not None:
            return str(row["target"])
    if COMMIT.fullmatch(revision):
        rows = connection.execute(
            "SELECT oid FROM commits WHERE repo = ? AND substr(oid, 1, ?) = ? LIMIT 2", (repo, len(revision), revision)
        ).fetchall()
        if len(rows) == 1:
            return str(rows[0]["oid"])
    raise no_revision(revision)


def _next_pull(connection: sqlite3.Connection, repo: int) -> int:
    names = connection.execute("SELECT name FROM refs WHERE repo = ? AND name LIKE 'refs/pr/%'", (repo,))
    return 1 + max((int(row["name"].removeprefix(PULLS)) for row in names), default=0)


def _file(row: sqlite3.Row) -> File:
    return File(row["oid"], row["sha256"], row["size"], bool(row["lfs"]), row["changed"])


def _files(connection: sqlite3.Connection, repo: int, commit: str) -> dict[str, File]:
    query = "SELECT * FROM files WHERE repo = ? AND oid_of_commit = ? ORDER BY path"
    return {row["path"]: _file(row) for row in connection.execute(query, (repo, commit))}


def _apply(before: Mapping[str, File], changes: list[Change], base: str) -> dict[str, Stored]:
    """Return the files after some changes, in their order."""
    after: dict[str, Stored] = dict(before)
    for change in changes:
        if change.file is not None:
            old = after.get(change.path)
            same = old is not None and (old.oid, old.sha256) == (change.file.oid, change.file.sha256)
            after[change.path] = old if same and old is not None else change.file
            continue
        inside = f"{change.path}/"
        doomed = [path for path in after if path.startswith(inside)] if change.folder else [change.path]
        if not doomed or any(path not in after for path in doomed):
            error = no_entry(change.path, base)
            error.message = f"A file with this name doesn't exist: {change.path}"
            raise error
        for path in doomed:
            del after[path]
    _check_tree(after)
    return after


def _check_tree(files: Mapping[str, Stored]) -> None:
    if len(files) > MAX_FILES:
        raise HubError(400, f"a repository holds at most {MAX_FILES} files, this commit would make {len(files)}")
    for path in files:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            if folder in files:
                raise HubError(400, f"{folder!r} cannot be a file and a folder (of {path!r})")


def _insert(
    connection: sqlite3.Connection,
    repository: Repository,
    parent: str | None,
    author: str,
    title: str,
    message: str,
    files: Mapping[str, Stored],
) -> str:
    """Write a commit and its files; returns its hash, which depends on all that it holds."""
    date = now()
    listing = [(path, file.oid, file.sha256) for path, file in sorted(files.items())]
    facts = json.dumps([repository.number, parent, author, title, message, date, listing])
    oid = hashlib.sha1(facts.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()
    connection.execute(
        "INSERT INTO commits VALUES (?, ?, ?, ?, ?, ?, ?)",
        (repository.number, oid, parent, author, title, message, date),
    )
    rows = [
        (repository.number, oid, path, file.oid, file.sha256, file.size, file.lfs, getattr(file, "changed", oid))
        for path, file in files.items()
    ]
    connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
    return oid
