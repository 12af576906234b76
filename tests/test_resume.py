"""A run killed with SIGKILL goes on to the same losses and weights, bit for bit: in one process, and in two."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

STEPS = 24
SCRIPT = """
import sys
from hub_mim import training
from hub_mim.launching import leave_others
from hub_mim.testing.killing import kill_after
out, kill_at, workers, data = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]

kill_after(kill_at)
streaming = data != "sample:toy"
training.pretrain("toy", data, out, streaming=streaming, steps=24, batch_size=4, validation=0.1, config={"dropout": 0.1},
                  arguments={"save_steps": 6, "eval_steps": 6, "logging_steps": 4, "dataloader_num_workers": workers})
leave_others()
"""


def command(processes):
    """Return the start of a command line for so many processes; a free port, so that two tests do not meet."""
    if processes == 1:
        return [sys.executable]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), f"--master_port={port}"]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def launch(out, kill_at=-1, processes=1, workers=0, script=SCRIPT, data="sample:toy"):
    file = out.parent / "train.py"
    file.write_text(script)
    arguments = [str(file), str(out), str(kill_at), str(workers), str(data)]
    return subprocess.run(
        [*command(processes), *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def figures(out):
    """Return everything that must be equal: every logged figure to the last bit, and the weights."""
    run = json.loads((out / "run.json").read_text())
    lines = [{name: float(value).hex() for name, value in line.items()} for line in run["history"]]
    digest = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    return lines, digest, run["losses"], run["steps"], run["best_step"]


def check(tmp_path, **options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    told = launch(whole, **options)
    assert told.returncode == 0, told.stderr[-2000:]
    told = launch(broken, kill_at=16, **options)
    assert told.returncode != 0
    assert [path.name for path in broken.iterdir()] == ["checkpoints"]
    told = launch(broken, **options)
    assert told.returncode == 0, told.stderr[-2000:]
    assert told.stderr.count("going on from step 12") == 1
    assert figures(broken) == figures(whole)
    steps = {int(float.fromhex(line["step"])) for line in figures(whole)[0] if "loss" in line}
    assert steps == {4, 6, 8, 12, 16, 18, 20, 24}


@pytest.mark.slow
def test_one_process(tmp_path):
    check(tmp_path)


@pytest.mark.distributed
def test_two_processes(tmp_path):
    check(tmp_path, processes=2)


@pytest.mark.distributed
def test_two_processes_with_two_workers_each_on_a_stream(tmp_path):
    from hub_mim_toy.example import sample

    data = tmp_path / "rows"
    data.mkdir()
    for shard in range(6):  # four readers have one each, and share two
        lines = [json.dumps(row) + "\n" for row in sample(9 + shard, seed=shard)]
        (data / f"{shard}.jsonl").write_text("".join(lines))
    check(tmp_path, processes=2, workers=2, data=data)


def cli(out, processes=1, **options):
    given = {"data": "sample:toy", "out": out, "seed": 7, **options}
    pairs = [text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return [*command(processes), "-m", "hub_mim", "pretrain", "toy", *pairs]


def run_cli(*arguments, **options):
    told = subprocess.run(cli(*arguments, **options), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr[-2000:]
    assert told.stdout.count("made") == 1
    return told.stderr


def kill_after_checkpoint(arguments, out, number):
    """Start a command, wait until so many steps are saved, and kill it wherever it is then."""
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    marker = out / "checkpoints" / f"checkpoint-{number}" / "complete.json"
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, f"it ended before step {number} was saved"


@pytest.mark.slow
def test_the_command_line_goes_on_after_two_kills(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    options = {"steps": 400, "config": "dropout=0.1", "set": "save_steps=20"}
    run_cli(whole, **options)
    for number in (40, 140):
        kill_after_checkpoint(cli(broken, **options), broken, number)
        assert not (broken / "model.safetensors").exists()
    assert run_cli(broken, **options).count("going on from step") == 1
    assert figures(broken) == figures(whole)


@pytest.mark.distributed
def test_masks_do_not_depend_on_the_number_of_processes(tmp_path):
    """Two processes with half the batch each take the steps of one with the whole batch; by the real command line."""
    run_cli(tmp_path / "one", steps=24, batch_size=8)
    run_cli(tmp_path / "two", processes=2, steps=24, batch_size=4)
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    assert (first["processes"], second["processes"]) == (1, 2)
    for mine, theirs in zip(first["history"], second["history"], strict=True):
        for name in ("loss", "loss/hidden", "loss/absolute", "learning_rate"):
            if name in mine:
                assert mine[name] == pytest.approx(theirs[name], rel=1e-4)  # sums in another order, over 24 steps
    for name in ("eval_loss", "eval_loss/hidden"):
        assert first["losses"][name] == pytest.approx(second["losses"][name], rel=2e-2)  # the last batch is filled up
