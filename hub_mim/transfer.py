"""Push a checkpoint's folder to a Hub, pull it back, list what a Hub holds: huggingface.co or a Hub of one's own."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hub_mim.files import first_line, new_folder, sha256
from hub_mim.secrets import hide

TAG = "hub-mim"
MAIN = "main"


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Attributes:
        repository: owner and name. url: of the repository. commit: its hash, by which `revision=` pins it.
        revision: branch, or `refs/pr/N`. changed: paths that were uploaded or deleted; empty where nothing differed.
        tag: as asked.
    """

    repository: str
    url: str
    commit: str
    revision: str
    changed: tuple[str, ...]
    tag: str | None = None


def push(
    folder: str | Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    message: str | None = None,
    pull_request: bool = False,
    remote_shim: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> Pushed:
    """Push the folder of a checkpoint to a Hub in one commit: model, processor, card, `run.json`, results.

    The card names the repository; text that was added to it on the Hub is kept, and so are files there that are not
    ours. Files of ours that the folder no longer has are deleted. What is unchanged is not uploaded.

    Args:
        folder: of a checkpoint, or of adapters (peft).
        repository: "owner/name"; without an owner, the token's user. Made if it is not there.
        private: of a new repository.
        revision: branch to commit to, made if it is not there, or `refs/pr/1`; default main.
        tag: name to give the commit.
        message: of the commit.
        pull_request: open a pull request instead of committing to the branch.
        remote_shim: let users of `trust_remote_code=True` load it without `import hub_mim`: adds two lines of code to the
            repository, which import the installed plugin.
        endpoint: address of the Hub; default HF_ENDPOINT, else huggingface.co.
        token: default that of `hf auth login` or HF_TOKEN.
    Raises:
        ValueError: the folder is no checkpoint, holds a pickle or a token; the Hub refuses.
        ConnectionError: no Hub answers.
        RuntimeError: somebody else pushed meanwhile.
    """
    from hub_mim.staging import check_pushable, stage

    folder = Path(folder)
    check_pushable(folder, token)
    with _told(endpoint, repository), tempfile.TemporaryDirectory() as where:
        api = client(endpoint, token)
        place = api.create_repo(repository, private=private, exist_ok=True)
        name = place.repo_id
        if revision and not revision.startswith("refs/") and revision != MAIN:
            api.create_branch(name, branch=revision, exist_ok=True)
        head = api.model_info(name, revision=revision)
        present = [each.rfilename for each in head.siblings]
        staged = stage(
            folder, name, Path(where), card=_remote_card(api, name, head.sha, present), remote_shim=remote_shim
        )
        return _commit(api, place, staged, present, head.sha, revision, tag, message, pull_request)


def _commit(
    api: Any,
    place: Any,
    staged: Path,
    present: list[str],
    head: str,
    revision: str | None,
    tag: str | None,
    message: str | None,
    pull_request: bool,
) -> Pushed:
    """Commit a staged folder over what is there, and name the commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    from hub_mim.staging import is_ours

    files = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    stale = [path for path in present if path not in files and is_ours(path)]
    operations = [CommitOperationAdd(path, staged / path) for path in files]
    made = api.create_commit(
        place.repo_id,
        [*operations, *(CommitOperationDelete(path) for path in stale)],
        commit_message=message or f"Push {place.repo_name} with hub-mim",
        revision=revision,
        parent_commit=None if pull_request else head,
        create_pr=pull_request,
    )
    changed = stale + [each.path_in_repo for each in operations if each._remote_oid != each._local_oid]
    if tag is not None:
        _tag(api, place.repo_id, tag, made.oid)
    where = made.pr_revision or revision or MAIN
    return Pushed(place.repo_id, str(place), made.oid, where, tuple(changed) if made.oid != head else (), tag)


def _tag(api: Any, repository: str, tag: str, commit: str) -> None:
    """Tag a commit; the same tag on the same commit is no error."""
    there = {each.name: each.target_commit for each in api.list_repo_refs(repository).tags}
    if tag not in there:
        api.create_tag(repository, tag=tag, revision=commit)
    elif there[tag] != commit:
        raise ValueError(f"{repository} has the tag {tag!r} on another commit ({there[tag][:8]}); choose another name")


def _remote_card(api: Any, repository: str, commit: str, present: list[str]) -> str:
    if "README.md" not in present:
        return ""
    return Path(api.hf_hub_download(repository, "README.md", revision=commit)).read_text(encoding="utf-8")


def pull(
    repository: str,
    folder: str | Path,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Pull a checkpoint from a Hub into a folder, all or nothing; code and pickles are left out.

    Args:
        repository: "owner/name".
        folder: to write; a user's own files in it are kept.
        revision: branch, tag, commit or `refs/pr/1`; default main.
        overwrite: replace the checkpoint in the folder.
        endpoint, token: see `push`.
    Returns:
        The commit that was pulled.
    Raises:
        ValueError: no such repository or revision, files that are not what the Hub says, weights that are damaged or a pickle,
            file names that lead elsewhere.
        FileExistsError: the folder holds something and `overwrite` is false.
        ConnectionError: no Hub answers.
    """
    from hub_mim.console import say
    from hub_mim.files import refuse_overwrite
    from hub_mim.loading import CONFIG, PICKLES, check_weights
    from hub_mim.sharing import OURS

    refuse_overwrite(folder, overwrite)
    with _told(endpoint, repository):
        api = client(endpoint, token)
        info = api.model_info(repository, revision=revision, files_metadata=True)
        names = [each.rfilename for each in info.siblings]
        check_names(names)
        left_out = [name for name in names if PurePosixPath(name).suffix in (*PICKLES, ".py")]
        wanted = [name for name in names if name not in left_out and not name.startswith(".git")]
        cached = Path(
            api.snapshot_download(repository, revision=info.sha, allow_patterns=[_literal(n) for n in wanted])
        )
    if left_out:
        say(f"left out, because they could execute code: {', '.join(left_out)}")
    check_fetched(cached, info.siblings, repository)
    check_weights(cached, repository)
    with new_folder(folder, overwrite=overwrite, replaced=OURS, last=CONFIG) as partial:
        for name in wanted:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cached / name, partial / name)
    return str(info.sha)


def check_fetched(folder: Path, siblings: list[Any], repository: str) -> None:
    """Raise for a file that does not have the hash of which the Hub tells; the client does not look again at what it has.

    Raises:
        ValueError: there is one; it is deleted, so that the next call fetches it.
    """
    for each in siblings:
        path = folder / each.rfilename
        if path.is_file() and not _as_told(path, each):
            path.resolve().unlink()  # a snapshot's names are links to what the cache holds
            raise ValueError(
                f"{each.rfilename} of {repository} was damaged in the cache, and is deleted there; pull it again"
            )


def _as_told(path: Path, told: Any) -> bool:
    """Tell whether a file has the hash by which the Hub knows it: SHA-256 of a large one, git's own of a small one."""
    if told.lfs is not None:
        return sha256(path) == told.lfs.sha256
    content = path.read_bytes()
    named = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return told.blob_id in (None, named)


def check_names(names: list[str]) -> None:
    """Raise for file names of a repository that would be written outside of its folder.

    Raises:
        ValueError: there is one.
    """
    for name in names:
        parts = name.split("/")
        if not name or "\\" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
            raise ValueError(
                f"the repository has a file called {name!r}, which would leave the folder; nothing was fetched"
            )


def _literal(name: str) -> str:
    """Return the pattern that only this name fits."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def listed(
    *, search: str | None = None, limit: int | None = None, endpoint: str | None = None, token: str | None = None
) -> list[dict[str, Any]]:
    """Return the checkpoints of a Hub that carry the tag `hub-mim`, the newest first.

    Args:
        search: part of a name.
        limit: at most so many.
        endpoint, token: see `push`.
    Returns:
        Of each: `repository`, `method` (None where no tag is one that is known here), `tags`, `modified`, `private`,
        `installed` (whether the method is).
    Raises:
        ConnectionError: no Hub answers.
    """
    from hub_mim import plugins

    installed = set(plugins.methods())
    known = installed | set(plugins.known_distributions())
    with _told(endpoint, ""):
        found = list(client(endpoint, token).list_models(filter=TAG, search=search, limit=limit, sort="last_modified"))
    rows = []
    for each in found:
        tags = [tag for tag in each.tags or [] if tag not in (TAG, "hub_mim") and ":" not in tag]
        method = next((tag for tag in tags if tag in known), None)
        modified = each.last_modified.strftime("%Y-%m-%d %H:%M") if each.last_modified else None
        rows.append(
            {
                "repository": each.id,
                "method": method,
                "tags": [tag for tag in tags if tag != method],
                "modified": modified,
                "private": bool(each.private),
                "installed": method in installed,
            }
        )
    return rows


def client(endpoint: str | None = None, token: str | None = None) -> Any:
    """Return the client of a Hub; of one that is not huggingface.co without Xet, which the client does not negotiate."""
    from huggingface_hub import HfApi, constants

    address = endpoint or constants.ENDPOINT
    if "huggingface.co" not in address:
        constants.HF_HUB_DISABLE_XET = True
    return HfApi(endpoint=address, token=token)


@contextmanager
def _told(endpoint: str | None, repository: str) -> Iterator[None]:
    """Turn what the client raises into one sentence that says what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    address = hide(endpoint or constants.ENDPOINT)
    try:
        yield
    except RevisionNotFoundError as error:
        raise ValueError(
            f"{repository} at {address} has no such revision; it takes a branch, a tag or a commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"there is no repository {repository} at {address}, or the token (HF_TOKEN, hf auth login) may not see it"
        ) from error
    except HfHubHTTPError as error:
        raise _refused(error, address, repository) from error
    except Exception as error:
        # huggingface_hub 2.4 fetches in threads: where one drops a broken connection, another may find none
        dropped = isinstance(error, AttributeError) and "'request'" in str(error)
        if not dropped and type(error).__module__.partition(".")[0] not in ("httpx", "httpx2", "httpcore", "httpcore2"):
            raise
        raise ConnectionError(
            f"no Hub answers at {address} ({hide(first_line(error))}); is HF_ENDPOINT right, is the network there, does "
            "`hub-mim serve` run?"
        ) from error


def _refused(error: Any, address: str, repository: str) -> Exception:
    status = getattr(error.response, "status_code", None)
    said = str(error.server_message or first_line(error)).partition("\n")[0]
    if status == 412:
        return RuntimeError(f"somebody else changed {repository} meanwhile; push again")
    if status == 401:
        return ValueError(f"{address} wants a token: set HF_TOKEN or run `hf auth login` ({said})")
    return ValueError(f"{address} refused: {said} ({status})")
