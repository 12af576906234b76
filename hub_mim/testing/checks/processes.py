"""Training across processes: killed and resumed, and two processes beside one; each starts processes of its own."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from hub_mim.files import sha256
from hub_mim.testing.subject import Subject, own_fields

SCRIPT = """
import sys
from hub_mim import training
from hub_mim.launching import leave_others
from hub_mim.testing.checks.processes import fields_without_dropout, without_exchange
from hub_mim.files import sha256
from hub_mim.testing.killing import kill_after
from hub_mim.testing.subject import Subject
name, out, kill_at, batch, joined = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])

kill_after(kill_at)
subject = Subject(name)
arguments = {"save_steps": 2, "logging_steps": 1, "use_cpu": True}
rows, config = subject.rows * 4, fields_without_dropout(subject)
if joined:  # rounds of 4, 4 and 3 rows, and plain gradient descent: weights differ by what gradients do
    rows, config = rows[:11], config | without_exchange(subject)
    arguments |= {"optim": "sgd", "learning_rate": 0.005, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
training.pretrain(name, rows, out, steps=6, batch_size=batch, validation=0.0,
                  config=config, processor=subject.example.processor, arguments=arguments)
leave_others()
"""


def launch(
    subject: Subject, out: Path, *, kill_at: int = -1, processes: int = 1, batch: int = 2, joined: bool = False
) -> Any:
    """Train for six steps in processes of their own; returns what subprocess tells."""
    script = out.parent / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    start = [sys.executable]
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    command = [*start, str(script), subject.name, str(out), str(kill_at), str(batch), str(int(joined))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def check_resume(subject: Subject) -> None:
    """A run killed with SIGKILL and started again ends with the same losses and weights, bit for bit."""
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        _finish(launch(subject, whole))
        assert launch(subject, broken, kill_at=5).returncode != 0, "the run that was to be killed at step 5 went on"
        _finish(launch(subject, broken))
        assert _losses(broken) == _losses(whole), "the resumed run logs other losses than one without interruption"
        first, second = (sha256(out / "model.safetensors") for out in (whole, broken))
        assert first == second, "the resumed run ends with other weights than one without interruption"


def check_two_processes(subject: Subject) -> None:
    """Two processes take the steps of one with the double batch, to the same losses and weights; the last round is ragged.

    A loss must be this process's share of the joined batch's: means by `losses.joint_mean` (`joint_loss` of the model), rows that
    are compared gathered (`loss_spans_rows`). Where rows of a batch are exchanged (`swaps_rows`), none are here.
    """
    with tempfile.TemporaryDirectory() as folder:
        one, two = Path(folder) / "one", Path(folder) / "two"
        _finish(launch(subject, one, batch=4, joined=True))
        _finish(launch(subject, two, processes=2, joined=True))
        for mine, theirs in zip(_losses(one), _losses(two), strict=True):
            near = abs(mine - theirs) <= 1e-4 * max(1e-6, abs(mine))
            assert near, f"the loss of a step is {mine:.6g} in one process and {theirs:.6g} in two"
        first, second = (load_file(out / "model.safetensors") for out in (one, two))
        for name, value in first.items():
            far = (value.double() - second[name].double()).abs().max().item()
            scale = max(1.0, value.abs().max().item())
            assert far <= 1e-5 * scale, f"six steps of two processes leave {name} {far:.2g} off those of one"


def without_exchange(subject: Subject) -> dict[str, float]:
    """Return the field that decides how many rows of a batch are exchanged, at none; partners are of the process's own rows."""
    name = getattr(subject.model_class(), "swaps_rows", None)
    return {name: 0.0} if name else {}


def fields_without_dropout(subject: Subject) -> dict[str, Any]:
    """Return the example's fields without dropout, which each process draws for itself."""
    fields = own_fields(subject.example.config)
    return {name: 0.0 if "drop" in name and isinstance(value, float) else value for name, value in fields.items()}


def _finish(told: Any) -> None:
    assert told.returncode == 0, f"training ended with {told.returncode}: {told.stderr.strip().splitlines()[-1:]}"


def _losses(out: Path) -> list[float]:
    history = json.loads((out / "run.json").read_text(encoding="utf-8"))["history"]
    return [line["loss"] for line in history if "loss" in line]
