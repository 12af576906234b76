"""Trainings that are asked to stop, that meet a loss which is no number, that are started on several processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from hub_mim import launching
from hub_mim.training import pretrain

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
COMMAND = [
    sys.executable,
    "-m",
    "hub_mim",
    "pretrain",
    "toy",
    "--data",
    "sample:toy",
    "--seed",
    "7",
    "--batch-size",
    "4",
]


def stop_after(out, step, *options):
    """Start a run, ask it to stop once a step is saved, and return its status and what it said."""
    command = [*COMMAND, "--out", str(out), *options]
    process = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    marker = out / "checkpoints" / f"checkpoint-{step}" / "complete.json"
    deadline = time.monotonic() + 120
    while not marker.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    return process.returncode, told


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_and_the_run_ends_as_if_it_had_not_come(tmp_path):
    options = ["--steps", "400", "--set", "save_steps=100", "--validation", "0"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    status, told = stop_after(stopped, 100, *options)
    assert (status, "stopped after step" in told) == (0, True), told[-2000:]
    step = int(told.rpartition("stopped after step ")[2].partition(",")[0])
    assert (stopped / "checkpoints" / f"checkpoint-{step}" / "complete.json").is_file()
    assert not (stopped / "model.safetensors").exists()
    for out in (stopped, whole):
        done = subprocess.run([*COMMAND, "--out", str(out), *options], env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    first, second = (load_file(out / "model.safetensors") for out in (whole, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.distributed
def test_processes_that_were_launched_stop_together_and_go_on(tmp_path):
    options = ["--steps", "200", "--set", "save_steps=50", "--validation", "0", "--launch", "2"]
    status, told = stop_after(tmp_path / "out", 50, *options)
    assert status == 0, told[-2000:]
    done = subprocess.run(
        [*COMMAND, "--out", str(tmp_path / "out"), *options], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 2


def test_how_many_processes_is_told_or_counted(monkeypatch):
    assert launching.count_of("3") == 3
    with pytest.raises(ValueError, match="takes a number above 0 or \"auto\", not '0'"):
        launching.count_of("0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="no GPU here to count"):
        launching.count_of("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launching.count_of("auto") == 2
    with pytest.raises(ValueError, match=r"more processes than there are GPUs \(2\)"):
        launching.count_of("4")


def test_an_option_is_left_out_with_its_value():
    arguments = ["pretrain", "x", "--launch", "2", "--steps", "3"]
    assert launching.without(arguments, "--launch") == ["pretrain", "x", "--steps", "3"]
    assert launching.without(["pretrain", "--launch=2", "x"], "--launch") == ["pretrain", "x"]


@pytest.fixture
def spoiled(monkeypatch):
    """Make the toy's third training batch give a loss that is no number."""
    from hub_mim_toy.modeling_toy import ToyMimForPreTraining

    usual, seen = ToyMimForPreTraining.forward, []

    def forward(self, *args, **kwargs):
        out = usual(self, *args, **kwargs)
        if self.training:
            seen.append(1)
            if len(seen) == 3:
                out.loss = out.loss * float("nan")
        return out

    forward.__signature__ = __import__("inspect").signature(usual)
    monkeypatch.setattr(ToyMimForPreTraining, "forward", forward)


def test_the_rows_of_a_bad_step_are_told(tmp_path, spoiled):
    arguments = {"logging_steps": 1, "use_cpu": True}
    with pytest.raises(FloatingPointError, match=r"at step 3 \(its rows are in .*bad-step-3.json\)"):
        pretrain("toy", "sample:toy", tmp_path / "out", steps=5, batch_size=4, validation=0.0, arguments=arguments)
    told = json.loads(next((tmp_path / "out" / "checkpoints").glob("bad-step-3.json")).read_text())
    assert (told["step"], len(told["rows"]), len(told["row_seeds"])) == (3, 4, 4)


def test_bad_steps_are_skipped_where_that_is_asked_for(tmp_path, spoiled, capsys):
    run = pretrain(
        "toy",
        "sample:toy",
        tmp_path / "out",
        steps=5,
        batch_size=4,
        validation=0.0,
        skip_bad_steps=True,
        arguments={"logging_steps": 1, "use_cpu": True},
    )
    assert "step 3 is skipped" in capsys.readouterr().err
    assert run.steps == 5
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(bool(value.isfinite().all()) for value in weights.values())
