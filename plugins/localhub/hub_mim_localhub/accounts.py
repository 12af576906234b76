"""Users, their tokens, and links that are signed because the client sends no token with large files.

Of a token only its SHA-256 is kept: it has 256 random bits, so no slower hash is needed. Comparisons take constant time.
"""

import getpass
import hashlib
import hmac
import os
import re
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

from hub_mim_localhub.database import Database
from hub_mim_localhub.errors import HubError
from hub_mim_localhub.names import check_name

LINK_SECONDS = 24 * 3600  # a large file may take long to arrive
RESERVED = ("api", "models", "datasets", "spaces", "lfs", "style.css")


def now() -> str:
    """Return the time as the Hub writes it."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Return a time in UTC as the Hub writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def default_user() -> str:
    """Return a name for the first user: that of the login, where it can be one."""
    try:
        name = re.sub(r"[^A-Za-z0-9_]", "", getpass.getuser())
    except (OSError, KeyError):
        name = ""
    return name if name[:1].isalnum() else "me"


class Accounts:
    """The users of a database."""

    def __init__(self, database: Database):
        self.database = database
        with database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO secrets VALUES ('links', ?)", (secrets.token_bytes(32),))
            (self.key,) = connection.execute("SELECT value FROM secrets WHERE name = 'links'").fetchone()

    def names(self) -> list[str]:
        """Return the names of all users."""
        with self.database.read() as connection:
            return [row["name"] for row in connection.execute("SELECT name FROM users ORDER BY created, name")]

    def add(self, name: str, file: Path) -> None:
        """Make a user, or give one a new token, which is written to a file that only its owner can read.

        The file is written first: a token that nobody could read would lock the user out.
        """
        if check_name(name).lower() in RESERVED:
            raise HubError(400, f"{name!r} is the beginning of this Hub's own addresses; choose another name")
        token = "hf_" + secrets.token_urlsafe(32)
        partial = file.with_name(f".{secrets.token_hex(4)}.partial")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
            handle.write(token + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(partial, file)
        with self.database.write() as connection:
            connection.execute(
                "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash",
                (name, _hash(token), now()),
            )

    def user(self, authorization: str | None) -> str | None:
        """Return whose token a request carries, None where it carries none.

        Raises:
            HubError: the token is nobody's.
        """
        if authorization is None:
            return None
        scheme, _, token = authorization.partition(" ")
        given, found = _hash(token.strip()), None
        with self.database.read() as connection:
            for row in connection.execute("SELECT name, token_hash FROM users"):
                if hmac.compare_digest(row["token_hash"], given):
                    found = row["name"]
        if found is None or scheme.lower() != "bearer":
            raise HubError(401, "Invalid credentials in Authorization header")
        return found

    def sign(self, *facts: object) -> str:
        """Return the signature of the facts of a link, good for a day; `check` tells whether it is one."""
        expires = int(time.time()) + LINK_SECONDS
        return f"{expires}.{self._signature(expires, facts)}"

    def check(self, signature: str, *facts: object) -> None:
        """Raise unless a signature is ours, is for these facts, and has not run out."""
        expires, _, given = signature.partition(".")
        right = expires.isdecimal() and len(expires) < 12
        ours = self._signature(int(expires) if right else 0, facts)
        if not hmac.compare_digest(ours.encode(), given.encode("utf-8", "surrogatepass")) or not right:
            raise HubError(403, "the link is not signed by this Hub; ask for a new one by uploading again")
        if int(expires) < time.time():
            raise HubError(403, "the link has run out; upload again")

    def _signature(self, expires: int, facts: tuple[object, ...]) -> str:
        text = "\0".join(map(str, (expires, *facts)))
        return hmac.new(self.key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
