"""What is released: the same bytes from another checkout; an audit that says what it could not ask."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from record import counted

ROOT = Path(__file__).parent.parent.parent
PLACES = [ROOT, *sorted(path.parent for path in (ROOT / "plugins").glob("*/pyproject.toml"))]


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def elsewhere(place, folder):
    """Copy what would be built into another checkout, of a user who lets nobody else read."""
    script("make_dist").copied(place, folder)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    return folder


def built(place, out, umask):
    """Build a place and return the files' hashes by their names."""
    command = [sys.executable, str(ROOT / "scripts" / "make_dist.py"), str(place), "--out", str(out)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    told = subprocess.run(command, env=environment, umask=umask, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


def check_the_same_bytes(place, tmp_path):
    pytest.importorskip("build", reason="build is not installed; it is in the extra `dev`")
    with counted("environments", f"builds of {place.name if place != ROOT else 'the core'} elsewhere") as count:
        here = built(place, tmp_path / "first", 0o022)
        there = built(elsewhere(place, tmp_path / "checkout"), tmp_path / "second", 0o077)
        assert sorted(Path(name).suffix for name in here) == [".gz", ".whl"]
        assert here == there
        count(2)


def test_a_plugin_is_built_to_the_same_bytes(tmp_path):
    check_the_same_bytes(ROOT / "plugins" / "regions", tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
def test_everything_is_built_to_the_same_bytes(place, tmp_path):
    check_the_same_bytes(place, tmp_path)


def test_what_is_no_checkout_is_told(tmp_path):
    with pytest.raises(SystemExit, match="is no git checkout.*build from a clone"):
        script("make_dist").copied(tmp_path, tmp_path / "copy")


FINE = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("answers", "status", "sentence"),
    [
        ([FINE], 0, "1 of 1 packages audited, 0 known vulnerabilities"),
        ([FINE, BAD], 1, "b 2: PYSEC-1, mended in 2.1\n2 of 2 packages audited, 1 known"),
        ([FINE, SKIPPED], 2, "not audited: c"),
        ([SKIPPED], 2, "nothing was audited"),
        ([BAD, SKIPPED], 1, "not audited: c"),
        ([], 2, "nothing was audited"),
    ],
)
def test_an_audit_says_what_it_could_not_ask(answers, status, sentence):
    told = script("audit").report(answers)
    assert told[0] == status
    assert sentence in told[1]


def test_an_audit_without_an_answer(capsys, monkeypatch):
    audit = script("audit")
    monkeypatch.setattr(sys, "argv", ["audit.py", "false", "constraints.txt"])
    assert audit.main() == 2
    assert "nothing was audited: the vulnerability service does not answer (exit code 1)" in capsys.readouterr().out
