"""`MaskedTrainer`: transformers' Trainer (Accelerate's loop) with what masked modelling needs.

Row seeds from (seed, epoch, row number), so that masks depend neither on workers nor on the number of processes;
evaluation masks fixed per row; named losses in the log; checkpoints that are complete or do not count; a hook after
each step; parameter groups of the model's own.
"""

import inspect
import math
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hub_mim.checkpoints import fault, mark_complete, numbered
from hub_mim.masking import row_seeds

EVALUATION = -1  # the epoch number of evaluation masks
OnStep = Callable[[nn.Module, int, int], None]


class MaskedTrainer(Trainer):
    """Train a model whose output has `loss` and `losses`.

    Args:
        model: takes the batch's tensors by name; gets `row_seed` if its forward has that argument.
        args: as for Trainer; `save_total_limit` counts complete checkpoints.
        on_step: called with (unwrapped model, step, total steps) after each optimiser step: teachers, schedules.
        decay_all: weight decay on every parameter, norms and biases too, as several authors do.
        kwargs: as for Trainer. A collator that keeps `row_index` (see `data.Collator`) makes masks repeatable.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *,
        on_step: OnStep | None = None,
        decay_all: bool = False,
        **kwargs: Any,
    ):
        self.decay_all = decay_all
        self.named: dict[str, Tensor] = {}
        self.weight = 0.0
        super().__init__(model=model, args=args, **kwargs)
        self.keep = self.args.save_total_limit
        self.args.save_total_limit = None  # Trainer deletes old checkpoints before the new one counts; we do it after
        self.model_accepts_loss_kwargs = False  # our losses are means over the batch
        self.takes_seed = "row_seed" in inspect.signature(_plain(model).forward).parameters
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)  # they print to stdout, which belongs to results
        if on_step is not None:
            self.add_callback(_OnStep(on_step))

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Run the model on a batch and add its named losses to the running sums."""
        index = inputs.get("row_index")
        batch = {name: value for name, value in inputs.items() if name != "row_index"}
        if index is not None and self.takes_seed and "row_seed" not in batch:
            epoch = math.floor(self.state.epoch or 0) if model.training else EVALUATION
            batch["row_seed"] = row_seeds(self.args.seed, epoch, index)
        outputs = model(**batch)
        rows = len(index) if index is not None else 1
        self._add(outputs.get("losses") or {}, rows)
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def _add(self, losses: dict[str, Tensor], rows: int) -> None:
        self.weight += rows
        for name, value in losses.items():
            value = value.detach() * rows
            self.named[name] = self.named[name] + value if name in self.named else value

    def _take_named(self, prefix: str) -> dict[str, float]:
        """Return the mean of each named loss since the last call, over all processes; the only look at the device."""
        named, weight = self.named, self.weight
        self.named, self.weight = {}, 0.0
        if not named:
            return {}
        sums = torch.stack([*named.values(), torch.full_like(next(iter(named.values())), weight)])
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(sums, "sum")
        *values, total = sums.tolist()
        return {f"{prefix}/{name}": value / total for name, value in zip(named, values, strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the named losses to a training line; stop when the loss is no number."""
        if "loss" in logs:
            logs = {**logs, **self._take_named("loss")}
            if not math.isfinite(logs["loss"]):
                raise FloatingPointError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}; lower the learning rate, or look for "
                    "infinite values in the data"
                )
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate with one fixed mask per row; the named losses become metrics as well."""
        named, self.named = self.named, {}
        weight, self.weight = self.weight, 0.0
        prefix = kwargs.get("metric_key_prefix", "eval")
        output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        output.metrics.update(self._take_named(f"{prefix}_loss"))
        self.named, self.weight = named, weight
        return output

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: Trainer's estimate is one for language models and counts parameters at every step."""
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Compute the norm of unclipped gradients only in steps that log it."""
        every = self.args.logging_steps
        if grad_norm is None and (every < 1 or (self.state.global_step + 1) % every):
            return None
        return super()._get_grad_norm(model, grad_norm)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the parameters that get weight decay: no norms and biases, unless `decay_all`."""
        if self.decay_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimiser, from the model's own `parameter_groups()` where it has them."""
        plain = _plain(self.model if model is None else model)
        if self.optimizer is None and hasattr(plain, "parameter_groups"):
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, plain)
            groups = [{"weight_decay": self.args.weight_decay, **group} for group in plain.parameter_groups()]
            self.optimizer = kind(groups, **options)
        return super().create_optimizer(model)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists() and fault(folder) is not None:
            shutil.rmtree(folder)  # half a checkpoint of an earlier attempt
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(folder)
            self._forget_old(folder.parent)

    def _forget_old(self, folder: Path) -> None:
        """Delete all but the newest `save_total_limit` checkpoints and the best one."""
        best = self.state.best_model_checkpoint
        for old in numbered(folder)[self.keep :] if self.keep else ():
            if best is None or old.resolve() != Path(best).resolve():
                shutil.rmtree(old)


class _OnStep(TrainerCallback):
    """Call a method's own function after each optimiser step."""

    def __init__(self, function: OnStep):
        self.function = function

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        self.function(_plain(model), state.global_step, state.max_steps)


class ProgressLine(TrainerCallback):
    """One line of progress on stderr: rewritten in place on a terminal, one line a log elsewhere."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.latest: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if not state.is_world_process_zero or not logs:
            return
        self.latest |= {name: value for name, value in logs.items() if name in ("loss", "eval_loss")}
        shown = "  ".join(f"{name} {value:.4g}" for name, value in self.latest.items())
        seconds = time.monotonic() - self.started
        left = seconds / max(1, state.global_step) * (state.max_steps - state.global_step)
        line = f"step {state.global_step}/{state.max_steps}  {shown}  {seconds:.0f} s, about {left:.0f} s left"
        end = "\r" if sys.stderr.isatty() else "\n"
        print(line.ljust(79), end=end, file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
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
            self.weights = {name: tensor.detach().clone() for name, tensor in _plain(model).state_dict().items()}
            return
        self.waited += 1
        if self.patience is not None and self.waited >= self.patience:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        if self.weights:
            _plain(model).load_state_dict(self.weights)


def _plain(model: Any) -> Any:
    """Return the model under DDP's and compile's wrappers."""
    from accelerate.utils import extract_model_from_parallel

    return extract_model_from_parallel(model)
