"""Repositories: who owns them, who may see them, which there are."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from hub_mim_localhub.accounts import now
from hub_mim_localhub.database import Database
from hub_mim_localhub.errors import HubError, no_repository
from hub_mim_localhub.names import check_kind, check_name

SORTS = {"lastModified": "modified", "createdAt": "created", "id": "owner || '/' || name"}


@dataclass(frozen=True)
class Repository:
    """A repository as it is in the database."""

    number: int
    kind: str
    owner: str
    name: str
    private: bool
    created: str
    modified: str
    card: dict[str, Any]
    tags: list[str]

    @property
    def id(self) -> str:
        """Return owner and name."""
        return f"{self.owner}/{self.name}"

    @property
    def place(self) -> str:
        """Return its address below the Hub's: the id, of a dataset behind `datasets/`."""
        return f"datasets/{self.id}" if self.kind == "dataset" else self.id

    def owned_by(self, user: str | None) -> bool:
        """Tell whether a user may change it."""
        return user is not None and user.lower() == self.owner.lower()


def _of(row: sqlite3.Row) -> Repository:
    return Repository(
        row["id"], row["kind"], row["owner"], row["name"], bool(row["private"]), row["created"], row["modified"],
        json.loads(row["card"]), json.loads(row["tags"]),
    )  # fmt: skip


class Repositories:
    """The repositories of a database."""

    def __init__(self, database: Database):
        self.database = database

    def create(self, user: str, kind: Any, owner: Any, name: Any, private: bool) -> tuple[Repository, bool]:
        """Make an empty repository; returns it and whether it is new.

        Raises:
            HubError: a name that cannot be one, or a namespace that is not the user's.
        """
        kind, owner, name = check_kind(kind), check_name(user if owner is None else owner), check_name(name)
        _check_namespace(user, owner)
        with self.database.write() as connection:
            row = _find(connection, kind, owner, name)
            if row is not None and _taken(row, owner, name):
                return _of(row), False
            connection.execute(
                "DELETE FROM moves WHERE kind = ? AND owner = ? AND name = ?", (kind, owner, name)
            )  # a new repository may take the name that another one left
            moment = now()
            connection.execute(
                "INSERT INTO repos (kind, owner, name, private, created, modified) VALUES (?, ?, ?, ?, ?, ?)",
                (kind, owner, name, private, moment, moment),
            )
            row = _find(connection, kind, owner, name)
            assert row is not None
            return _of(row), True

    def find(self, kind: str, name: str, user: str | None, *, write: bool = False) -> Repository:
        """Return a repository by its id, also by one that it had before it was moved.

        Raises:
            HubError: 404 where it is not there or the user may not see it, 403 where the user may not change it.
        """
        owner, slash, short = name.partition("/")
        with self.database.read() as connection:
            row = _find(connection, kind, owner, short) if slash else None
        if row is None or (row["private"] and not _of(row).owned_by(user)):
            raise no_repository(name)
        found = _of(row)
        if write and not found.owned_by(user):
            raise not_owner(found.id, user)
        return found

    def delete(self, repository: Repository) -> None:
        """Remove a repository with its history; its files go when the server starts next, if nothing else has them."""
        with self.database.write() as connection:
            connection.execute("DELETE FROM repos WHERE id = ?", (repository.number,))

    def set_private(self, repository: Repository, private: bool) -> None:
        """Hide a repository from all but its owner, or show it."""
        with self.database.write() as connection:
            connection.execute("UPDATE repos SET private = ? WHERE id = ?", (private, repository.number))

    def move(self, repository: Repository, user: str, goal: Any) -> None:
        """Give a repository another name; the old one goes on leading to it."""
        owner, _, name = goal.partition("/") if isinstance(goal, str) else ("", "", "")
        owner, name = check_name(owner), check_name(name)
        _check_namespace(user, owner)
        with self.database.write() as connection:
            row = _find(connection, repository.kind, owner, name)
            if row is not None and _taken(row, owner, name) and row["id"] != repository.number:
                raise HubError(409, f"{goal} exists already")
            connection.execute(
                "DELETE FROM moves WHERE kind = ? AND owner = ? AND name = ?", (repository.kind, owner, name)
            )
            connection.execute(
                "INSERT OR REPLACE INTO moves VALUES (?, ?, ?, ?)",
                (repository.kind, repository.owner, repository.name, repository.number),
            )
            connection.execute("UPDATE repos SET owner = ?, name = ? WHERE id = ?", (owner, name, repository.number))

    def listed(
        self, kind: str, user: str | None, wanted: dict[str, Any], sort: str, descending: bool, start: int, count: int
    ) -> tuple[list[Repository], bool]:
        """Return repositories that a user may see, `count` from `start` on, and whether there are more.

        Args:
            wanted: `search` (part of the id, any case), `author`, `pipeline_tag`, `filter` (tags that all must be there).
            sort: one of `SORTS`.
        """
        words, values = ["kind = ?", "(private = 0 OR owner = ?)"], [kind, user or ""]
        if wanted.get("author"):
            words.append("owner = ?")
            values.append(wanted["author"])
        if wanted.get("search"):
            words.append("instr(lower(owner || '/' || name), lower(?)) > 0")
            values.append(wanted["search"])
        if wanted.get("pipeline_tag"):
            words.append("json_extract(card, '$.pipeline_tag') = ?")
            values.append(wanted["pipeline_tag"])
        for tag in wanted.get("filter", ()):
            words.append("EXISTS (SELECT 1 FROM json_each(tags) WHERE value = ?)")
            values.append(tag)
        order = f"{SORTS[sort]} {'DESC' if descending else 'ASC'}, id DESC"
        query = f"SELECT * FROM repos WHERE {' AND '.join(words)} ORDER BY {order} LIMIT ? OFFSET ?"
        with self.database.read() as connection:
            rows = connection.execute(query, (*values, count + 1, start)).fetchall()
        return [_of(row) for row in rows[:count]], len(rows) > count


def not_owner(name: str, user: str | None) -> HubError:
    """Answer for a change by someone who may see a repository but does not own it."""
    if user is None:
        return HubError(401, f"{name} can only be changed with its owner's token; set HF_TOKEN")
    return HubError(403, f"{user} may not change {name}")


def _check_namespace(user: str, owner: str) -> None:
    if owner.lower() != user.lower():
        raise HubError(403, f"{user} may not make repositories of {owner}; use {user}/...")


def _find(connection: sqlite3.Connection, kind: str, owner: str, name: str) -> sqlite3.Row | None:
    row = connection.execute("SELECT * FROM repos WHERE kind = ? AND owner = ? AND name = ?", (kind, owner, name))
    moved = """SELECT repos.* FROM moves JOIN repos ON repos.id = moves.repo
        WHERE moves.kind = ? AND moves.owner = ? AND moves.name = ?"""
    return row.fetchone() or connection.execute(moved, (kind, owner, name)).fetchone()


def _taken(row: sqlite3.Row, owner: str, name: str) -> bool:
    """Tell whether a row has the name now, not only had it once."""
    return bool(row["owner"].lower() == owner.lower() and row["name"].lower() == name.lower())
