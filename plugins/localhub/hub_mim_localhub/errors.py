"""What the server answers when it refuses: a status, a sentence, and the code by which the client tells errors apart."""


class HubError(Exception):
    """An answer other than success.

    Args:
        status: of HTTP.
        message: one sentence for a person.
        code: one of the client's (`RepoNotFound`, `RevisionNotFound`, `EntryNotFound`), empty for others.
        fields: further members of the JSON body.
        headers: further headers.
    """

    def __init__(
        self, status: int, message: str, code: str = "", *, headers: dict[str, str] | None = None, **fields: object
    ):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.fields, self.headers = fields, headers or {}


def no_repository(name: str) -> HubError:
    """Answer for a repository that is not there, or that the asking user must not know of."""
    return HubError(404, f"no repository {name}, or it is private and the token is not its owner's", "RepoNotFound")


def no_revision(revision: str) -> HubError:
    """Answer for a branch, tag or commit that is not there."""
    return HubError(404, f"no branch, tag or commit {revision!r} here", "RevisionNotFound")


def no_entry(path: str, commit: str) -> HubError:
    """Answer for a file that is not in a commit; the commit is told, so that clients can remember the absence."""
    message = f"no file {path!r} in commit {commit[:8]}"
    return HubError(404, message, "EntryNotFound", headers={"X-Repo-Commit": commit})
