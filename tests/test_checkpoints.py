"""A checkpoint counts only if every file is as it was written."""

import subprocess
import sys
from contextlib import contextmanager
from subprocess import PIPE

import pytest

from hub_mim.checkpoints import MARKER, STATE, exclusive, fault, last_complete, mark_complete


def make(folder, step):
    place = folder / f"checkpoint-{step}"
    (place / "deep").mkdir(parents=True)
    for name in ("model.safetensors", "optimizer.pt", "deep/rng_state.pth"):
        (place / name).write_bytes(f"{name} {step}".encode() * 100)
    mark_complete(place)
    return place


def damage(place, how):
    file = place / "optimizer.pt"
    if how == "missing":
        file.unlink()
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-3])
    elif how == "changed":
        file.write_bytes(b"x" + file.read_bytes()[1:])
    elif how == "unfinished":
        (place / MARKER).unlink()
    else:
        (place / MARKER).write_text("{")


def test_the_newest_complete_one_is_found(tmp_path):
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    assert last_complete(tmp_path) == newest
    assert fault(newest) is None


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("missing", "optimizer.pt is missing"),
        ("truncated", "optimizer.pt has"),
        ("changed", "optimizer.pt is damaged"),
        ("unfinished", "never finished"),
        ("marker", "complete.json is damaged"),
    ],
)
def test_a_damaged_one_is_passed_over_and_told(tmp_path, capsys, how, text):
    older = make(tmp_path, 5)
    damage(make(tmp_path, 10), how)
    assert last_complete(tmp_path) == older
    assert text in capsys.readouterr().err


def test_none_is_found_where_there_is_none(tmp_path):
    assert last_complete(tmp_path / "nothing") is None
    damage(make(tmp_path, 1), "missing")
    assert last_complete(tmp_path) is None


def make_with_best(folder, step, best):
    place = folder / f"checkpoint-{step}"
    place.mkdir()
    (place / STATE).write_text(f'{{"best_global_step": {best}}}')
    mark_complete(place)


def test_a_whole_checkpoint_without_its_best_predecessor_does_not_count(tmp_path, capsys):
    for step, best in ((2, "null"), (4, 4), (6, 4), (8, 8)):
        make_with_best(tmp_path, step, best)
    (tmp_path / "checkpoint-4" / STATE).write_text("{}")
    assert last_complete(tmp_path) == tmp_path / "checkpoint-8"
    (tmp_path / "checkpoint-8" / STATE).unlink()
    assert last_complete(tmp_path) == tmp_path / "checkpoint-2"
    assert "checkpoint-4, the best so far, is not whole" in capsys.readouterr().err


HOLD = """
import sys
from hub_mim.checkpoints import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(folder):
    """Let another process hold a folder."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=PIPE, stdout=PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_a_folder_is_held_by_one_process_until_it_dies(tmp_path):
    with held(tmp_path / "a") as other:
        with pytest.raises(RuntimeError, match="another process is training into"), exclusive(tmp_path / "a"):
            pass
        other.kill()
        other.wait()
        with exclusive(tmp_path / "a"):
            pass


def test_two_runs_cannot_write_into_one_folder(tmp_path):
    pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
    from hub_mim.training import pretrain

    with held(tmp_path / "out" / "checkpoints"), pytest.raises(RuntimeError, match="another process is training into"):
        pretrain("toy", "sample:toy", tmp_path / "out", steps=2, overwrite=True)
