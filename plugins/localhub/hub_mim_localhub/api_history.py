"""Calls about history: refs, branches, tags, lists of commits, and making one."""

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hub_mim_localhub.asking import (
    flag,
    hub_of,
    json_body,
    lines,
    number,
    page,
    parameter,
    parse_object,
    repository_of,
    text_of,
    writer_of,
)
from hub_mim_localhub.errors import HubError
from hub_mim_localhub.history import PULLS, Change, writable_ref
from hub_mim_localhub.hub import Hub
from hub_mim_localhub.names import COMMIT, SHA256, check_path
from hub_mim_localhub.objects import large
from hub_mim_localhub.repositories import Repository, not_owner

MAX_REGULAR = 10 * 2**20  # of a file inside a commit's own body
MAX_LINE = MAX_REGULAR * 4 // 3 + 8192  # in base64, with its path
MAX_CHANGES = 50_000


def refs(request: Request) -> Response:
    """List branches, tags and, where asked, pull requests."""
    found = hub_of(request).history.refs(repository_of(request))

    def under(prefix: str, short: bool = True) -> list[dict[str, str]]:
        names = [name for name in found if name.startswith(prefix)]
        return [
            {"name": name.removeprefix(prefix) if short else name, "ref": name, "targetCommit": found[name]}
            for name in names
        ]

    answer = {"branches": under("refs/heads/"), "tags": under("refs/tags/"), "converts": []}
    if flag(request, "include_prs"):
        answer["pullRequests"] = [
            each | {"name": each["name"].removeprefix("refs/pr/")} for each in under(PULLS, short=False)
        ]
    return JSONResponse(answer)


def commits(request: Request) -> Response:
    """List a revision's commits, newest first."""
    hub, repository = hub_of(request), repository_of(request)
    commit = hub.history.resolve(repository, parameter(request, "revision"))
    start, count = number(request, "cursor", 0, 10**9), number(request, "limit", 50, 1000)
    found, more = hub.history.commits(repository, commit, start, count)
    told = [
        {
            "id": each["oid"],
            "authors": [{"user": each["author"]}],
            "date": each["date"],
            "title": each["title"],
            "message": each["message"],
        }
        for each in found
    ]
    return page(request, told, start, more)


async def create_branch(request: Request) -> Response:
    """Make a branch at a revision, main without one."""
    values = await json_body(request)
    return await run_in_threadpool(
        _create_ref,
        request,
        "refs/heads/",
        parameter(request, "branch"),
        text_of(values, "startingPoint", default="main"),
    )


async def create_tag(request: Request) -> Response:
    """Make a tag at a revision."""
    values = await json_body(request)
    return await run_in_threadpool(
        _create_ref, request, "refs/tags/", text_of(values, "tag"), parameter(request, "revision")
    )


def _create_ref(request: Request, prefix: str, name: str, revision: str) -> Response:
    repository = repository_of(request, write=True)
    hub_of(request).history.create_ref(repository, prefix + name, revision, writer_of(request))
    return JSONResponse({}, status_code=201)


def delete_branch(request: Request) -> Response:
    """Remove a branch."""
    hub_of(request).history.delete_ref(repository_of(request, write=True), f"refs/heads/{parameter(request, 'branch')}")
    return JSONResponse({})


def delete_tag(request: Request) -> Response:
    """Remove a tag."""
    hub_of(request).history.delete_ref(
        repository_of(request, write=True), f"refs/tags/{parameter(request, 'revision')}"
    )
    return JSONResponse({})


def committable(request: Request, revision: str, pull_request: bool) -> tuple[Repository, str]:
    """Return the repository that the address names, and the user, who may commit to a revision of it.

    Any reader may open a pull request and add to their own; all else is the owner's.
    """
    user, hub = writer_of(request), hub_of(request)
    repository = repository_of(request)
    theirs = revision.startswith(PULLS) and hub.history.ref_author(repository, revision) == user
    if not (pull_request or theirs or repository.owned_by(user)):
        raise not_owner(repository.id, user)
    return repository, user


@dataclass
class _Commit:
    """A commit as its lines arrive."""

    title: str = ""
    message: str = ""
    parent: str | None = None
    changes: list[Change] = field(default_factory=list)

    def take(self, hub: Hub, user: str, line: bytes) -> None:
        """Read one line; a file in it is written to disk at once."""
        item = parse_object(line)
        value = item.get("value")
        reader = _READERS.get(str(item.get("key")))
        if reader is None or not isinstance(value, dict):
            raise HubError(
                400, f"a commit has lines with the keys header, {', '.join(_READERS)}, not {str(item)[:80]!r}"
            )
        reader(self, hub, user, value)
        if len(self.changes) > MAX_CHANGES:
            raise HubError(400, f"a commit has at most {MAX_CHANGES} changes; make several")

    def _header(self, hub: Hub, user: str, value: dict[str, Any]) -> None:
        self.title, self.message = (
            text_of(value, "summary", default=""),
            text_of(value, "description", default="", limit=10**6),
        )
        self.parent = text_of(value, "parentCommit", default="") or None
        if self.parent is not None and not COMMIT.fullmatch(self.parent):
            raise HubError(400, f"{self.parent!r} is no commit")

    def _file(self, hub: Hub, user: str, value: dict[str, Any]) -> None:
        path = check_path(value.get("path"))
        text = text_of(value, "content", limit=MAX_LINE)
        try:
            content = text.encode() if value.get("encoding") == "utf-8" else base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise HubError(400, f"the content of {path!r} is not base64") from error
        self.changes.append(Change(path, hub.objects.put(content)))

    def _lfs_file(self, hub: Hub, user: str, value: dict[str, Any]) -> None:
        path, sha256 = check_path(value.get("path")), text_of(value, "oid")
        size = hub.history.has(user, sha256) if SHA256.fullmatch(sha256) else None
        if size is None:
            raise HubError(400, f"the content of {path!r} ({sha256[:80]}) was not uploaded")
        self.changes.append(Change(path, large(sha256, size)))

    def _deleted_file(self, hub: Hub, user: str, value: dict[str, Any]) -> None:
        self.changes.append(Change(check_path(value.get("path"))))

    def _deleted_folder(self, hub: Hub, user: str, value: dict[str, Any]) -> None:
        path = value.get("path")
        self.changes.append(Change(check_path(path.rstrip("/") if isinstance(path, str) else path), folder=True))


_READERS = {
    "header": _Commit._header,
    "file": _Commit._file,
    "lfsFile": _Commit._lfs_file,
    "deletedFile": _Commit._deleted_file,
    "deletedFolder": _Commit._deleted_folder,
}


async def commit(request: Request) -> Response:
    """Commit a stream of changes, all or none, unless somebody else was faster."""
    revision, pull_request = parameter(request, "revision"), flag(request, "create_pr")
    hub = hub_of(request)
    repository, user = await run_in_threadpool(committable, request, revision, pull_request)
    begun_at = await run_in_threadpool(hub.history.resolve, repository, writable_ref(revision))
    new = _Commit()
    async for line in lines(request, MAX_LINE):
        await run_in_threadpool(new.take, hub, user, line)
    if not new.title.strip():
        raise HubError(400, "a commit needs a header with a summary")

    def work() -> Response:
        oid, ref = hub.history.commit(
            repository,
            revision,
            user,
            new.title,
            new.message,
            new.changes,
            begun_at=begun_at,
            parent=new.parent,
            pull_request=pull_request,
        )
        place = f"{request.base_url}{repository.place}"
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{place}/commit/{oid}", "hookOutput": ""}
        if pull_request:
            answer["pullRequestUrl"] = f"{place}/discussions/{ref.removeprefix(PULLS)}"
        return JSONResponse(answer)

    return await run_in_threadpool(work)


def routes() -> list[Route]:
    """Return the addresses of these calls."""
    found = []
    for kind in ("models", "datasets"):
        place = f"/api/{kind}/{{owner}}/{{name}}"
        found += [
            Route(f"{place}/refs", refs, methods=["GET"]),
            Route(f"{place}/commits/{{revision}}", commits, methods=["GET"]),
            Route(f"{place}/commit/{{revision}}", commit, methods=["POST"]),
            Route(f"{place}/branch/{{branch}}", create_branch, methods=["POST"]),
            Route(f"{place}/branch/{{branch}}", delete_branch, methods=["DELETE"]),
            Route(f"{place}/tag/{{revision}}", create_tag, methods=["POST"]),
            Route(f"{place}/tag/{{revision}}", delete_tag, methods=["DELETE"]),
        ]
    return found
