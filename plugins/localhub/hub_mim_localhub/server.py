"""The server as an ASGI application, and how it is run."""

import contextlib
import errno
import logging
import socket
import sqlite3
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from hub_mim_localhub import api_files, api_history, api_repositories, api_uploads, pages
from hub_mim_localhub.errors import HubError
from hub_mim_localhub.hub import Hub

MAX_HEADERS = 32 * 2**10
MAX_ADDRESS = 8 * 2**10
_log = logging.getLogger("hub_mim_localhub")


def make_app(root: str | Path | Hub, *, read_only: bool = False) -> Any:
    """Return the server of a root folder as an ASGI application.

    Args:
        root: folder, or a Hub that is open already. Whoever runs the application keeps other servers off (`hub.lock`).
        read_only: refuse every change.
    """
    parts = (api_repositories, api_history, api_uploads, api_files, pages)
    handlers: dict[Any, Any] = {
        HubError: _refuse,
        HTTPException: _refuse_http,
        OSError: _disk,
        sqlite3.Error: _disk,
        ClientDisconnect: _gone,
        Exception: _fault,
    }
    app = Starlette(routes=[route for part in parts for route in part.routes()], exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.hub = root if isinstance(root, Hub) else Hub(root, read_only=read_only)
    return QuotedPaths(app)


class QuotedPaths:
    """Route by addresses as they were sent: a branch `a/b` arrives as `a%2Fb` and is one part, not two."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request whose address and headers are within limits."""
        if scope["type"] == "http":
            raw = scope.get("raw_path") or scope["path"].encode()
            scope = dict(scope, path=raw.partition(b"?")[0].decode("latin-1"))
            refusal = _too_large(scope, raw)
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def _too_large(scope: Any, raw: bytes) -> Response | None:
    if len(raw) + len(scope["query_string"]) > MAX_ADDRESS:
        return _answer(414, f"the address has more than {MAX_ADDRESS} bytes")
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADERS:
        return _answer(431, f"the headers have more than {MAX_HEADERS} bytes")
    return None


def _answer(
    status: int, message: str, code: str = "", headers: dict[str, str] | None = None, **fields: Any
) -> Response:
    told = {"X-Error-Message": message.encode("ascii", "replace").decode().replace("\n", " ")[:1000]}
    if code:
        told["X-Error-Code"] = code
    return JSONResponse({"error": message, **fields}, status_code=status, headers=told | (headers or {}))


def _refuse(request: Request, error: Any) -> Response:
    return _answer(error.status, error.message, error.code, error.headers, **error.fields)


def _refuse_http(request: Request, error: Any) -> Response:
    code = "RepoNotFound" if error.status_code == 404 else ""
    return _answer(error.status_code, f"{error.detail}: {request.method} {request.url.path[:200]}", code, error.headers)


def _disk(request: Request, error: Any) -> Response:
    """Answer for a full disk or a busy database; nothing was changed."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "disk is full" in str(error):
        return _answer(507, "the disk of this Hub is full; nothing was changed")
    if "locked" in str(error):
        return _answer(503, "this Hub is busy; try again", headers={"Retry-After": "1"})
    return _fault(request, error)


def _gone(request: Request, error: Any) -> Response:
    return _answer(400, "the connection ended before the body did")


def _fault(request: Request, error: Any) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(500, "this Hub has failed; its own output says why")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that clients can reach from now on; 0 takes any free port.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another --port or --host"
        ) from error


def run(hub: Hub, place: socket.socket, *, log_level: str = "warning") -> None:
    """Serve until interrupted. The caller holds the lock of the root."""
    import uvicorn

    config = uvicorn.Config(
        make_app(hub),
        log_level=log_level,
        access_log=log_level == "info",
        server_header=False,
        h11_max_incomplete_event_size=MAX_HEADERS + MAX_ADDRESS,
        timeout_graceful_shutdown=5,
        http="h11",
    )
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after it has ended in order
        uvicorn.Server(config).run(sockets=[place])
