"""Run commands of hub-mim in one process that may write into the current folder alone, and has no network.

    cd FOLDER && TMPDIR=$PWD/tmp python confined.py '[["ls"], ["info", "toy"]]'

Prints JSON: of each command its exit status and what it wrote to stderr; the files and folders that it tried to write elsewhere;
and those that it made in the folder of temporary files so that others may read or replace them. Python's audit hooks tell and
refuse; what a library writes in C goes through.
"""

import contextlib
import errno
import io
import json
import os
import sys
import tempfile
from pathlib import Path

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"}
DEVICES = ("/dev/", "/proc/self/")
outside: set[str] = set()
readable: set[str] = set()


def watch(event, arguments):
    """Refuse a connection, and a change outside of the current folder; note what is open to others."""
    if event == "socket.getaddrinfo" or (event == "socket.connect" and not isinstance(arguments[1], str)):
        raise OSError(errno.ENETUNREACH, "no network here")
    opened = event == "open" and isinstance(arguments[0], str) and bool((arguments[2] or 0) & WRITES)
    if not (opened or event in CHANGES) or isinstance(arguments[0], int) or arguments[-1] not in (-1, *arguments[:3]):
        return
    path = Path(os.fsdecode(arguments[0])).absolute()
    if str(path).startswith(DEVICES):
        return
    if not path.is_relative_to(HERE):
        if "__pycache__" not in path.parts:
            outside.add(str(path))
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS), str(path))
    made = opened or event == "os.mkdir"
    if made and path.parent == TEMPORARY and not path.exists():
        private = arguments[2] & os.O_EXCL if opened else arguments[1] == 0o700
        if not private:
            readable.add(str(path))


def run(words):
    """Run one command; returns its exit status and stderr."""
    from hub_mim import cli

    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            cli.main(words)
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
    return {"words": words, "status": status, "stderr": told.getvalue()}


if __name__ == "__main__":
    HERE, TEMPORARY = Path.cwd(), Path(tempfile.gettempdir()).absolute()
    os.umask(0)
    sys.addaudithook(watch)
    ran = [run(words) for words in json.loads(sys.argv[1])]
    print(json.dumps({"ran": ran, "outside": sorted(outside), "readable": sorted(readable)}))
