"""No write that fails, and no process that dies, loses anything: see `faults.py`, which can be run by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import faults
import pytest
from record import counted

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
pytest.importorskip("hub_mim_remasker", reason="hub-mim-remasker is not installed")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at /proc, and forks")

HARNESS = Path(faults.__file__)


def run(tmp_path, *options):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, HARNESS, *options, "--out", tmp_path / "told.json"]
    told = subprocess.run([str(each) for each in command], env=environment, capture_output=True, text=True)
    assert (tmp_path / "told.json").exists(), told.stderr[-3000:]
    found = json.loads((tmp_path / "told.json").read_text())
    for name, tried in found["tried"].items():
        with counted("faults", name) as count:
            count(tried, points=found["points"][name])
    assert found["lost"] == [], json.dumps(found["lost"], indent=1)
    assert told.returncode == 0, told.stderr[-3000:]
    return found


@pytest.mark.slow
def test_thirty_faults(tmp_path):
    found = run(tmp_path, "--sample", 30, "--seed", 0)
    assert sum(found["tried"].values()) == 30
    assert min(found["points"].values()) > 5  # every command is seen to write


@pytest.mark.nightly
def test_every_fault_at_every_write(tmp_path):
    found = run(tmp_path)
    assert sum(found["tried"].values()) == found["possible"]


def careless(folder):
    """Write over a file in place, in two pieces."""
    with open(folder / "x", "w") as file:
        file.write("new")
    with open(folder / "x", "a") as file:
        file.write(" and whole")


def careful(folder):
    from hub_mim.files import write_file

    write_file(folder / "x", "new and whole", overwrite=True)


def state(folder):
    return {"old": faults.OLD, "new and whole": faults.NEW}.get((folder / "x").read_text(errors="replace"), "a mixture")


def prepare(folder):
    (folder / "x").write_text("old")


@pytest.mark.parametrize(("run", "loses"), [(careless, True), (careful, False)])
def test_the_harness_sees_a_careless_writer(run, loses, tmp_path):
    command = faults.Command("x", prepare, run, state, faults.OLD)
    points = faults.points_of(command, tmp_path)
    found = {
        (number, fault): faults.trial(command, number, fault, tmp_path)
        for number in range(1, len(points) + 1)
        for fault in faults.DISK
    }
    assert any(found.values()) == loses, found
    if loses:
        assert "a mixture" in (found[2, "kill"] or "")
