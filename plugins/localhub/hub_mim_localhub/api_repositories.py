"""Calls about repositories as a whole: who am I, create, delete, move, settings, info, lists, cards."""

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub_mim_localhub import metadata
from hub_mim_localhub.asking import (
    flag,
    hub_of,
    json_body,
    kind_of,
    number,
    page,
    parameter,
    repository_of,
    text_of,
    user_of,
    writer_of,
)
from hub_mim_localhub.errors import HubError
from hub_mim_localhub.history import File
from hub_mim_localhub.hub import Hub
from hub_mim_localhub.names import check_kind
from hub_mim_localhub.objects import large
from hub_mim_localhub.repositories import SORTS, Repository

MAX_PAGE = 1000
MAX_CONFIG = 2**20


def who_am_i(request: Request) -> Response:
    """Tell whose token it is."""
    user = user_of(request)
    if user is None:
        raise HubError(401, "a token is needed; set HF_TOKEN")
    access = {"displayName": "token of this Hub", "role": "write"}
    known = {"type": "user", "id": user, "name": user, "fullname": user, "isPro": False, "orgs": []}
    return JSONResponse(known | {"auth": {"type": "access_token", "accessToken": access}})


async def create(request: Request) -> Response:
    """Make an empty repository with one empty commit."""
    values = await json_body(request)
    private = values.get("visibility", "private" if values.get("private") is True else "public") == "private"

    def work() -> Response:
        user, hub = writer_of(request), hub_of(request)
        made, new = hub.repositories.create(
            user, values.get("type"), values.get("organization"), values.get("name"), private
        )
        address = f"{request.base_url}{made.place}"
        if not new:
            hub.history.begin(made)  # had the process died between the two steps
            raise HubError(409, f"You already created this {made.kind} repo: {made.id}", url=address)
        hub.history.begin(made)
        return JSONResponse({"url": address, "name": made.id, "id": str(made.number)})

    return await run_in_threadpool(work)


async def delete(request: Request) -> Response:
    """Delete a repository."""
    values = await json_body(request)

    def work() -> Response:
        user, hub = writer_of(request), hub_of(request)
        owner = text_of(values, "organization", default=user)
        name = f"{owner}/{text_of(values, 'name')}"
        hub.repositories.delete(hub.repositories.find(check_kind(values.get("type")), name, user, write=True))
        return JSONResponse({})

    return await run_in_threadpool(work)


async def move(request: Request) -> Response:
    """Rename a repository."""
    values = await json_body(request)

    def work() -> Response:
        user, hub = writer_of(request), hub_of(request)
        kind = check_kind(values.get("type"))
        repository = hub.repositories.find(kind, text_of(values, "fromRepo"), user, write=True)
        hub.repositories.move(repository, user, values.get("toRepo"))
        return JSONResponse({})

    return await run_in_threadpool(work)


async def settings(request: Request) -> Response:
    """Hide or show a repository."""
    values = await json_body(request)
    visibility = values.get("visibility", {True: "private", False: "public"}.get(values.get("private") is True))
    if values.get("gated") not in (None, False):
        raise HubError(400, "this Hub has no gated repositories; make it private instead")
    if visibility not in ("private", "public"):
        raise HubError(400, f"visibility must be 'private' or 'public', not {visibility!r}")

    def work() -> Response:
        repository = repository_of(request, write=True)
        if "visibility" in values or "private" in values:
            hub_of(request).repositories.set_private(repository, visibility == "private")
        return JSONResponse({})

    return await run_in_threadpool(work)


async def validate_yaml(request: Request) -> Response:
    """Check the front matter of a README; the client asks before every commit that has one."""
    values = await json_body(request)
    text = text_of(values, "content", limit=metadata.MAX_CARD)
    await run_in_threadpool(metadata.read_metadata, text)
    return JSONResponse({"errors": [], "warnings": metadata.warnings(text)})


def listed(request: Request) -> Response:
    """List repositories: by words, author, tags, pipeline tag; page by page."""
    asked = request.query_params
    sort = asked.get("sort", "lastModified")
    wanted = {
        "search": asked.get("search"),
        "author": asked.get("author"),
        "pipeline_tag": asked.get("pipeline_tag"),
        "filter": asked.getlist("filter"),
    }
    start, count = number(request, "cursor", 0, 10**9), number(request, "limit", MAX_PAGE, MAX_PAGE)
    # a Hub on one's own machine counts no likes and downloads: such orders fall back to the newest first
    found, more = hub_of(request).repositories.listed(
        kind_of(request),
        user_of(request),
        wanted,
        sort if sort in SORTS else "lastModified",
        asked.get("direction") != "1",
        start,
        count,
    )
    full = flag(request, "full") or flag(request, "cardData")
    return page(request, [_facts(each) | ({"cardData": each.card} if full else {}) for each in found], start, more)


def _facts(repository: Repository) -> dict[str, Any]:
    facts = {
        "_id": str(repository.number),
        "id": repository.id,
        "author": repository.owner,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "likes": 0,
        "downloads": 0,
        "tags": repository.tags,
        "createdAt": repository.created,
        "lastModified": repository.modified,
    }
    if repository.kind == "model":
        facts |= {"modelId": repository.id}
        facts |= {name: repository.card[name] for name in ("pipeline_tag", "library_name") if name in repository.card}
    return facts


def info(request: Request) -> Response:
    """Tell all about a repository at a revision."""
    hub, repository = hub_of(request), repository_of(request)
    commit = hub.history.resolve(
        repository, parameter(request, "revision") if "revision" in request.path_params else "main"
    )
    files = hub.history.files(repository, commit)
    blobs = flag(request, "blobs")
    facts = _facts(repository) | {
        "sha": commit,
        "cardData": repository.card,
        "siblings": [{"rfilename": path} | (sibling(file) if blobs else {}) for path, file in files.items()],
        "usedStorage": sum({file.sha256: file.size for file in files.values()}.values()),
    }
    if repository.kind == "model":
        facts |= {"model-index": repository.card.get("model-index"), "config": _config(hub, files)}
    return JSONResponse(facts)


def sibling(file: File) -> dict[str, Any]:
    """Return what is told of a file in lists of a repository's files."""
    facts: dict[str, Any] = {"size": file.size, "blobId": file.oid}
    return facts | ({"lfs": lfs_facts(file)} if file.lfs else {})


def lfs_facts(file: File) -> dict[str, Any]:
    """Return what git-lfs knows of a large file."""
    pointer = len(f"version https://git-lfs.github.com/spec/v1\noid sha256:{file.sha256}\nsize {file.size}\n")
    assert file.oid == large(file.sha256, file.size).oid
    return {"size": file.size, "sha256": file.sha256, "oid": file.sha256, "pointerSize": pointer}


def _config(hub: Hub, files: dict[str, File]) -> dict[str, Any]:
    """Return what lists show of a model's `config.json`, nothing where it cannot be read."""
    import json

    file = files.get("config.json")
    text = None if file is None else hub.objects.read(file.sha256, MAX_CONFIG)
    try:
        values = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        return {}
    names = ("architectures", "model_type", "auto_map")
    return {name: values[name] for name in names if name in values} if isinstance(values, dict) else {}


def auth_check(request: Request) -> Response:
    """Tell whether a user may see (or with `write`, change) a repository."""
    repository_of(request, write=request.path_params.get("what") == "write")
    return JSONResponse({})


def routes() -> list[Route]:
    """Return the addresses of these calls."""
    found = [
        Route("/api/whoami-v2", who_am_i, methods=["GET"]),
        Route("/api/repos/create", create, methods=["POST"]),
        Route("/api/repos/delete", delete, methods=["DELETE"]),
        Route("/api/repos/move", move, methods=["POST"]),
        Route("/api/validate-yaml", validate_yaml, methods=["POST"]),
    ]
    for kind in ("models", "datasets"):
        place = f"/api/{kind}/{{owner}}/{{name}}"
        found += [
            Route(f"/api/{kind}", listed, methods=["GET"]),
            Route(place, info, methods=["GET"]),
            Route(f"{place}/revision/{{revision}}", info, methods=["GET"]),
            Route(f"{place}/settings", settings, methods=["PUT"]),
            Route(f"{place}/auth-check", auth_check, methods=["GET"]),
            Route(f"{place}/auth-check/{{what}}", auth_check, methods=["GET"]),
        ]
    return found
