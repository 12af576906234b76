"""Which names are allowed: repositories, paths of files, branches and tags. Every name from outside goes through here.

No name ever becomes a path on the server's disk, but those who download write files by these names.
"""

import re

from hub_mim_localhub.errors import HubError

KINDS = ("model", "dataset")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REF_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")
COMMIT = re.compile(r"[0-9a-f]{7,40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAX_PATH = 1000


def check_name(name: object) -> str:
    """Return the name of a user or of a repository (its last part), or refuse it."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name or "--" in name or name.endswith(".git"):
        raise HubError(
            400,
            f"{name!r} is no name; it takes 1 to 96 letters, digits, '-', '_' and '.', beginning with a letter or digit, "
            "without '--', '..' or a final '.git'",
        )
    return name


def check_kind(kind: object) -> str:
    """Return the kind of a repository; without one it is a model."""
    kind = "model" if kind is None else kind
    if kind not in KINDS:
        raise HubError(400, f"this Hub holds {' and '.join(f'{each}s' for each in KINDS)}, no {kind!r}")
    return str(kind)


def check_path(path: object) -> str:
    """Return the path of a file inside a repository, or refuse one that could leave the folder it is written to."""
    if not isinstance(path, str) or not 0 < len(path.encode("utf-8", "surrogatepass")) <= MAX_PATH:
        raise HubError(400, f"a path has 1 to {MAX_PATH} bytes")
    parts = path.split("/")
    if _CONTROL.search(path) or "\\" in path or any(part in ("", ".", "..", ".git") for part in parts):
        raise HubError(400, f"{path!r} is no path inside a repository: no '..', '.git', backslash or leading slash")
    if re.match(r"[A-Za-z]:", path) or not path.isprintable():
        raise HubError(400, f"{path!r} is no path inside a repository")
    return path


def check_ref(name: object) -> str:
    """Return the short name of a branch or tag by git's rules; one that looks like a commit is refused."""
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 200
        or not name.isprintable()
        or _REF_FORBIDDEN.search(name)
        or name.startswith(("/", "-", ".", "refs/"))
        or name.endswith(("/", ".", ".lock"))
        or "/." in name
        or re.fullmatch(r"[0-9a-f]{40}", name)
    ):
        raise HubError(400, f"{name!r} is no name for a branch or tag")
    return name
