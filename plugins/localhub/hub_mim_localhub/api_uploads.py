"""Calls before a commit: which files go how, and the bodies of large ones, streamed to disk and checked."""

import base64
import binascii
from typing import Any
from urllib.parse import urlencode

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub_mim_localhub.api_history import committable
from hub_mim_localhub.asking import flag, hub_of, json_body, parameter, repository_of, text_of, writer_of
from hub_mim_localhub.errors import HubError
from hub_mim_localhub.names import SHA256, check_path
from hub_mim_localhub.objects import Incoming

MAX_TEXT = 2**20  # larger files, and those that are no text, are uploaded by themselves
MAX_LARGE = 2**40
_PIECE = 2**20


async def preupload(request: Request) -> Response:
    """Say for each file whether it goes into the commit's body or before it, and its hash if it is there already."""
    values = await json_body(request)
    files, revision = _objects(values, "files"), parameter(request, "revision")

    def work() -> Response:
        repository, _ = committable(request, revision, flag(request, "create_pr"))
        history = hub_of(request).history
        present = history.files(repository, history.resolve(repository, revision))
        answer = []
        for file in files:
            path = check_path(file.get("path"))
            old = present.get(path)
            mode = "lfs" if _is_large(file) else "regular"
            answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old.etag if old else None})
        return JSONResponse({"files": answer})

    return await run_in_threadpool(work)


def _objects(values: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = values.get(name)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise HubError(400, f"{name!r} must be a list of objects")
    return items


def _is_large(file: dict[str, Any]) -> bool:
    size = file.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise HubError(400, f"the size of a file must be a whole number of bytes, not {str(size)[:40]!r}")
    try:
        sample = base64.b64decode(text_of(file, "sample", default=""), validate=True)
    except (binascii.Error, ValueError) as error:
        raise HubError(400, "the sample of a file is not base64") from error
    # a sample may end inside a character: only what stands before its last three bytes has to be text
    return size > MAX_TEXT or b"\0" in sample or not _is_text(sample)


def _is_text(sample: bytes) -> bool:
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(sample) - 3 and error.reason == "unexpected end of data"
    return True


async def lfs_batch(request: Request) -> Response:
    """Give a signed link for each large file that is not here yet; the client sends no token with those."""
    values = await json_body(request)
    objects = _objects(values, "objects")

    def work() -> Response:
        user, hub = writer_of(request), hub_of(request)
        repository_of(request)
        return JSONResponse(
            {"transfer": "basic", "objects": [_link(request, user, hub.history.has, each) for each in objects]}
        )

    return await run_in_threadpool(work)


def _link(request: Request, user: str, has: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    sha256, size = text_of(wanted, "oid"), wanted.get("size")
    if not SHA256.fullmatch(sha256) or not isinstance(size, int) or not 0 <= size <= MAX_LARGE:
        message = f"a large file has a SHA-256 and at most {MAX_LARGE:,} bytes"
        return {"oid": sha256[:64], "size": 0, "error": {"code": 422, "message": message}}
    known = {"oid": sha256, "size": size}
    if has(user, sha256) == size:
        return known
    signature = hub_of(request).accounts.sign(user, sha256, size)
    query = urlencode({"user": user, "size": size, "signature": signature})
    return known | {"actions": {"upload": {"href": f"{request.base_url}lfs/{sha256}?{query}"}}}


async def receive(request: Request) -> Response:
    """Take the body of a large file; it counts only if size and hash are those of the link."""
    hub, asked = hub_of(request), request.query_params
    sha256, user, size = parameter(request, "sha256"), asked.get("user", ""), asked.get("size", "")
    hub.accounts.check(asked.get("signature", ""), user, sha256, size)
    if hub.read_only:
        raise HubError(403, "this Hub is read-only")
    announced = int(size)
    with Incoming(hub.objects) as incoming:
        piece = bytearray()
        async for chunk in request.stream():
            piece += chunk
            if incoming.size + len(piece) > announced:
                raise HubError(400, f"the upload has more than the {announced} bytes that were announced")
            if len(piece) >= _PIECE:
                await run_in_threadpool(incoming.write, bytes(piece))
                piece.clear()
        await run_in_threadpool(incoming.write, bytes(piece))
        await run_in_threadpool(incoming.keep, sha256, announced)
    await run_in_threadpool(hub.history.uploaded, user, sha256)
    return Response(status_code=200)


def no_xet(request: Request) -> Response:
    """Say what to set: the client asks for Xet unless told not to, and does not fall back."""
    raise HubError(404, "this Hub takes plain uploads: set HF_HUB_DISABLE_XET=1 before Python starts")


def routes() -> list[Route]:
    """Return the addresses of these calls."""
    found = [Route("/lfs/{sha256}", receive, methods=["PUT"])]
    for kind, prefix in (("models", ""), ("datasets", "/datasets")):
        place = f"/api/{kind}/{{owner}}/{{name}}"
        found += [
            Route(f"{place}/preupload/{{revision}}", preupload, methods=["POST"]),
            Route(f"{prefix}/{{owner}}/{{name}}.git/info/lfs/objects/batch", lfs_batch, methods=["POST"]),
            Route(f"{place}/xet-write-token/{{revision}}", no_xet, methods=["GET"]),
            Route(f"{place}/xet-read-token/{{revision}}", no_xet, methods=["GET"]),
        ]
    return found
