"""The SQLite database: users, repositories, refs, commits. One transaction is one change, whole or not at all."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from hub_mim_localhub.errors import HubError

VERSION = 1
_SCHEMA = """
CREATE TABLE users (name TEXT PRIMARY KEY COLLATE NOCASE, token_hash BLOB NOT NULL UNIQUE, created TEXT NOT NULL);
CREATE TABLE secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE repos (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, owner TEXT NOT NULL COLLATE NOCASE,
    name TEXT NOT NULL COLLATE NOCASE, private INTEGER NOT NULL, created TEXT NOT NULL, modified TEXT NOT NULL,
    card TEXT NOT NULL DEFAULT '{}', tags TEXT NOT NULL DEFAULT '[]', UNIQUE (kind, owner, name)
);
CREATE TABLE moves (
    kind TEXT NOT NULL, owner TEXT NOT NULL COLLATE NOCASE, name TEXT NOT NULL COLLATE NOCASE,
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, PRIMARY KEY (kind, owner, name)
);
CREATE TABLE commits (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, oid TEXT NOT NULL, parent TEXT, author TEXT NOT NULL,
    title TEXT NOT NULL, message TEXT NOT NULL, date TEXT NOT NULL, PRIMARY KEY (repo, oid)
) WITHOUT ROWID;
CREATE TABLE files (
    repo INTEGER NOT NULL, oid_of_commit TEXT NOT NULL, path TEXT NOT NULL, oid TEXT NOT NULL, sha256 TEXT NOT NULL,
    size INTEGER NOT NULL, lfs INTEGER NOT NULL, changed TEXT NOT NULL, PRIMARY KEY (repo, oid_of_commit, path),
    FOREIGN KEY (repo, oid_of_commit) REFERENCES commits ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX files_by_content ON files (sha256);
CREATE TABLE refs (
    repo INTEGER NOT NULL REFERENCES repos ON DELETE CASCADE, name TEXT NOT NULL, target TEXT NOT NULL,
    author TEXT NOT NULL, PRIMARY KEY (repo, name)
) WITHOUT ROWID;
CREATE TABLE uploads (
    sha256 TEXT NOT NULL, user TEXT NOT NULL COLLATE NOCASE, date TEXT NOT NULL, PRIMARY KEY (sha256, user)
) WITHOUT ROWID;
"""


class Database:
    """Connections to the database of a root; a new file gets the schema.

    Raises:
        HubError: the file was written by a newer version.
    """

    def __init__(self, path: Path):
        self.path = path
        path.touch(mode=0o600)
        with closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer; it is kept in the file
        with self.write() as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise HubError(500, f"{path} is of version {version}, this server knows {VERSION}; update it")
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {VERSION}")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Give a connection that sees one state of the database."""
        connection = self._connect()
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Give the one connection that may write; an error undoes everything."""
        connection = self._connect()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        finally:
            connection.close()  # rolls back what was not committed
