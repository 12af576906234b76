"""A checkpoint counts only if every file is as it was written."""

import pytest

from hub_mim.checkpoints import MARKER, fault, last_complete, mark_complete


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
