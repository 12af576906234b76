"""Runs on several processes that change their number, that lose a process or the launcher, that have too few rows."""

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from hub_mim import launching

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def command(out, *options, steps=24, data="sample:toy"):
    given = ["--data", data, "--out", out, "--steps", steps, "--seed", 7, "--validation", 0, "--set", "save_steps=6"]
    return [sys.executable, "-m", "hub_mim", "pretrain", "toy", *map(str, (*given, *options))]


def run(out, *options, **more):
    told = subprocess.run(command(out, *options, **more), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    return told.returncode, told.stderr


def children(process):
    told = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return [int(number) for number in told.stdout.split()]


def start(out, *options, until=12, **more):
    """Start a run, and return it with its processes once a step is saved."""
    process = subprocess.Popen(command(out, *options, **more), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    marker = out / "checkpoints" / f"checkpoint-{until}" / "complete.json"
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return process, children(process)


def gone(processes, seconds=60):
    """Tell whether processes end within some time, and leave no zombies."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(os.path.exists(f"/proc/{number}") for number in processes):
            return True
        time.sleep(0.1)
    return False


def result(out):
    return json.loads((out / "run.json").read_text()), load_file(out / "model.safetensors")


SCRIPT = """
import sys
from hub_mim import training
from hub_mim.launching import leave_others
from hub_mim.testing.killing import kill_after
out, kill_at, batch, accumulate = sys.argv[1], *map(int, sys.argv[2:5])

kill_after(kill_at)
# so large an epsilon that Adam does not make steps of what is rounding
training.pretrain("toy", "sample:toy", out, steps=24, batch_size=batch, validation=0.0, seed=7,
                  arguments={"save_steps": 6, "logging_steps": 4, "gradient_accumulation_steps": accumulate,
                             "adam_epsilon": 1e-3})
leave_others()
"""


def script(out, processes, batch, accumulate=1, kill_at=-1, **environment):
    """Train for 24 steps, a checkpoint at every sixth; returns the status and what was said."""
    file = out.parent / "train.py"
    file.write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    arguments = [*launcher, str(file), *map(str, (out, kill_at, batch, accumulate))]
    given = {"env": ENVIRONMENT | environment, "capture_output": True, "text": True, "timeout": 300}
    told = subprocess.run([sys.executable, *arguments], **given)
    return told.returncode, told.stderr


def alike(first, second):
    """Assert that two runs logged the same losses and ended with the same weights, but for rounding over 24 steps."""
    (mine, weights), (theirs, others) = result(first), result(second)
    for line, other in zip(mine["history"], theirs["history"], strict=True):
        assert other.get("loss") == pytest.approx(line.get("loss"), rel=1e-4)
    assert all(torch.allclose(value, others[name], atol=1e-4) for name, value in weights.items())


@pytest.mark.distributed
@pytest.mark.parametrize(("first", "second"), [((2, 4), (1, 8)), ((1, 8), (2, 4)), ((2, 4), (1, 4, 2))])
def test_a_run_goes_on_with_another_number_of_processes(first, second, tmp_path):
    """As many rows a step: what follows is what one process would have done, but for rounding."""
    assert script(tmp_path / "whole", 1, 8)[0] == 0
    assert script(tmp_path / "out", *first, kill_at=16)[0] != 0
    status, told = script(tmp_path / "out", *second)
    assert status == 0, told
    assert told.count(f"another number of processes, {second[0]} instead of {first[0]}, and as many rows a step") == 1
    assert told.count("going on from step 12") == 1
    alike(tmp_path / "whole", tmp_path / "out")


# what `accelerate launch` puts into the environment, of what `accelerate config` writes
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


@pytest.mark.distributed
def test_shared_weights_are_saved_whole_and_gone_on_from(tmp_path):
    assert script(tmp_path / "whole", 1, 8)[0] == 0
    assert script(tmp_path / "out", 2, 4, kill_at=16, **FSDP2)[0] != 0
    saved = load_file(tmp_path / "out" / "checkpoints" / "checkpoint-12" / "model.safetensors")
    status, told = script(tmp_path / "out", 2, 4, **FSDP2)
    assert status == 0, told
    assert told.count("going on from step 12") == 1
    alike(tmp_path / "whole", tmp_path / "out")
    final = result(tmp_path / "out")[1]
    assert {name: value.shape for name, value in final.items()} == {name: value.shape for name, value in saved.items()}


@pytest.mark.distributed
def test_shared_weights_are_trained_in_mixed_precision(tmp_path):
    options = ("--launch", 2, "--batch-size", 4, "--set", "bf16=true", "--set", "logging_steps=1")
    assert run(tmp_path / "whole", *options, steps=6)[0] == 0
    status, told = run(tmp_path / "shared", *options, "--set", "fsdp=true", steps=6)
    assert status == 0, told
    first, second = (result(tmp_path / name)[0]["history"] for name in ("whole", "shared"))
    assert [line["loss"] for line in second] == pytest.approx([line["loss"] for line in first], rel=1e-2)
    assert {str(value.dtype) for value in result(tmp_path / "shared")[1].values()} == {"torch.float32"}


@pytest.mark.distributed
def test_another_number_of_rows_a_step_is_refused(tmp_path):
    assert script(tmp_path / "out", 2, 4, kill_at=8)[0] != 0
    status, told = script(tmp_path / "out", 1, 4)
    assert status != 0
    assert "rows per step was 8 and is now 4" in told


@pytest.mark.distributed
@pytest.mark.parametrize("victim", ["process", "launcher"])
def test_a_run_that_loses_a_process_ends_and_goes_on(victim, tmp_path):
    out, options = tmp_path / "out", ("--batch-size", 4, "--launch", 2)
    process, workers = start(out, *options, steps=3000)
    assert len(workers) == 2
    os.kill(workers[1] if victim == "process" else process.pid, signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    assert gone([process.pid, *workers])
    if victim == "process":
        assert process.returncode == 1
        assert told.count("error") == 1, told
        assert "process 1 of 2 was ended by SIGKILL" in told
    else:  # its processes were told by the system, and stopped in order
        assert told.count("stopped after step") == 1, told
    assert not (out / "model.safetensors").exists()
    again = subprocess.Popen(command(out, *options, steps=3000), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert again.stderr is not None
    assert any("going on from step" in line for line in again.stderr)
    again.terminate()
    again.communicate(timeout=120)
    assert again.returncode == 0


@pytest.mark.distributed
@pytest.mark.parametrize("options", [(), ("--config", "no_such_field=1")])
def test_an_error_of_all_processes_is_told_once(options, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    from hub_mim.samples import sample_rows

    sample_rows("toy", num_rows=2).to_json(str(rows))
    status, told = run(tmp_path / "out", "--launch", 3, *options, data=rows)
    assert status == 1
    wanted = "the configuration of toy has no field 'no_such_field'" if options else "3 processes cannot share 2 rows"
    assert told.count("error") == told.count(wanted) == 1, told


def test_the_cause_is_told_of_several_failures():
    def failure(code, time=5):
        return SimpleNamespace(exitcode=code, timestamp=time)

    told = {0: failure(-signal.SIGTERM, 1), 1: failure(1, 2), 2: failure(-signal.SIGKILL, 3)}
    assert min(told.items(), key=launching._rank_of_cause)[0] == 2
    del told[2]
    assert min(told.items(), key=launching._rank_of_cause)[0] == 1


GROUP = """
import sys
import torch
from torch import distributed
from hub_mim import cli

distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=0, world_size=1)
try:
    cli.main(sys.argv[2:])
except SystemExit as ended:
    print(ended.code, distributed.is_initialized())
"""


@pytest.mark.parametrize(
    ("arguments", "told"), [(["--version"], "0 False"), (["info", "mae-not"], "2 True")], ids=["done", "failed"]
)
def test_the_group_is_left_before_the_interpreter_ends(tmp_path, arguments, told):
    environment = ENVIRONMENT | {"RANK": "0", "WORLD_SIZE": "1"}
    start = [sys.executable, "-c", GROUP, str(tmp_path / "meet"), *arguments]
    process = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=120)
    assert process.stdout.splitlines()[-1] == told, process.stderr


FORKS = """
import os, sys, time
slept = []
time.sleep = slept.append
from hub_mim.launching import settle_before_forks
settle_before_forks()
settle_before_forks()
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
print(len(slept))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_forks_wait_for_other_threads_where_python_needs_it():
    told = subprocess.run([sys.executable, "-c", FORKS], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert told.stdout.split() == ["1" if sys.version_info < (3, 12) else "0"], told.stderr
