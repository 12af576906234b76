"""No token is kept or shown, no stranger sees a private repository, no path leaves its folder, no request breaks the server."""

import base64
import hashlib
import json
import os
import re
import stat
from pathlib import PurePosixPath, PureWindowsPath

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from hub_mim_localhub.errors import HubError
from hub_mim_localhub.hub import Hub, lock
from hub_mim_localhub.names import check_name, check_path, check_ref
from hub_mim_localhub.pages import render_card
from hub_mim_localhub.server import make_app

VERBS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A Hub with a public and a private repository, reached without a network."""
    hub = Hub(tmp_path_factory.mktemp("hub") / "root")
    hub.first_user("me")
    for name, private in (("open", False), ("secret", True)):
        repository, _ = hub.repositories.create("me", "model", None, name, private)
        hub.history.begin(repository)
    token = hub.token_file.read_text().strip()
    return TestClient(make_app(hub), raise_server_exceptions=False), hub, {"Authorization": f"Bearer {token}"}


def line(key, **value):
    return json.dumps({"key": key, "value": value}).encode() + b"\n"


def commit_body(path="a.txt", content=b"x", **header):
    return line("header", summary="s", **header) + line("file", path=path, content=base64.b64encode(content).decode())


# --- tokens ---


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_only_the_owner_can_read_what_is_secret(served):
    _, hub, _ = served
    for path in (hub.token_file, hub.root / "hub.sqlite", hub.root, hub.objects.place):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_token_is_kept_as_a_hash_only(served, caplog):
    client, hub, header = served
    token = header["Authorization"].split()[1]
    assert len(token) > 40
    client.get("/api/whoami-v2", headers=header)
    client.get("/nowhere/at/all", headers=header)
    for path in hub.root.rglob("*"):
        if path.is_file() and path != hub.token_file:
            assert token.encode() not in path.read_bytes(), path
    assert token not in caplog.text


@pytest.mark.parametrize("header", ["Bearer x", "Bearer ", "Basic x", "", "Bearer \udcff", "x" * 5000])
def test_a_wrong_token_is_refused_even_where_none_is_needed(served, header):
    client, _, _ = served
    answer = client.get("/api/models", headers={"Authorization": header.encode("utf-8", "replace")})
    assert answer.status_code == 401
    assert answer.headers["X-Error-Message"] == "Invalid credentials in Authorization header"


def test_a_new_token_ends_the_old_one(tmp_path):
    hub = Hub(tmp_path)
    hub.first_user("me")
    old = hub.token_file.read_text().strip()
    hub.accounts.add("me", hub.token_file)
    new = hub.token_file.read_text().strip()
    assert hub.accounts.user(f"Bearer {new}") == "me"
    with pytest.raises(HubError):
        hub.accounts.user(f"Bearer {old}")


# --- strangers ---


def test_a_private_repository_looks_like_none(served):
    """Every address answers the same, byte for byte, for a private repository and for one that does not exist."""
    client, _, _ = served
    places = ["/api/models/me/NAME", "/api/models/me/NAME/refs", "/api/models/me/NAME/tree/main",
              "/api/models/me/NAME/commits/main", "/api/models/me/NAME/revision/main", "/me/NAME/resolve/main/config.json",
              "/me/NAME", "/me/NAME/commit/main"]  # fmt: skip
    for place in places:
        answers = [client.get(place.replace("NAME", name)) for name in ("secret", "absent")]
        assert [answer.status_code for answer in answers] == [404, 404], place
        assert answers[0].text.replace("secret", "absent") == answers[1].text
    assert "secret" not in client.get("/models").text
    assert client.get("/api/models").json()[0]["id"] == "me/open"


def test_a_hash_alone_gives_nothing(served):
    """Who knows the hash of a private file cannot commit it into a repository of their own."""
    client, hub, header = served
    content = b"private weights" * 100_000
    sha256 = hashlib.sha256(content).hexdigest()
    batch = {"objects": [{"oid": sha256, "size": len(content)}]}
    link = client.post("/me/secret.git/info/lfs/objects/batch", json=batch, headers=header).json()["objects"][0]
    assert client.put(link["actions"]["upload"]["href"], content=content).status_code == 200
    hub.accounts.add("you", hub.root / "token-you")
    theirs = {"Authorization": f"Bearer {(hub.root / 'token-you').read_text().strip()}"}
    client.post("/api/repos/create", json={"name": "mine"}, headers=theirs)
    again = client.post("/you/mine.git/info/lfs/objects/batch", json=batch, headers=theirs).json()["objects"][0]
    assert "actions" in again  # asked to upload, as if it were not here
    body = line("header", summary="s") + line("lfsFile", path="w.bin", algo="sha256", oid=sha256, size=len(content))
    assert client.post("/api/models/you/mine/commit/main", content=body, headers=theirs).status_code == 400
    assert client.post("/api/models/me/open/commit/main", content=body, headers=header).status_code == 200


def test_links_are_signed(served):
    client, hub, header = served
    content = b"x" * 10
    sha256 = hashlib.sha256(content).hexdigest()
    batch = {"objects": [{"oid": sha256, "size": 10}]}
    link = client.post("/me/open.git/info/lfs/objects/batch", json=batch, headers=header).json()["objects"][0]
    href = link["actions"]["upload"]["href"]
    assert client.put(href.replace("user=me", "user=you"), content=content).status_code == 403
    assert client.put(href.replace("size=10", "size=11"), content=content).status_code == 403
    assert client.put(href.replace(sha256, "0" * 64), content=content).status_code == 403
    assert client.put(re.sub(r"signature=\d+", "signature=9999999999", href), content=content).status_code == 403
    assert client.put(f"/lfs/{sha256}", content=content).status_code == 403
    for wrong in (b"y" * 10, b"x" * 11, b""):
        assert client.put(href, content=wrong).status_code == 400
    assert hub.objects.size(sha256) is None
    assert list(hub.objects.incoming.iterdir()) == []
    assert client.put(href, content=content).status_code == 200


def test_read_only(tmp_path):
    hub = Hub(tmp_path)
    hub.first_user("me")
    hub.history.begin(hub.repositories.create("me", "model", None, "x", False)[0])
    client = TestClient(make_app(Hub(tmp_path, read_only=True)))
    header = {"Authorization": f"Bearer {hub.token_file.read_text().strip()}"}
    assert client.get("/api/models/me/x", headers=header).status_code == 200
    answer = client.post("/api/models/me/x/commit/main", content=commit_body(), headers=header)
    assert (answer.status_code, answer.json()["error"]) == (403, "this Hub is read-only")
    assert client.post("/api/repos/create", json={"name": "y"}, headers=header).status_code == 403


# --- paths ---

DANGEROUS = ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", "a/./b", "C:/x", "c:x", "a\\..\\b", "a\0b", "a\nb",
             ".git/config", "a/.git", "x" * 1001, "\u202egnp.x", "a/"]  # fmt: skip


@pytest.mark.parametrize("path", DANGEROUS)
def test_dangerous_paths_are_refused(served, path):
    client, _, header = served
    answer = client.post("/api/models/me/open/commit/main", content=commit_body(path), headers=header)
    assert answer.status_code == 400
    assert path in ("", ".") or path not in client.get("/api/models/me/open/tree/main?recursive=1").text


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "C:", "", ".git", "\0"]), max_size=8).map("/".join)
)
def test_a_path_that_is_taken_stays_inside(path):
    try:
        check_path(path)
    except HubError:
        return
    for kind in (PurePosixPath, PureWindowsPath):
        joined = kind("/root" if kind is PurePosixPath else "C:\\root") / path
        assert joined.is_relative_to("/root" if kind is PurePosixPath else "C:\\root")
        assert ".." not in joined.parts


@given(st.text(max_size=40))
def test_names_of_repositories_and_refs(name):
    for check in (check_name, check_ref):
        try:
            check(name)
        except HubError:
            continue
        assert ".." not in name
        assert not name.startswith(("/", ".", "-"))
        assert name.isprintable()


def test_nothing_under_the_root_is_served_by_its_path(served):
    client, hub, header = served
    up = "../../../../hub.sqlite", "%2e%2e%2f%2e%2e%2ftoken"
    places = [f"/me/open/resolve/main/{name}" for name in up]
    for place in (*places, "/../hub.sqlite", "/..%2f..%2ftoken", "/token", "/objects", "/lfs/..%2f..%2ftoken"):
        answer = client.get(place, headers=header)
        assert answer.status_code in (404, 405), place
        assert b"SQLite" not in answer.content
        assert hub.token_file.read_bytes().strip() not in answer.content


# --- what is read ---


def test_limits(served):
    client, _, header = served
    assert client.get("/" + "x" * 9000).status_code == 414
    assert client.get("/models", headers={"X-Large": "x" * 40_000}).status_code == 431
    body = line("header", summary="s") + b'{"key": "file", "value": {"path": "a", "content": "' + b"A" * (15 << 20)
    assert client.post("/api/models/me/open/commit/main", content=body, headers=header).status_code == 413
    assert client.post("/api/validate-yaml", content=b" " * (9 << 20)).status_code == 413
    bomb = "---\na: &a [x,x,x,x]\n" + "".join(f"b{n}: &b{n} [*a,*a,*a,*a,*a]\n" for n in range(9)) + "---\n"
    answer = client.post("/api/validate-yaml", json={"content": bomb, "repoType": "model"})
    assert answer.status_code == 400
    assert "aliases" in answer.json()["errors"][0]["message"]


def test_a_commit_is_whole_or_nothing(served):
    client, hub, header = served
    before = client.get("/api/models/me/open/tree/main").json()
    for spoiled in (
        commit_body("fine.txt") + b"not json\n",
        commit_body("fine.txt") + line("lfsFile", path="w", oid="0" * 64),
        commit_body("fine.txt") + line("file", path="b", content="not base64!"),
        commit_body("fine.txt") + line("deletedFile", path="absent"),
        commit_body("fine.txt") + line("file", path="fine.txt/below", content=""),
        commit_body("README.md", b"---\ntags: 3\n---\n"),
        commit_body("fine.txt").split(b"\n", 1)[1],
        b"",
    ):
        assert client.post("/api/models/me/open/commit/main", content=spoiled, headers=header).status_code in (400, 404)
    assert client.get("/api/models/me/open/tree/main").json() == before
    assert list(hub.objects.incoming.iterdir()) == []


NASTY = """# Card
<script>alert(1)</script><img src=x onerror=alert(1)><iframe src="//evil"></iframe><style>body{}</style>
[click](javascript:alert(1)) [data](data:text/html,x) [good](https://example.org) [file](config.json) [top](#card)
![pic](masked.png) ![far](https://evil.example/track.png) ![up](../../../../api/whoami-v2)
<a href="javascript:alert(1)" onclick="x()">raw</a>

| a | b |
|---|---|
| 1 | 2 |
"""


def test_cards_can_do_no_harm():
    html = render_card(NASTY, "/me/open/resolve/main/")
    tags = re.findall(r"<[^>]*>", html)  # what stands outside of tags is text
    for bad in ("script", "iframe", "style", "data:", "evil.example", "onerror", "onclick"):
        assert not any(bad in tag for tag in tags), bad
    assert '<img src="/me/open/resolve/main/masked.png" alt="pic">' in html
    assert 'href="/me/open/resolve/main/config.json"' in html
    assert "<td>1</td>" in html
    assert "whoami" not in html


@given(st.text(max_size=200))
@settings(max_examples=50)
def test_no_card_makes_markup_of_its_own(text):
    html = render_card(text, "/x/y/resolve/main/")
    assert re.search(r"<(script|iframe|object|embed|form|style|svg|base|meta|link)\b", html) is None
    assert re.search(r"<[^>]* on\w+\s*=", html) is None


def test_files_run_nothing_in_a_browser(served):
    client, _, header = served
    client.post(
        "/api/models/me/open/commit/main", content=commit_body("x.html", b"<script>alert(1)</script>"), headers=header
    )
    told = client.get("/me/open/resolve/main/x.html").headers
    assert told["Content-Type"] == "application/octet-stream"
    assert told["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in told["Content-Security-Policy"]
    assert told["Content-Disposition"].startswith("attachment")


def test_a_second_server_is_kept_out(tmp_path):
    with lock(tmp_path), pytest.raises(RuntimeError, match="another process"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_a_full_disk_is_a_clean_error(served, monkeypatch):
    import errno

    client, hub, header = served
    before = client.get("/api/models/me/open").json()["sha"]
    monkeypatch.setattr(
        os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
    )
    answer = client.post(
        "/api/models/me/open/commit/main", content=commit_body("full.txt", b"new content"), headers=header
    )
    assert (answer.status_code, answer.json()["error"]) == (507, "the disk of this Hub is full; nothing was changed")
    monkeypatch.undo()
    assert client.get("/api/models/me/open").json()["sha"] == before
    assert list(hub.objects.incoming.iterdir()) == []


# --- any request ---

# fmt: off
WORDS = [
    "api", "models", "datasets", "repos", "create", "delete", "move", "me", "open", "secret", "absent", "main", "refs", "tree",
    "commits", "commit", "resolve", "branch", "tag", "revision", "preupload", "paths-info", "settings", "validate-yaml",
    "whoami-v2", "lfs", "open.git", "info", "objects", "batch", "refs%2Fpr%2F1", "README.md", "%00", "%ff", "..", "%2e%2e",
    "xet-write-token", "auth-check", "write", "ü", "0" * 64, "",
]
KNOWN = [
    "/api/repos/create", "/api/repos/move", "/api/repos/delete", "/api/validate-yaml", "/api/models", f"/lfs/{'0' * 64}",
    "/api/models/me/open/commit/main", "/api/models/me/open/preupload/main", "/api/models/me/open/paths-info/main",
    "/api/models/me/open/branch/x", "/api/models/me/open/tag/main", "/api/models/me/open/settings",
    "/me/open.git/info/lfs/objects/batch", "/api/models/me/open/tree/main",
]
NAMES = [
    "name", "organization", "type", "private", "visibility", "fromRepo", "toRepo", "content", "files", "path", "size",
    "sample", "objects", "oid", "key", "value", "summary", "startingPoint", "tag", "paths", "expand", "gated", "encoding",
    "parentCommit",
]
ASKED = [
    "cursor", "limit", "search", "filter", "sort", "direction", "expand", "recursive", "create_pr", "signature", "size",
    "user", "full", "blobs",
]
# fmt: on
VALUES = ["model", "me/open", "header", "file", "lfsFile", "deletedFolder"]

PLACES = st.sampled_from(KNOWN) | st.lists(st.sampled_from(WORDS), max_size=8).map(lambda parts: "/" + "/".join(parts))
TEXT = st.text(max_size=20) | st.text(st.characters(categories=["L", "Cs"]), max_size=3)  # lone surrogates, too
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(VALUES)
ANY = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=12,
)
JSON = ANY.map(lambda value: json.dumps(value).encode())
BODIES = st.binary(max_size=60) | JSON | st.lists(JSON, max_size=3).map(b"\n".join)
QUERIES = st.dictionaries(st.sampled_from(ASKED), st.text(max_size=12), max_size=3)


@given(
    st.sampled_from(VERBS),
    PLACES,
    QUERIES,
    BODIES,
    st.booleans(),
    st.sampled_from(
        [{}, {"Range": "bytes=5-2"}, {"Range": "x"}, {"Host": "a b"}, {"If-Range": "x", "Range": "bytes=0-1"}]
    ),
)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_breaks_the_server(served, verb, place, query, content, known, extra):
    client, hub, header = served
    try:
        answer = client.request(verb, place, params=query, content=content, headers=(header if known else {}) | extra)
    except httpx2.InvalidURL:  # the test's client cannot send such an address
        return
    assert answer.status_code < 500, answer.text
    if not hub.repositories.listed("model", "me", {"search": "open"}, "id", True, 0, 9)[0]:
        hub.history.begin(
            hub.repositories.create("me", "model", None, "open", False)[0]
        )  # a request deleted it, rightly
