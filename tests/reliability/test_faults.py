"""No write that fails, no process that dies and no bit that turns loses anything: see `faults.py`, which can be run by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

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


def test_two_parts_are_the_whole_and_an_outcome_is_not_tried_twice(tmp_path):
    tried = []
    tested = SimpleNamespace(
        command=SimpleNamespace(name="x"),
        points=["open"] * 40,
        spoilable=[],
        what=lambda number, fault: "open",
        lost=lambda *trial: tried.append(trial),
    )
    trials = [(tested, number, "kill") for number in range(1, 41)]
    halves = [list(faults.in_part(trials, part)) for part in ("1/2", "2/2")]
    assert sorted(each[1] for half in halves for each in half) == list(range(1, 41))
    assert min(map(len, halves)) >= 16
    progress = tmp_path / "progress.jsonl"
    for half in halves:
        faults.try_all(half, progress, print)
    assert faults.try_all(trials, progress, print) == {"tried": {"x": 40}, "lost": [], "unseen": 0}
    assert len(tried) == 40
    tested.points[0] = "rename"  # another version of the command is tried anew
    faults.try_all(trials[:1], progress, print)
    assert len(tried) == 41


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
    tested = faults.Tested(faults.Command("x", prepare, run, state, faults.OLD), tmp_path)
    found = {trial: tested.lost(*trial) for trial in tested.trials() if trial[1] in faults.DISK}
    assert any(found.values()) == loses, found
    if loses:
        assert "a mixture" in (found[2, "kill"] or "")


@pytest.mark.parametrize("hashed", [True, False])
def test_the_harness_sees_wrong_bytes_that_are_taken_for_good(hashed, tmp_path):
    """A turned bit is lost where there is a hash that should have told, and counted where there is none."""
    from hub_mim.files import write_file

    def first_then_second(folder):
        if not (folder / "first").exists():
            (folder / "first").write_text("new and ")
        write_file(folder / "x", (folder / "first").read_text(errors="replace") + "whole", overwrite=True)

    patterns = ("first",) if hashed else ()
    tested = faults.Tested(
        faults.Command("x", prepare, first_then_second, state, faults.OLD, hashed=patterns), tmp_path
    )
    found = {tested.what(*trial): tested.lost(*trial) for trial in tested.trials() if trial[1] == "corrupt middle"}
    assert found["x"] is None  # the next call makes it again
    assert ("there is a hash" in found["first"]) if hashed else found["first"] == faults.UNSEEN
