"""A run killed with SIGKILL goes on to the same losses and weights, bit for bit: in one process, and in two."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEPS = 24
SCRIPT = """
import os, signal, sys
from transformers import TrainerCallback
from hub_mim import trainer as module, training
out, kill_at = sys.argv[1], int(sys.argv[2])

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == kill_at and state.is_world_process_zero:
            os.kill(os.getpid(), signal.SIGKILL)

usual = module.MaskedTrainer.__init__
def patched(self, *args, **kwargs):
    usual(self, *args, **kwargs)
    self.add_callback(Kill())
module.MaskedTrainer.__init__ = patched
training.pretrain("toy", "sample:toy", out, steps=24, batch_size=4, validation=0.1, config={"dropout": 0.1},
                  arguments={"save_steps": 6, "eval_steps": 6, "logging_steps": 1, "dataloader_num_workers": int(sys.argv[3])})
"""


def launch(out, kill_at=-1, processes=1, workers=0, script=SCRIPT):
    start = (
        [sys.executable]
        if processes == 1
        else [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node",
            str(processes),
            "--master_port",
            "29611",
        ]
    )
    file = Path(out).parent / "train.py"
    file.write_text(script)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*start, str(file), str(out), str(kill_at), str(workers)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def figures(out):
    run = json.loads((out / "run.json").read_text())
    lines = [(line["step"], line["loss"].hex()) for line in run["history"] if "loss" in line]
    return lines, hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(), run["losses"]


def check(tmp_path, **options):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    told = launch(whole, **options)
    assert told.returncode == 0, told.stderr[-2000:]
    told = launch(broken, kill_at=16, **options)
    assert told.returncode != 0
    assert json.loads((broken / "run.json").read_text())["status"] == "running"
    assert not list(broken.glob("*.safetensors"))
    told = launch(broken, **options)
    assert told.returncode == 0, told.stderr[-2000:]
    assert figures(broken) == figures(whole)
    assert len(figures(broken)[0]) == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_one_process(tmp_path, workers):
    check(tmp_path, workers=workers)


@pytest.mark.distributed
def test_two_processes(tmp_path):
    check(tmp_path, processes=2)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert launch(whole).returncode == 0
    assert launch(broken, kill_at=16).returncode == -signal.SIGKILL
    newest = broken / "checkpoints" / "checkpoint-12"
    (newest / "optimizer.pt").unlink()
    told = launch(broken)
    assert told.returncode == 0, told.stderr[-2000:]
    assert "passing over checkpoint-12: optimizer.pt is missing" in told.stderr
    assert figures(broken) == figures(whole)


@pytest.mark.distributed
def test_masks_do_not_depend_on_the_number_of_processes(tmp_path):
    """Two processes with half the batch each take the steps of one with the whole batch."""
    script = SCRIPT.replace('config={"dropout": 0.1}', 'config={"dropout": 0.0}')
    one = script.replace("batch_size=4", "batch_size=8")
    assert launch(tmp_path / "one", script=one).returncode == 0
    told = launch(tmp_path / "two", processes=2, script=script)
    assert told.returncode == 0, told.stderr[-2000:]
    first, second = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("one", "two"))
    for name in ("eval_loss", "eval_loss/hidden"):
        assert first["losses"][name] == pytest.approx(second["losses"][name], rel=1e-4)
