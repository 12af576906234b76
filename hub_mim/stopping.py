"""A training that is asked to stop (SIGTERM, as schedulers send before they take a machine away) writes a checkpoint first."""

import signal
import threading
from typing import Any

import torch
from transformers import TrainerCallback

from hub_mim.console import Stopped
from hub_mim.gathering import processes

EVERY = 5  # steps between two looks of several processes at each other; one process looks after each step


class StopOnSignal(TrainerCallback):
    """On SIGTERM, end the training after the step that is under way, with a checkpoint.

    Several processes stop at one step: whichever was told first, all look every few steps.

    Attributes:
        step: the last one, where training was stopped; else None.
    """

    def __init__(self) -> None:
        self.asked = False
        self.step: int | None = None
        self.before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self.before = signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, *args: Any) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if self._all_agree(state.global_step, args.device) and state.global_step < state.max_steps:
            control.should_save = control.should_log = control.should_training_stop = True
            self.step = state.global_step

    def _all_agree(self, step: int, device: Any) -> bool:
        if processes() == 1:
            return self.asked
        if step % EVERY:
            return False
        told = torch.tensor([int(self.asked)], device=device)
        torch.distributed.all_reduce(told)
        return bool(told)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


def train(trainer: Any, resume: Any = None) -> None:
    """Train, from a checkpoint where one is given.

    Raises:
        Stopped: training was asked to stop before its last step.
    """
    stop = StopOnSignal()
    trainer.add_callback(stop)
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    if stop.step is not None:
        raise Stopped(stop.step)
