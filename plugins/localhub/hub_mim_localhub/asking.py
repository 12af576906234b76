"""What every handler needs: who asks, which repository and revision, a body of limited size."""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse

from hub_mim_localhub.errors import HubError, no_repository
from hub_mim_localhub.hub import Hub
from hub_mim_localhub.names import KINDS
from hub_mim_localhub.repositories import Repository

MAX_JSON = 8 * 2**20


def hub_of(request: Request) -> Hub:
    """Return the Hub that is served."""
    hub: Hub = request.app.state.hub
    return hub


def user_of(request: Request) -> str | None:
    """Return whose token a request carries; see `Accounts.user`."""
    return hub_of(request).accounts.user(request.headers.get("authorization"))


def writer_of(request: Request) -> str:
    """Return who asks for a change.

    Raises:
        HubError: nobody is named, or this Hub is read-only.
    """
    if hub_of(request).read_only:
        raise HubError(403, "this Hub is read-only")
    user = user_of(request)
    if user is None:
        raise HubError(401, "a token is needed; set HF_TOKEN")
    return user


def parameter(request: Request, name: str) -> str:
    """Return a part of the address, its %-quotes undone (the server routes by quoted addresses: a branch may have a '/')."""
    try:
        return unquote(request.path_params[name], errors="strict")
    except UnicodeDecodeError as error:
        raise HubError(400, "the address is not UTF-8") from error


def kind_of(request: Request) -> str:
    """Return the kind of repository that the address names."""
    parts = request.url.path.split("/")
    word = parts[2] if parts[1] == "api" else parts[1]
    return "dataset" if word == f"{KINDS[1]}s" else "model"


def repository_of(request: Request, *, write: bool = False) -> Repository:
    """Return the repository that the address names; see `Repositories.find`."""
    user = writer_of(request) if write else user_of(request)
    name = f"{parameter(request, 'owner')}/{parameter(request, 'name')}"
    try:
        return hub_of(request).repositories.find(kind_of(request), name, user, write=write)
    except UnicodeEncodeError as error:  # SQLite takes no lone surrogates
        raise no_repository(ascii(name)) from error


async def body(request: Request, limit: int = MAX_JSON) -> bytes:
    """Return a whole body of limited size.

    Raises:
        HubError: it is larger.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise HubError(413, f"the body has more than {limit:,} bytes")
    return bytes(content)


async def json_body(request: Request) -> dict[str, Any]:
    """Return a body that is a JSON object; an empty one counts as one.

    Raises:
        HubError: it is none.
    """
    return parse_object(await body(request) or b"{}")


def parse_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        HubError: it is none.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HubError(400, "the body is not JSON") from error
    if not isinstance(value, dict):
        raise HubError(400, f"the body must be a JSON object, not {type(value).__name__}")
    return value


async def lines(request: Request, limit: int) -> AsyncIterator[bytes]:
    """Give the lines of a body as they arrive, never the whole.

    Raises:
        HubError: a line has more than `limit` bytes.
    """
    rest = bytearray()
    async for chunk in request.stream():
        rest += chunk
        if b"\n" in chunk:
            *whole, last = rest.split(b"\n")
            for line in whole:
                if line.strip():
                    yield bytes(line)
            rest = bytearray(last)
        if len(rest) > limit:
            raise HubError(413, f"a line of the body has more than {limit:,} bytes; upload large files as LFS")
    if rest.strip():
        yield bytes(rest)


def text_of(values: dict[str, Any], name: str, *, default: str | None = None, limit: int = 10_000) -> str:
    """Return a member of a JSON object that must be text.

    Raises:
        HubError: it is absent and has no default, or it is no text.
    """
    value = values.get(name, default)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or len(value) > limit or not _encodes(value):
        raise HubError(400, f"{name!r} must be text of at most {limit} characters")
    return value


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def number(request: Request, name: str, default: int, most: int) -> int:
    """Return a count from the query of an address."""
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise HubError(400, f"{name} must be a number from 0 to {most}, not {text[:40]!r}")
    return min(int(text), most)


def flag(request: Request, name: str) -> bool:
    """Tell whether the query of an address asks for something."""
    return request.query_params.get(name, "").lower() in ("1", "true", "yes")


def page(request: Request, items: list[Any], start: int, more: bool) -> JSONResponse:
    """Answer with a part of a list and, where there is more, the address of the next part."""
    headers = {}
    if more:
        following = request.url.include_query_params(cursor=start + len(items))
        headers["Link"] = f'<{following}>; rel="next"'
    return JSONResponse(items, headers=headers)
