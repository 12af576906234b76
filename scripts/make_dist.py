"""Build wheels and source distributions that have the same bytes whenever, wherever and by whomever they are built.

    python scripts/make_dist.py . plugins/remasker --out dist

setuptools keeps the modes and times of files, the user's name and the time of the build. So each place is copied first, with
git's modes, and what is written is dated by SOURCE_DATE_EPOCH, by default the time of the last commit. The bytes also depend
on the versions of Python and setuptools: those of the environment are used (`constraints.txt`), none are fetched.
"""

import argparse
import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

MODES = {True: 0o755, False: 0o644}


def git(place: Path, *words: str) -> str:
    """Return what git says of a folder; end with a sentence where it is no checkout."""
    told = subprocess.run(["git", "-C", str(place), *words], capture_output=True, text=True)
    if told.returncode != 0:
        raise SystemExit(f"{place} is no git checkout ({told.stderr.strip()}); build from a clone of the repository")
    return told.stdout


def copied(place: Path, goal: Path) -> Path:
    """Copy the files of a place that git does not ignore, with the modes that git keeps."""
    listed = git(place, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")
    for name in filter(None, listed.split("\0")):
        if not (place / name).is_file():
            continue  # deleted, and not yet committed
        (goal / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / name, goal / name)
        (goal / name).chmod(MODES[bool((place / name).stat().st_mode & 0o100)])
    return goal


def packed_again(archive: Path, epoch: int) -> None:
    """Write a source archive anew, in order, without its owner and with one time for everything."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime, member.mode = epoch, MODES[member.isdir() or bool(member.mode & 0o100)]
        member.pax_headers = {}
        return member

    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(archive) as old:
            old.extractall(folder, filter="data")
        with (
            archive.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=epoch) as file,
            tarfile.open(fileobj=file, mode="w") as new,
        ):
            for path in sorted(Path(folder).rglob("*")):
                new.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)


def build(place: Path, out: Path, epoch: int) -> list[Path]:
    """Build the wheel and the source distribution of a place into a folder and return their paths."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = copied(place, Path(folder) / "source"), Path(folder) / "made"
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)]
        told = subprocess.run(
            command, capture_output=True, text=True, umask=0o022, env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)}
        )
        if told.returncode != 0:
            raise SystemExit(f"{place} cannot be built:\n{told.stdout[-2000:]}{told.stderr[-2000:]}")
        for archive in made.glob("*.tar.gz"):
            packed_again(archive, epoch)
        return [Path(shutil.copy(path, out / path.name)) for path in sorted(made.iterdir())]


def main() -> None:
    """Run from the command line; prints the files made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, help="folders with a pyproject.toml")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder for what is built")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for place in given.places:
        epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or git(place, "log", "-1", "--format=%ct"))
        for path in build(place, given.out, epoch):
            print(path)


if __name__ == "__main__":
    main()
