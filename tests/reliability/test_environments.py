"""hub-mim where little is given: no home, no terminal, another locale, odd names; and the same bytes from the same seed."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

PLACES = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "MPLCONFIGDIR", "USERPROFILE")
BARE = {
    name: value for name, value in os.environ.items() if name not in (*PLACES, "LANG", "LC_ALL", "TERM", "PYTHONUTF8")
}
BARE |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def hub(*words, cwd, **environment):
    """Run the command with nothing but this environment beside the bare one; no terminal, no input."""
    command = [sys.executable, "-m", "hub_mim", *map(str, words)]
    return subprocess.run(
        command, cwd=cwd, env=BARE | environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )


def train(tmp_path, out, **environment):
    told = hub("pretrain", "toy", "--data", "sample:toy", "--out", out, "--steps", 2, cwd=tmp_path, **environment)
    assert told.returncode == 0, told.stderr.decode(errors="replace")[-2000:]
    assert b"\x1b[" not in told.stdout + told.stderr  # no colours where nobody looks
    return told


@pytest.mark.slow
def test_no_home_and_no_locale_and_names_that_are_not_ascii(tmp_path):
    """A posix shell of a container: nothing is set; the folder is called as people call folders."""
    out = tmp_path / "Läufe ☃" / "erster"
    train(tmp_path, out, LC_ALL="C", NO_COLOR="1", COLUMNS="80")
    told = hub("embed", out, "--data", "sample:toy", "--out", tmp_path / "Läufe ☃" / "v.npy", cwd=tmp_path, LC_ALL="C")
    assert told.returncode == 0, told.stderr.decode(errors="replace")[-2000:]
    assert (tmp_path / "Läufe ☃" / "v.npy").is_file()
    told = hub("info", out, "--json", cwd=tmp_path, LC_ALL="C", PYTHONIOENCODING="ascii:strict")
    assert told.returncode == 0, told.stderr.decode(errors="replace")[-2000:]
    assert json.loads(told.stdout)["method"] == "toy"


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs a place where nobody may write")
def test_a_home_that_cannot_be_written(tmp_path):
    told = train(tmp_path, tmp_path / "run", HOME="/proc/nowhere")
    assert b"Traceback" not in told.stderr


def test_eighty_columns_and_no_colour(tmp_path):
    told = hub("ls", cwd=tmp_path, HOME=str(tmp_path), COLUMNS="80", NO_COLOR="1", LC_ALL="C")
    assert told.returncode == 0, told.stderr.decode(errors="replace")
    assert b"\x1b" not in told.stdout
    told = hub("pretrain", "--help", cwd=tmp_path, HOME=str(tmp_path), COLUMNS="80")
    assert told.returncode == 0
    assert max(len(line) for line in told.stdout.decode().splitlines()) <= 80


@pytest.mark.parametrize("ending", ["csv", "tsv"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_from_windows(ending, mark, tmp_path):
    """Their line endings, and the mark that its programs put first."""
    from hub_mim.data import load_rows

    text = "größe,wort\n1,ä\n2,b\n".replace(",", "\t" if ending == "tsv" else ",")
    (tmp_path / f"unix.{ending}").write_bytes(text.encode())
    (tmp_path / f"wörter.{ending}").write_bytes((mark + text.replace("\n", "\r\n")).encode())
    rows, windows = load_rows(tmp_path / f"unix.{ending}"), load_rows(tmp_path / f"wörter.{ending}")
    assert windows.column_names == rows.column_names == ["größe", "wort"]
    assert windows.to_dict() == rows.to_dict() == {"größe": [1, 2], "wort": ["ä", "b"]}


def test_json_lines_from_windows(tmp_path):
    from hub_mim.data import load_rows

    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\r\n{"a": 2}\r\n\r\n')
    assert load_rows(tmp_path / "a.jsonl")["a"][:] == [1, 2]


SCRIPT = """
import sys
import hub_mim
out, workers = sys.argv[1], int(sys.argv[2])
hub_mim.pretrain("toy", "sample:toy", out, steps=8, batch_size=4, seed=5, config={"dropout": 0.1},
                 arguments={"dataloader_num_workers": workers, "save_steps": 4, "eval_steps": 4})
hub_mim.embed(out, "sample:toy", out + "/vectors.npy")
"""


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes(tmp_path):
    """In every process, whatever the order of its sets, and with any number of workers."""
    told = []
    for number, (workers, hashed) in enumerate([(0, "1"), (0, "2"), (2, "3")]):
        out = tmp_path / str(number) / "run"
        out.parent.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hashed}
        subprocess.run([sys.executable, "-c", SCRIPT, str(out), str(workers)], env=environment, check=True)
        run = json.loads((out / "run.json").read_text())
        names = ("model.safetensors", "config.json", "vectors.npy", "training.png")
        bytes_of = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
        told.append((bytes_of, run["history"], run["losses"], run["fingerprint"]))
    assert told[0] == told[1]
    assert told[0] == told[2]
