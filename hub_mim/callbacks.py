"""What happens between the steps of a training: the progress line, early stopping, a method's own step, the best weights."""

import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

OnStep = Callable[[nn.Module, int, int], None]


class Flow(TrainerCallback):
    """Log whenever a checkpoint is written, and take no step after the last.

    The window over which losses are averaged then begins at every checkpoint, so that a resumed run logs the figures of
    one that was never interrupted. Trainer itself takes one step more when it resumes from the last checkpoint.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if state.global_step >= state.max_steps:
            control.should_training_stop = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if control.should_save:
            control.should_log = True

    on_epoch_end = on_step_end


class StepHook(TrainerCallback):
    """Call a method's own function after each optimiser step: (model without wrappers, step, total steps)."""

    def __init__(self, function: OnStep):
        self.function = function

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        self.function(plain(model), state.global_step, state.max_steps)


class EarlyStopping(TrainerCallback):
    """Stop after a number of evaluations without a lower held-out loss.

    Everything is read from the log, which checkpoints carry; transformers' own callback forgets its count on resuming.

    Args:
        patience: number of evaluations.
        metric: name of the figure to minimise.
    """

    def __init__(self, patience: int, metric: str = "eval_loss"):
        self.patience, self.metric = patience, metric

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        values = [line[self.metric] for line in state.log_history if self.metric in line]
        if values and len(values) - 1 - values.index(min(values)) >= self.patience:
            control.should_training_stop = True

    on_train_begin = on_evaluate


class ProgressLine(TrainerCallback):
    """One line of progress on stderr: rewritten in place on a terminal, one line a log elsewhere."""

    def __init__(self) -> None:
        self.started, self.first_step, self.ended = time.monotonic(), 0, False
        self.latest: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        self.started, self.first_step, self.ended = time.monotonic(), state.global_step, False
        if state.global_step and state.is_world_process_zero:
            print(f"going on from step {state.global_step}", file=sys.stderr, flush=True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        news = {name: value for name, value in (logs or {}).items() if name in ("loss", "eval_loss")}
        self.latest |= news
        soon = control.should_evaluate and "loss" in news  # the line of the evaluation will show both
        if not state.is_world_process_zero or not news or soon or self.ended:
            return
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.latest.items())
        seconds = time.monotonic() - self.started
        left = seconds / max(1, state.global_step - self.first_step) * (state.max_steps - state.global_step)
        line = f"step {state.global_step}/{state.max_steps}  {shown}  {seconds:.0f} s, about {left:.0f} s left"
        if sys.stderr.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(line[:width].ljust(width), end="\r", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        self.ended = True
        if sys.stderr.isatty() and state.is_world_process_zero:
            print(file=sys.stderr)


class KeepBest(TrainerCallback):
    """Keep the weights with the lowest held-out loss in memory, and put them back at the end of training.

    For short trainings that write no checkpoints; others use Trainer's `load_best_model_at_end`.

    Args:
        patience: stop after this many evaluations without gain; None never stops.
        metric: name of the figure to minimise.
    """

    def __init__(self, patience: int | None = None, metric: str = "eval_loss"):
        self.patience, self.metric = patience, metric
        self.best, self.waited, self.step = math.inf, 0, 0
        self.weights: dict[str, Tensor] = {}

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, **kwargs: Any
    ) -> None:
        """See TrainerCallback."""
        value = (metrics or {}).get(self.metric, math.inf)
        if value < self.best:
            self.best, self.waited, self.step = value, 0, state.global_step
            self.weights = {name: tensor.detach().clone() for name, tensor in plain(model).state_dict().items()}
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if self.weights:
            plain(model).load_state_dict(self.weights)


def plain(model: Any) -> Any:
    """Return the model under the wrappers of DDP, compile and peft."""
    from accelerate.utils import extract_model_from_parallel

    model = extract_model_from_parallel(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def reproducible(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return the lines of a log without what no repetition gives again: run times and non-figures."""
    kept = ("step", "epoch", "loss", "eval_loss", "grad_norm", "learning_rate")
    lines = [
        {name: value for name, value in line.items() if name.split("/")[0] in kept and _is_figure(value)}
        for line in history
    ]
    return [line for line in lines if "loss" in line or "eval_loss" in line]


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
