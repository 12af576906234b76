"""Calls about the files of a revision: trees, facts of paths, and the files themselves, with ranges."""

import hashlib
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from hub_mim_localhub.api_repositories import lfs_facts
from hub_mim_localhub.asking import MAX_JSON, body, flag, hub_of, number, page, parameter, repository_of
from hub_mim_localhub.errors import HubError, no_entry
from hub_mim_localhub.history import File
from hub_mim_localhub.hub import Hub
from hub_mim_localhub.repositories import Repository

# only what a browser shows without running anything; all else is offered for download
_PICTURES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
}
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "default-src 'none'; sandbox"}
MAX_PATHS = 10_000


def tree(request: Request) -> Response:
    """List a folder of a revision, or all below it."""
    hub, repository = hub_of(request), repository_of(request)
    commit = hub.history.resolve(repository, parameter(request, "revision"))
    files = hub.history.files(repository, commit)
    folder = parameter(request, "path").strip("/") if "path" in request.path_params else ""
    inside = {path: file for path, file in files.items() if not folder or path.startswith(f"{folder}/")}
    if folder and not inside:
        raise no_entry(folder, commit)
    expand = flag(request, "expand")
    start, count = number(request, "cursor", 0, 10**9), 50 if expand else 1000
    entries = _entries(inside, folder, flag(request, "recursive"))
    part = entries[start : start + count]
    told = _told(hub, repository, files, part, expand)
    return page(request, told, start, len(entries) > start + count)


def _entries(files: Iterable[str], folder: str, recursive: bool) -> list[str]:
    """Return the files and folders (these with a final slash) below a folder, or only those right in it."""
    skip = len(folder) + 1 if folder else 0
    found: dict[str, None] = {}
    for path in files:
        parts = path[skip:].split("/")
        depths = range(1, len(parts)) if recursive else range(1, min(2, len(parts)))
        for depth in depths:
            found[path[:skip] + "/".join(parts[:depth]) + "/"] = None
        if recursive or len(parts) == 1:
            found[path] = None
    return list(found)


def _told(
    hub: Hub, repository: Repository, files: dict[str, File], entries: list[str], expand: bool
) -> list[dict[str, Any]]:
    """Return what is told of files and folders; with `expand` the last commit too."""
    told: list[dict[str, Any]] = []
    changed: dict[str, set[str]] = {}
    for entry in entries:
        if entry.endswith("/"):
            inside = {path: file for path, file in files.items() if path.startswith(entry)}
            listing = "\n".join(f"{path} {file.oid}" for path, file in inside.items())
            oid = hashlib.sha1(listing.encode(), usedforsecurity=False).hexdigest()
            told.append({"type": "directory", "path": entry[:-1], "oid": oid, "size": 0})
            changed[entry[:-1]] = {file.changed for file in inside.values()}
        else:
            file = files[entry]
            told.append({"type": "file", "path": entry, "oid": file.oid, "size": file.size})
            told[-1] |= {"lfs": lfs_facts(file)} if file.lfs else {}
            changed[entry] = {file.changed}
    if expand:
        commits = hub.history.titles(repository, (oid for oids in changed.values() for oid in oids))
        for each in told:
            each["lastCommit"] = max((commits[oid] for oid in changed[each["path"]]), key=lambda commit: commit["date"])
    return told


async def paths_info(request: Request) -> Response:
    """Tell of some paths; those that are not there are left out."""
    try:
        asked = parse_qs((await body(request, MAX_JSON)).decode(), max_num_fields=MAX_PATHS)
    except ValueError as error:
        raise HubError(400, f"the body must be a form with at most {MAX_PATHS} paths") from error

    def work() -> Response:
        hub, repository = hub_of(request), repository_of(request)
        files = hub.history.files(repository, hub.history.resolve(repository, parameter(request, "revision")))
        folders = {f"{parent}/" for path in files for parent in PurePosixPath(path).parents if str(parent) != "."}
        entries = []
        for path in dict.fromkeys(path.strip("/") for path in asked.get("paths", [])):
            entries += [path] if path in files else [f"{path}/"] if f"{path}/" in folders else []
        expand = asked.get("expand", [""])[0].lower() in ("true", "1")
        return JSONResponse(_told(hub, repository, files, entries, expand))

    return await run_in_threadpool(work)


def resolve(request: Request) -> Response:
    """Give a file of a revision, or a part of it; the commit and the file's hash stand in the headers."""
    hub, repository = hub_of(request), repository_of(request)
    commit = hub.history.resolve(repository, parameter(request, "revision"))
    path = parameter(request, "path")
    file = hub.history.file(repository, commit, path)
    headers = SAFE | {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Cache-Control": "no-cache"}
    if repository.private:
        headers["Cache-Control"] = "private, no-store"
    if file.lfs:
        headers |= {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.sha256}"'}
    name = quote(path.rsplit("/", 1)[-1], safe="")
    headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    kind = _PICTURES.get(PurePosixPath(path).suffix.lower(), "application/octet-stream")
    return FileResponse(hub.objects.path(file.sha256), headers=headers, media_type=kind)


def routes() -> list[Route]:
    """Return the addresses of these calls."""
    found = []
    for kind, prefix in (("models", ""), ("datasets", "/datasets")):
        place = f"/api/{kind}/{{owner}}/{{name}}"
        found += [
            Route(f"{place}/tree/{{revision}}", tree, methods=["GET"]),
            Route(f"{place}/tree/{{revision}}/{{path:path}}", tree, methods=["GET"]),
            Route(f"{place}/paths-info/{{revision}}", paths_info, methods=["POST"]),
            Route(f"{prefix}/{{owner}}/{{name}}/resolve/{{revision}}/{{path:path}}", resolve, methods=["GET", "HEAD"]),
        ]
    return found
