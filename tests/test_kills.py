"""Killed twice with SIGKILL, at steps drawn by a seed, a run ends with the losses and weights of one that was left alone.

Each attempt is a forked copy of this process, which has all modules already; tests/test_resume.py kills command lines.
"""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import traceback

import pytest
from datasets import Dataset

from hub_mim import trainer as trainer_module
from hub_mim.checkpoints import last_complete
from hub_mim.training import pretrain

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
STEPS, EVERY, TOGETHER = 14, 3, 2


def attempt(out, fields, kill_at=None):
    """Train in a child process; in a step that is not yet complete, kill it. Returns the signal that ended it, else 0."""
    child = os.fork()
    if not child:
        status = 1
        try:
            if kill_at is not None:
                _kill_in(kill_at)
            pretrain(out=out, **fields)
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    _, told = os.waitpid(child, 0)
    assert os.WIFSIGNALED(told) or os.waitstatus_to_exitcode(told) == 0
    return os.WTERMSIG(told) if os.WIFSIGNALED(told) else 0


def _kill_in(step):
    usual = trainer_module.MaskedTrainer.training_step

    def training_step(self, *args, **kwargs):
        loss = usual(self, *args, **kwargs)
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    trainer_module.MaskedTrainer.training_step = training_step


def figures(out):
    run = json.loads((out / "run.json").read_text())
    lines = [{name: float(value).hex() for name, value in line.items()} for line in run["history"]]
    return lines, hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(), run["losses"]


def check(tmp_path, capfd, fields, streaming, workers):
    arguments = {"save_steps": EVERY, "eval_steps": EVERY, "logging_steps": 2, "gradient_accumulation_steps": TOGETHER}
    arguments |= {"bf16": True, "use_cpu": True, "dataloader_num_workers": workers}
    fields = {**fields, "steps": STEPS, "batch_size": 2, "streaming": streaming, "arguments": arguments}
    source = random.Random(f"{streaming} {workers}")
    first, second = source.randrange(EVERY, STEPS), source.randrange(EVERY, STEPS)
    assert attempt(tmp_path / "whole", fields) == 0
    capfd.readouterr()
    for step in sorted((first, second)):
        assert attempt(tmp_path / "broken", fields, step) == signal.SIGKILL
    assert attempt(tmp_path / "broken", fields) == 0
    assert f"going on from step {max(first, second) // EVERY * EVERY}" in capfd.readouterr().err
    assert figures(tmp_path / "broken") == figures(tmp_path / "whole")
    return figures(tmp_path / "whole")


def folder_of(rows, folder, shards=3):
    """Write rows as numbered parquet files."""
    folder.mkdir()
    whole = Dataset.from_list(rows)
    for number in range(shards):
        part = whole.shard(shards, number)
        part.to_parquet(folder / f"train-{number:05}-of-{shards:05}.parquet")
    return folder


def toy(tmp_path):
    from hub_mim_toy.example import sample

    return {"method": "toy", "data": folder_of(sample(40), tmp_path / "rows"), "config": {"dropout": 0.1}}


def with_teacher(tmp_path):
    """SigLIP 2 with all its losses, the self-distillation's teacher being an average of past weights."""
    pytest.importorskip("hub_mim_siglip2")
    from hub_mim.testing.subject import own_fields
    from hub_mim_siglip2.example import example, sample

    made = example()
    fields = own_fields(made.config)
    return {
        "method": "siglip2",
        "data": folder_of(sample(14, side=40), tmp_path / "rows"),
        "config": fields,
        "processor": made.processor,
    }


def test_a_stream_read_by_two_workers(tmp_path, capfd):
    check(tmp_path, capfd, toy(tmp_path), streaming=True, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("make", [toy, with_teacher])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("streaming", [False, True])
def test_data_of_both_kinds(tmp_path, capfd, make, streaming, workers):
    check(tmp_path, capfd, make(tmp_path), streaming, workers)


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run on a stream that was killed after its third checkpoint, its settings, and what it would have come to."""
    folder = tmp_path_factory.mktemp("interrupted")
    fields = toy(folder) | {"steps": 10, "streaming": True, "validation": 0.0, "batch_size": 2}
    fields["arguments"] = {"save_steps": 3, "logging_steps": 1, "use_cpu": True}
    assert attempt(folder / "whole", fields) == 0
    assert attempt(folder / "broken", fields, 9) == signal.SIGKILL
    return folder, fields


def damaged_copy(interrupted, tmp_path, name, how):
    shutil.copytree(interrupted[0] / "broken", tmp_path / "out")
    file = tmp_path / "out" / "checkpoints" / "checkpoint-9" / name
    file.write_bytes(file.read_bytes()[:-7]) if how == "cut off" else file.unlink()
    return tmp_path / "out"


# what Trainer needs to go on, most of which it does not miss
FILES = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "stream.json"]


@pytest.mark.parametrize("how", ["missing", "cut off"])
@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_without_any_of_its_files_does_not_count(interrupted, tmp_path, capsys, name, how):
    folder = damaged_copy(interrupted, tmp_path, name, how) / "checkpoints"
    assert last_complete(folder).name == "checkpoint-6"
    assert f"passing over checkpoint-9: {name} " in capsys.readouterr().err


def test_the_run_goes_on_from_the_one_before_and_says_so(interrupted, tmp_path, capfd):
    out = damaged_copy(interrupted, tmp_path, "optimizer.pt", "missing")
    assert attempt(out, interrupted[1]) == 0
    told = capfd.readouterr().err.splitlines()
    assert told.count("passing over checkpoint-9: optimizer.pt is missing") == 1
    assert told.count("going on from step 6") == 1
    assert figures(out) == figures(interrupted[0] / "whole")


# --- a disk that is full -------------------------------------------------------------------------------------------


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for_torch(*args, **kwargs):
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nframe #0: c10::...")


WRITERS = {
    "the weights": ("transformers.trainer.Trainer._save", full_disk),
    "the optimiser": ("torch.save", full_for_torch),
    "the state": ("transformers.trainer_callback.TrainerState.save_to_json", full_disk),
    "where the stream is": ("hub_mim.trainer.write_json", full_disk),
    "the marker": ("hub_mim.trainer.mark_complete", full_disk),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_full_disk_leaves_the_checkpoint_before(interrupted, tmp_path, monkeypatch, what):
    shutil.copytree(interrupted[0] / "broken", tmp_path / "out")
    folder = tmp_path / "out" / "checkpoints"
    shutil.rmtree(folder / "checkpoint-9")
    place, fault = WRITERS[what]
    monkeypatch.setattr(place, fault)
    with pytest.raises(
        OSError, match=r"checkpoint-9 could not be written \(.* free.*\): .*goes on from checkpoint-6$"
    ) as told:
        pretrain(out=tmp_path / "out", **interrupted[1])
    assert "\n" not in str(told.value)
    assert not (folder / "checkpoint-9").exists()
    assert last_complete(folder).name == "checkpoint-6"
