"""Trainers of the toy, and trainings that are interrupted and go on."""

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from hub_mim.checkpoints import last_complete
from hub_mim.data import Collator, Rows, load_rows
from hub_mim.trainer import MaskedTrainer
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.example import sample
from hub_mim_toy.modeling_toy import ToyMimForPreTraining
from hub_mim_toy.processing_toy import ToyMimProcessor

OWN = ("on_step", "callbacks", "eval_dataset", "decay_all", "half_weights")


def arguments(folder, **fields):
    defaults = {"max_steps": 6, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no"}
    defaults |= {"use_cpu": True, "remove_unused_columns": False, "disable_tqdm": True, "logging_steps": 2}
    return TrainingArguments(str(folder), **{**defaults, **fields})


def as_rows(records):
    return Rows(load_rows(records))


def trainer(folder, model=None, rows=None, **fields):
    if model is None or isinstance(model, type):
        torch.manual_seed(0)
        model = (model or ToyMimForPreTraining)(ToyMimConfig(dropout=fields.pop("dropout", 0.0)))
    own = {name: fields.pop(name) for name in OWN if name in fields}
    return MaskedTrainer(
        model=model,
        args=arguments(folder, **fields),
        train_dataset=as_rows(rows or sample(16)),
        data_collator=Collator(ToyMimProcessor()),
        **own,
    )


def losses(made, name="loss"):
    return [(line["step"], line[name].hex()) for line in made.state.log_history if name in line]


class Interrupt(TrainerCallback):
    """Ends a training after a step, as a power cut would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


def saving(folder, model=None, rows=None, **fields):
    defaults = {"max_steps": 10, "save_strategy": "steps", "save_steps": 4, "dropout": 0.1}
    return trainer(folder, model, rows, **{**defaults, **fields})


def interrupted_and_resumed(folder, step, **fields):
    """Train until a step, then with a new trainer from the last checkpoint; returns the second trainer."""
    first = saving(folder, **{**fields, "callbacks": [*fields.get("callbacks", []), Interrupt(step)]})
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = saving(folder, **fields)
    second.train(resume_from_checkpoint=str(last_complete(folder)))
    return second


def same_weights(one, other):
    first, second = one.model.state_dict(), other.model.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)
