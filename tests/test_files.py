"""Writing: whole or not at all, and nothing lost that nobody gave up."""

import os
import subprocess
import sys
import time

import pytest

from hub_mim import files
from hub_mim.files import check_exists, new_file, new_folder, read_json, refuse_overwrite, write_file, write_json


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_refuses_what_is_there(tmp_path):
    write_file(tmp_path / "a.txt", "one")
    with pytest.raises(FileExistsError, match=r"a\.txt already exists.*overwrite"):
        write_file(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "one"
    with pytest.raises(FileExistsError, match="folder"):
        refuse_overwrite(tmp_path)
    (tmp_path / "empty").mkdir()
    assert refuse_overwrite(tmp_path / "empty") == tmp_path / "empty"


def test_refuses_a_dangling_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        refuse_overwrite(tmp_path / "link")


def test_writes_through_a_link(tmp_path):
    write_file(tmp_path / "real.txt", "one")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    write_file(tmp_path / "link.txt", "two", overwrite=True)
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "two"


def test_an_error_leaves_the_old_file_and_no_litter(tmp_path):
    write_file(tmp_path / "a.csv", "one")
    with pytest.raises(ZeroDivisionError), new_file(tmp_path / "a.csv", overwrite=True) as partial:
        1 / partial.write_text("")
    assert _names(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "one"


def test_hidden_file_keeps_its_ending(tmp_path):
    with new_file(tmp_path / "a.csv.gz") as partial:
        assert partial.name.endswith(".csv.gz")  # by which pandas compresses
        partial.write_text("x")


def test_json_round_trip_and_bad_json(tmp_path):
    write_json(tmp_path / "deep" / "a.json", {"ü": [1, 0.1]})
    assert read_json(tmp_path / "deep" / "a.json") == {"ü": [1, 0.1]}
    (tmp_path / "bad.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"bad\.json is not JSON.*line 1"):
        read_json(tmp_path / "bad.json")


def test_folder_appears_whole(tmp_path):
    with new_folder(tmp_path / "a" / "out") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a" / "out").exists()
    assert _names(tmp_path / "a") == ["out"]
    assert _names(tmp_path / "a" / "out") == ["x"]


def test_folder_error_keeps_the_old(tmp_path):
    out = tmp_path / "out"
    write_file(out / "x", "old")
    with pytest.raises(FileExistsError), new_folder(out):
        pass
    with pytest.raises(ZeroDivisionError), new_folder(out, overwrite=True) as partial:
        1 / (partial / "x").write_text("")
    assert (out / "x").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_folder_replaces_its_own_and_keeps_the_rest(tmp_path):
    out = tmp_path / "out"
    for name in ("model.safetensors", "stale.safetensors", "notes.txt", "logs/deep/events"):
        write_file(out / name, "old")
    with (
        (out / "notes.txt").open("a") as still_open,
        new_folder(out, overwrite=True, replaced=("*.safetensors",)) as new,
    ):
        (new / "model.safetensors").write_text("new")
        still_open.write(" and more")
    assert _names(out) == ["logs", "model.safetensors", "notes.txt"]
    assert (out / "model.safetensors").read_text() == "new"
    assert (out / "notes.txt").read_text() == "old and more"
    assert (out / "logs" / "deep" / "events").read_text() == "old"
    assert _names(tmp_path) == ["out"]


def test_current_folder_is_filled_in_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "old.safetensors", "notes.txt", "results/a.json"):
        write_file(name, "old")
    with new_folder(
        ".", overwrite=True, replaced=("*.safetensors", "config.json", "results"), last="config.json"
    ) as new:
        (new / "config.json").write_text("new")
        (new / "new.safetensors").write_text("new")
    assert _names(tmp_path) == ["config.json", "new.safetensors", "notes.txt"]
    assert os.listdir(".")  # the process still stands in the folder that it filled


def test_a_file_is_no_folder(tmp_path):
    write_file(tmp_path / "out", "old")
    with pytest.raises(FileExistsError, match="is a file"), new_folder(tmp_path / "out", overwrite=True):
        pass
    with pytest.raises(IsADirectoryError, match="name of a file"):
        write_file(tmp_path, "x", overwrite=True)


KILLED = """
import os, sys
from hub_mim import files
files._exchange = lambda first, second: False  # as on a system that cannot
real, calls = os.rename, []
def rename(a, b):
    calls.append(a)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    real(a, b)
os.rename = rename
with files.new_folder(sys.argv[1], overwrite=True) as partial:
    (partial / "x").write_text("new")
"""


@pytest.mark.parametrize("at", [1, 2])
def test_killed_between_the_renames(tmp_path, at):
    """A bug here would leave neither the old nor the new folder for good."""
    out = tmp_path / "out"
    write_file(out / "x", "old")
    subprocess.run([sys.executable, "-c", KILLED, str(out), str(at)], check=False)
    with pytest.raises(FileExistsError), new_folder(out):
        pass
    assert (out / "x").read_text() == "old"


WRITER = """
import os, sys
from hub_mim.files import new_file, new_folder
with (new_file if sys.argv[2] == "file" else new_folder)(sys.argv[1], overwrite=True) as partial:
    (partial if sys.argv[2] == "file" else partial / "x").write_text("half")
    print("began", flush=True)
    input()
"""


def begin_to_write(target, kind):
    """Let another process write, and stop before its end until it is told to go on."""
    command = [sys.executable, "-c", WRITER, str(target), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "began\n"
    return process


@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_makes_is_not(kind, tmp_path):
    out = tmp_path / "out.d"
    write_file(out if kind == "file" else out / "x", "old")
    killed = begin_to_write(out, kind)
    killed.kill()
    killed.communicate()
    assert len(_names(tmp_path)) == 2
    living = begin_to_write(out, kind)
    assert len(_names(tmp_path)) == 2  # the killed one's are gone
    with (new_file if kind == "file" else new_folder)(out, overwrite=True) as partial:
        (partial if kind == "file" else partial / "x").write_text("new")
        assert len(_names(tmp_path)) == 3  # the living one's are still there
    living.communicate("\n")
    assert living.returncode == 0
    assert _names(tmp_path) == ["out.d"]
    assert (out if kind == "file" else out / "x").read_text() == "half"  # that was its whole; it came last


def test_leftovers_of_another_target_stay(tmp_path):
    for name in (".a.b.0123abcd.partial", ".a.0123abcd.partial.csv", ".a.mine.partial", "a.0123abcd.partial"):
        (tmp_path / name).mkdir()
    write_file(tmp_path / "a", "x")
    assert len(_names(tmp_path)) == 5


def test_a_folder_that_is_taken_for_a_leftover_before_it_is_locked(tmp_path, monkeypatch):
    """Another process may look between the making of the folder and its lock."""
    usual, taken = files._lock, []

    def lock(folder, *, wait):
        if wait and not taken:
            taken.append(folder)
            files._partials.cache_clear()  # as another process does
            files._remove_leftovers(tmp_path, "x")
        return usual(folder, wait=wait)

    monkeypatch.setattr(files, "_lock", lock)
    write_file(tmp_path / "x", "whole")
    assert not taken[0].exists()
    assert (tmp_path / "x").read_text() == "whole"


MANY = """
import os, sys, time
from hub_mim.files import new_folder, write_file
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    write_file(sys.argv[1] + "/file", "x" * 1000, overwrite=True)
    with new_folder(sys.argv[1] + "/folder", overwrite=True) as partial:
        for name in "abc":
            (partial / name).write_text(name)
        assert sorted(os.listdir(partial)) == ["a", "b", "c"]
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="folders cannot be locked")
def test_writers_of_one_target_never_remove_each_others_work(tmp_path):
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    living = [subprocess.Popen([*command, "8"], stderr=subprocess.PIPE, text=True) for _ in range(3)]
    while any(process.poll() is None for process in living):
        killed = subprocess.Popen([*command, "60"])
        time.sleep(1)
        killed.kill()
        killed.wait()
    assert [process.communicate()[1] for process in living] == ["", "", ""]
    subprocess.run([*command, "0.1"], check=True)
    assert _names(tmp_path) == ["file", "folder"]


def test_a_mistyped_path_is_told_from_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file("runs/table/config.json", "{}")
    for name in ("owner/name", "owner/name-v1.5", "imdb", "runs", "runs/table"):
        check_exists(name)
    for name in ("rnus", "runs/other", "data.csv", "./x", "a/b/c", "owner/rows.parquet", str(tmp_path / "x")):
        with pytest.raises(FileNotFoundError, match="no file or folder"):
            check_exists(name)
    with pytest.raises(FileNotFoundError, match="runs/tables; did you mean 'table'"):
        check_exists("runs/tables")
