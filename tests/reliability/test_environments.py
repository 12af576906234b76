"""hub-mim where little is given: no home, no terminal, another locale, odd names; and the same bytes from the same seed."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from record import counted

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")

PLACES = ("HOME", "HF_HOME", "XDG_CACHE_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "MPLCONFIGDIR", "USERPROFILE")
PLACES += ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")  # torch sets them in this process when another test compiles
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


ALONE = [
    ["ls"],
    ["info", "toy"],
    ["pretrain", "toy", "--data", "rows.jsonl", "--out", "run", "--steps", "2"],
    ["pretrain", "toy", "--data", "rows.jsonl", "--out", "on", "--steps", "2", "--init-from", "run", "--lora"],
    ["evaluate", "run", "--data", "rows.jsonl", "--save"],
    ["evaluate", "run", "--data", "others.jsonl", "--protocol", "few-label", "--label", "label"],
    ["embed", "run", "--data", "rows.jsonl", "--out", "vectors.parquet"],
    ["finetune", "run", "--data", "rows.jsonl", "--out", "tuned", "--steps", "2"],
    ["report", "run", "tuned", "--out", "report.html"],
    ["new", "waves", "--out", "waves"],
    ["info", "run"],
    ["doctor"],
]
OF_A_HUB = [
    ["push", "run", "me/run"],
    ["pull", "me/run", "back"],
    ["ls", "--hub"],
    ["embed", "me/run", "--data", "rows.jsonl", "--out", "more.npy"],
    ["pretrain", "toy", "--data", "me/rows", "--out", "other", "--steps", "2"],
]


def confined(folder, commands, **environment):
    """Run commands where nothing but a folder can be written, and no network is."""
    for name, number in {"rows.jsonl": 24, "others.jsonl": 48}.items():
        rows = [{"values": [[float(n), 1.0, 2.0]] * 6, "label": "ab"[n % 2]} for n in range(number)]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tmp").mkdir(exist_ok=True)
    nowhere = BARE | {"HOME": "/nowhere/home", "TMPDIR": str(folder / "tmp"), "HF_TOKEN": "hf_of_nobody"} | environment
    script = Path(__file__).parent / "confined.py"
    told = subprocess.run(
        [sys.executable, str(script), json.dumps(commands)], cwd=folder, env=nowhere, capture_output=True, timeout=600
    )
    assert told.returncode == 0, told.stderr.decode()[-2000:]
    return json.loads(told.stdout)


@pytest.mark.slow
def test_only_one_folder_can_be_written_and_no_network_is_there(tmp_path):
    """Neither the installed packages nor a home; what is temporary is its owner's alone, and gone at the end."""
    with counted("environments", "verbs without a network, a home and a place to write but one") as count:
        told = confined(tmp_path, ALONE)
        for ran in told["ran"]:
            assert ran["status"] == 0, ran
        assert [path for path in told["outside"] if not path.startswith("/nowhere/home")] == []
        left = {path.name for path in (tmp_path / "tmp").iterdir()} | {Path(path).name for path in told["readable"]}
        assert {name for name in left if not name.startswith("torchinductor_")} == set()  # torch's own, from its import
        count(len(ALONE))


@pytest.mark.slow
@pytest.mark.parametrize("offline", ["1", "0"])
def test_what_needs_a_hub_says_so_in_a_sentence(tmp_path, offline):
    with counted("environments", f"verbs that need a Hub, HF_HUB_OFFLINE={offline}") as count:
        _, *told = confined(tmp_path, [ALONE[2], *OF_A_HUB], HF_HUB_OFFLINE=offline)["ran"]
        for ran in told:
            assert ran["status"] == 1, ran
            assert "Traceback" not in ran["stderr"], ran
            assert sum("hub-mim: error: " in line for line in ran["stderr"].splitlines()) == 1, ran
        count(len(OF_A_HUB))


def broken_torchvision(folder):
    """Write a torchvision that is installed and cannot be imported, as one beside another build of torch."""
    (folder / "torchvision").mkdir(parents=True)
    (folder / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    (folder / "torchvision-0.99.0.dist-info").mkdir()
    (folder / "torchvision-0.99.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.99.0\n"
    )
    return str(folder)


@pytest.mark.slow
def test_a_broken_torchvision(tmp_path):
    """The doctor names it, and what it advises lets everything run."""
    with counted("environments", "verbs beside a broken torchvision") as count:
        here = {"PYTHONPATH": broken_torchvision(tmp_path / "site"), "HOME": str(tmp_path)}
        told = hub("doctor", cwd=tmp_path, **here)
        assert told.returncode == 1
        text = " ".join((told.stdout + told.stderr).decode().split())
        assert "torchvision 0.99.0 is installed but cannot be imported" in text
        assert "HUB_MIM_NO_TORCHVISION=1" in text
        (tmp_path / "kept").mkdir()
        commands = [command for command in ALONE if command != ["doctor"]]
        for ran in confined(tmp_path / "kept", commands, HUB_MIM_NO_TORCHVISION="1", PYTHONPATH=here["PYTHONPATH"])[
            "ran"
        ]:
            assert ran["status"] == 0, ran
        count(len(commands) + 1)


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
    for number, (workers, hashed) in enumerate([(0, "1"), (0, "2"), (2, "3"), (4, "4")]):
        out = tmp_path / str(number) / "run"
        out.parent.mkdir()
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": hashed}
        subprocess.run([sys.executable, "-c", SCRIPT, str(out), str(workers)], env=environment, check=True)
        run = json.loads((out / "run.json").read_text())
        names = ("model.safetensors", "config.json", "vectors.npy", "training.png")
        bytes_of = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}
        told.append((bytes_of, run["history"], run["losses"], run["fingerprint"]))
    with counted("environments", "the same seed in other processes, with other workers") as count:
        assert all(each == told[0] for each in told[1:])
        count(len(told))


@pytest.mark.distributed
def test_the_same_seed_gives_the_same_bytes_on_two_processes(tmp_path):
    """Again and again, with workers and without: sums between processes are taken in one order."""
    told = []
    for workers in (0, 0, 2):
        out = tmp_path / str(len(told)) / "run"
        options = ["--config", "dropout=0.1", "--set", f"dataloader_num_workers={workers}", "--seed", 5, "--steps", 8]
        ran = hub("pretrain", "toy", "--data", "sample:toy", "--out", out, "--launch", 2, *options, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr.decode()[-2000:]
        run = json.loads((out / "run.json").read_text())
        assert run["processes"] == 2
        told.append(
            (hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(), run["history"], run["losses"])
        )
    with counted("environments", "the same seed on two processes again") as count:
        assert told[0] == told[1] == told[2]
        count(len(told))
