"""`MaskedTrainer`: transformers' Trainer (Accelerate's loop) with what masked modelling needs.

Row seeds from (seed, epoch, row number), so that masks depend neither on workers nor on the number of processes;
evaluation masks fixed per row; named losses in the log; checkpoints that are complete or do not count; a hook after
each step; parameter groups of the model's own. Written against transformers 5.23: the underscored methods that are
overridden here are its own, and tests/test_resume.py and tests/test_training.py hold them to what we need.
"""

import copy
import inspect
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hub_mim import sharded
from hub_mim.bad_steps import SkipBadSteps, StepRows
from hub_mim.bucketing import TokenBatches
from hub_mim.callbacks import Flow, KeepBest, OnStep, ProgressLine, StepHook, plain
from hub_mim.checkpoints import MARKER, mark_complete, numbered
from hub_mim.files import read_json, without_worker, write_file, write_json
from hub_mim.gathering import joint_count
from hub_mim.half_weights import MasterWeights, castable
from hub_mim.launching import settle_before_forks
from hub_mim.loss_sums import LossSums
from hub_mim.masking import EVALUATION, row_seeds
from hub_mim.on_device import OnDevice
from hub_mim.saving import own_names, removed_unless_whole
from hub_mim.shares import divide, is_divided
from hub_mim.streams import PLACE, Numbers, Stream

__all__ = ["EVALUATION", "KeepBest", "MaskedTrainer", "ProgressLine"]

STEPS = -2  # that of the seeds of whole steps
STREAM = "stream.json"  # where the readers of a stream are
WHOLE = "*"  # among the named losses of an evaluation, what they add up to
UNSHARED = "unshared.safetensors"  # what a checkpoint needs and a shared model leaves out: teachers, averaged copies


class MaskedTrainer(Trainer):
    """Train a model whose output has `loss` and `losses`.

    Logged are the mean of `loss` and of each `loss/NAME` over the steps since the last line (a loss that only some steps
    have: over those steps); of `eval_loss` and each `eval_loss/NAME` the mean over held-out rows of their batch's loss
    (of each process's batches).

    Args:
        model: takes the batch's tensors by name; gets `row_seed` if its forward has that argument, and in training `step_seed`,
            one number for the step that is the same on all processes, if it has that one. Its
            `parameter_groups()`, if any, are those of the optimiser: dicts with `params` and what differs (`lr`, `weight_decay`).
            What it names in `_keys_to_ignore_on_save` (a teacher) is in checkpoints all the same. On several processes a
            model with `joint_loss` or `loss_spans_rows` returns its share of the joined batch's loss (`losses.joint_mean`);
            of any other the loss is taken for a mean over its rows. Processes with `splits_rows` may all train on one row.
        args: as for Trainer; `save_total_limit` counts complete checkpoints, `logging_nan_inf_filter` is always off, and
            `hub_token` is refused.
        on_step: called with (model without wrappers, step, total steps) after each optimiser step: teachers, schedules.
        draws: see `Method.draws`.
        decay_all: weight decay on every parameter, norms and biases too, as several authors do.
        skip_bad_steps: leave the weights as they are in a step whose gradient is no number, instead of ending the training.
        half_weights: keep the weights of linear layers in bfloat16, see `half_weights`; needs `bf16`.
        on_device: finishes each batch once it is on the device, see `on_device.OnDevice`.
        lengths, tokens: of the training rows, and of a batch, see `bucketing.TokenBatches`; default batches of so many rows.
        kwargs: as for Trainer. A collator that keeps `row_index` (see `data.Collator`) makes masks repeatable.
    """

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *,
        on_step: OnStep | None = None,
        decay_all: bool = False,
        draws: Any = None,
        lengths: list[int] | None = None,
        tokens: int | None = None,
        skip_bad_steps: bool = False,
        half_weights: bool = False,
        on_device: OnDevice | None = None,
        **kwargs: Any,
    ):
        self.decay_all, self.half_weights = decay_all, half_weights
        self.masters: MasterWeights | None = None
        self.draws, self.on_device = draws, on_device
        self.named = LossSums(clean=skip_bad_steps)
        args = copy.copy(args) if args is not None else TrainingArguments("tmp_trainer")
        self.keep = args.save_total_limit
        args.save_total_limit = None  # Trainer deletes old checkpoints before the new one counts; we do it after
        if args.hub_token:
            raise ValueError(
                "hub_token would be pickled into training_args.bin, which Trainer pushes; set HF_TOKEN instead"
            )
        args.logging_nan_inf_filter = False  # it hides a loss that is no number, and waits for the device at each step
        self.batches: TokenBatches | Numbers | None = None
        self.stream = kwargs.get("train_dataset") if isinstance(kwargs.get("train_dataset"), Stream) else None
        if self.stream is not None:
            self.batches = Numbers(args.max_steps * args.gradient_accumulation_steps)
            if not args.dataloader_in_order:
                raise ValueError("a stream is resumed exactly only in order; leave dataloader_in_order as it is")
        if lengths is not None and tokens is not None:
            place = {"rank": args.process_index, "processes": args.world_size}
            self.batches = TokenBatches(lengths, tokens, seed=args.data_seed or args.seed, **place)
        super().__init__(model=model, args=args, **kwargs)
        if args.world_size > 1 and args.dataloader_num_workers:
            settle_before_forks()
        if half_weights and (not args.bf16 or self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "half weights (half_weights, --half-weights) need bf16=true, and neither FSDP nor DeepSpeed"
            )
        self.model_accepts_loss_kwargs = False  # our losses are means over the batch
        if args.label_names is None:
            self.label_names, self.can_return_loss = [], True  # the loss needs no labels
        parameters = inspect.signature(plain(self.model).forward).parameters
        self.takes_seed, self.takes_step = "row_seed" in parameters, "step_seed" in parameters
        self.joint = any(getattr(plain(self.model), name, False) for name in ("joint_loss", "loss_spans_rows"))
        self.divided = False  # whether the last round of held-out rows is
        self.window = 0  # the step after which the sums began
        self.finite = torch.zeros((), dtype=torch.int64, device=args.device)
        self.running = torch.zeros((), device=args.device)
        self.rows_seen, self.waited, self.since = StepRows(), 0.0, time.perf_counter()
        self.skip = SkipBadSteps() if skip_bad_steps else None
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)  # they print to stdout, which belongs to results
        self.add_callback(Flow())
        if self.skip is not None:
            self.add_callback(self.skip)
        if on_step is not None:
            self.add_callback(StepHook(on_step))

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator; see `sharded.prepare` for FSDP."""
        super().create_accelerator_and_postprocess()
        sharded.prepare(self)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        with sharded.layers_apart(self):
            return super()._prepare_for_training(*args, **kwargs)

    # --- losses ---

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Run the model on a batch and add its named losses to the running sums."""
        index = inputs.get("row_index")
        batch = {name: value for name, value in inputs.items() if name not in ("row_index", PLACE)}
        batch = self._drawn(model, batch, index)
        if self.takes_step and model.training:
            step = torch.tensor([self.state.global_step])
            batch["step_seed"] = int(row_seeds(self.args.seed, STEPS, step))
        if model.training:
            self.rows_seen.add(self.state.global_step + 1, index, batch.get("row_seed"))
        with sharded.autocast(self):
            outputs = model(**batch)
        share, losses = 1.0, outputs.get("losses") or {}
        if model.training:
            share = self._share(index)
            self.named.add(losses, share)
        else:
            self.named.add({**losses, WHOLE: outputs["loss"]}, self._real_rows(index))
        loss = outputs["loss"] if share == 1 else outputs["loss"] * share
        return (loss, outputs) if return_outputs else loss

    def _drawn(self, model: nn.Module, batch: dict[str, Any], index: Tensor | None) -> dict[str, Any]:
        """Return the batch with its pictures finished, and with what decides each row's mask."""
        seeds = batch.get("row_seed")
        if seeds is None and index is not None:
            epoch = math.floor(self.state.epoch or 0) if model.training else EVALUATION
            seeds = row_seeds(self.args.seed, epoch, index)
        if self.on_device is not None:
            batch = self.on_device(batch, seeds if model.training else None)
        if seeds is None or "row_seed" in batch:
            return batch
        if self.takes_seed:
            return batch | {"row_seed": seeds}
        return batch if self.draws is None else batch | self.draws(plain(model), batch, seeds)

    def _share(self, index: Tensor | None) -> float:
        """Return by what the loss of this process's rows is multiplied, so that all processes' mean is that of all rows."""
        if self.joint or index is None or self.args.world_size == 1:
            return 1
        return len(index) / float(joint_count(len(index), self.args.device))

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Take a step, and count on the device how many losses came before the first that is no number."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.stream is not None:
            self.stream.note(inputs[PLACE])
        if self.skip is not None:
            loss = loss.nan_to_num(0.0, 0.0, 0.0)
        self.running += loss
        self.finite += self.running.isfinite()
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Take the next batches, and note how long they were waited for."""
        started = time.perf_counter()
        with _worker_faults():
            found = super().get_batch_samples(*args, **kwargs)
        self.waited += time.perf_counter() - started
        return found

    def _real_rows(self, index: Tensor | None) -> int:
        """Return how many rows of an evaluation batch are no repetitions, as they are where there are fewer than processes."""
        rows = 1 if index is None else len(index)
        state, rank = self.accelerator.gradient_state, self.args.process_index
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return rows
        if self.divided:
            return 0 if state.remainder <= rank else rows
        return min(rows, max(0, state.remainder - rows * rank))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the named losses to a training line, and the share of the time that was spent waiting for rows (`data_wait`).

        Raises:
            FloatingPointError: a loss is no number; the message names the step it came up in, and a file with its rows.
        """
        if "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise FloatingPointError(
                    f"the loss is {logs['loss']} at step {self._bad_step()}; lower the learning rate, or look for "
                    "infinite values in the data"
                )
            logs = {**logs, **self.named.take("loss", self.accelerator), "data_wait": self._waited_share()}
            if self.skip is not None and self.skip.skipped:
                logs["skipped_steps"] = self.skip.skipped
            self._begin_window()
        if not math.isfinite(logs.get("eval_loss", 0.0)):
            raise FloatingPointError(
                f"the held-out loss is {logs['eval_loss']} after step {self.state.global_step}; lower the learning rate, "
                "or look for infinite values in the held-out rows"
            )
        super().log(logs, start_time)

    def _waited_share(self) -> float:
        return round(min(1.0, self.waited / max(1e-9, time.perf_counter() - self.since)), 4)

    def _begin_window(self) -> None:
        self.window = self.state.global_step
        self.waited, self.since = 0.0, time.perf_counter()
        self.rows_seen.clear()
        self.finite.zero_()
        self.running.zero_()

    def _bad_step(self) -> str:
        """Return the number of the first bad step, and where its rows are told."""
        step = self._first_bad_step()
        path = self.rows_seen.write(step, Path(str(self.args.output_dir)), self.args.process_index)
        return f"{step} (its rows are in {path})" if path else str(step)

    def _first_bad_step(self) -> int:
        finite = self.finite if self.args.world_size == 1 else self.accelerator.gather(self.finite).min()
        return self.window + int(finite) // self.args.gradient_accumulation_steps + 1

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate with one fixed mask per row; the named losses become metrics as well."""
        named, self.named = self.named, LossSums(clean=self.named.clean)
        prefix = kwargs.get("metric_key_prefix", "eval")
        self.divided = is_divided(args[0] if args else kwargs["dataloader"])
        with _worker_faults():
            output = super().evaluation_loop(*args, **kwargs)
        assert output.metrics is not None
        taken, whole = self.named.take(f"{prefix}_loss", self.accelerator), f"{prefix}_loss/{WHOLE}"
        if self.args.world_size > 1 and whole in taken and math.isfinite(output.metrics.get(f"{prefix}_loss", 0.0)):
            output.metrics[f"{prefix}_loss"] = taken[whole]  # Trainer's own takes all batches for equally long
        taken.pop(whole, None)
        output.metrics.update(taken)
        self.named = named
        return output

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: Trainer's estimate is one for language models and counts parameters at every step."""
        return 0

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """Compute the norm of unclipped gradients only in steps that log it."""
        every = self.args.logging_steps
        if grad_norm is None and (every < 1 or (self.state.global_step + 1) % every):
            return None
        if grad_norm is None and self.masters is not None:
            return self.masters.norm()
        return super()._get_grad_norm(model, grad_norm)

    # --- optimiser ---

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """Return the parameters that get weight decay: no norms and biases, unless `decay_all`."""
        if self.decay_all:
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def create_optimizer(self, model: Any = None) -> Any:
        """Make the optimiser, from the model's own `parameter_groups()` where it has them.

        Raises:
            ValueError: the groups leave a trainable parameter out.
        """
        own = plain(self.model if model is None else model)
        if self.optimizer is None and hasattr(own, "parameter_groups"):
            kind, options = self.get_optimizer_cls_and_kwargs(self.args, own)
            self.optimizer = kind(
                [{"weight_decay": self.args.weight_decay, **group} for group in _groups(own)], **options
            )
        made = super().create_optimizer(model)
        if self.half_weights:
            self.optimizer = made = self.masters = MasterWeights(made, castable(own))
        return made

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make the schedule; DeepSpeed's optimiser does not tell its rate, so the least rate is given as a share of it."""
        given = self.args.lr_scheduler_kwargs
        if self.is_deepspeed_enabled and isinstance(given, dict) and given.get("min_lr") is not None:
            rest = {name: value for name, value in given.items() if name != "min_lr"}
            self.args.lr_scheduler_kwargs = rest | {"min_lr_rate": given["min_lr"] / self.args.learning_rate}
        return super().create_scheduler(num_training_steps, optimizer)

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        return super()._clip_grad_norm(model) if self.masters is None else self.masters.clip(self.args.max_grad_norm)

    def _load_best_model(self) -> None:
        self._restore_weights()
        super()._load_best_model()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; afterwards all weights are in float32."""
        told = super().train(*args, **kwargs)
        self._restore_weights()
        return told

    def _restore_weights(self) -> None:
        if self.masters is not None:
            self.masters.restore()
            self.masters = None

    def get_train_dataloader(self) -> Any:
        """Return the loader of training batches; the rows of an epoch's last round are divided among the processes.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        rows, processes = self.train_dataset, self.args.world_size
        if processes > 1 and hasattr(rows, "__len__") and not getattr(plain(self.model), "splits_rows", False):
            count = len(rows)  # type: ignore[arg-type]
            if count < processes:
                raise ValueError(
                    f"{processes} processes cannot share {count} rows; start {count} at most, or give more rows"
                )
        return divide(super().get_train_dataloader())

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return the loader of held-out batches, divided as training's; not where predictions are gathered for measures."""
        loader = super().get_eval_dataloader(eval_dataset)
        return divide(loader) if self.compute_metrics is None else loader

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        return self.batches if self.batches is not None else super()._get_train_sampler(*args, **kwargs)

    # --- checkpoints ---

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.batches is not None:  # Trainer does not reach it where it goes on within an epoch
            self.batches.set_epoch(kwargs["epoch"])
        if not self.control.should_training_stop:  # the checkpoint that we go on from was the last
            super()._run_epoch(*args, **kwargs)

    def _init_training_state(
        self, max_steps: int, each_epoch: int, epochs: int, resume_from_checkpoint: Any, trial: Any
    ) -> tuple[int, int]:
        """Restore the state, with the best checkpoint where it is now: folders may be moved between two attempts."""
        place = super()._init_training_state(max_steps, each_epoch, epochs, resume_from_checkpoint, trial)
        self._begin_window()
        if self.state.best_global_step:
            best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        if self.stream is not None and resume_from_checkpoint is not None:
            self.stream.load(read_json(Path(resume_from_checkpoint) / STREAM))
        return place

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)  # of an earlier attempt
        self.accelerator.wait_for_everyone()
        with removed_unless_whole(folder):
            super()._save_checkpoint(model, trial)
            self._save_places(folder)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            with removed_unless_whole(folder):
                mark_complete(folder)
            self._forget_old(folder.parent)

    def _save_places(self, folder: Path) -> None:
        if self.stream is None:
            return
        places = list(self.stream.places.items())
        if self.args.world_size > 1:
            from accelerate.utils import gather_object

            places = gather_object(places)
        if self.args.should_save:
            write_json(folder / STREAM, self.stream.state(dict(places)), overwrite=True)

    def _forget_old(self, folder: Path) -> None:
        """Delete all but the newest `save_total_limit` complete checkpoints and the best one."""
        complete = [place for place in numbered(folder) if (place / MARKER).is_file()]
        for old in complete[self.keep :] if self.keep else ():
            if old.name != f"checkpoint-{self.state.best_global_step}":
                shutil.rmtree(old)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        own = plain(self.model)
        names = getattr(own, "_keys_to_ignore_on_save", None) or ()
        state_dict = sharded.as_shared(self, state_dict) if self.masters is None else self.masters.whole(own)
        weights = own.state_dict() if state_dict is None else state_dict
        unshared = {name: tensor for name, tensor in weights.items() if name in names}  # saving takes them out of it
        with own_names(own):
            super()._save(output_dir, state_dict)
        if unshared and self.args.should_save:
            save_file(
                {name: t.clone() for name, t in unshared.items()},
                Path(output_dir or str(self.args.output_dir)) / UNSHARED,
            )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the model's plugin instead of Trainer's general one; text below its marker is kept."""
        from hub_mim.cards import keep_user_text, render_card

        place = Path(str(self.args.output_dir)) / "README.md"
        name = self.hub_model_id or place.parent.name
        try:
            text = render_card(name.rpartition("/")[2], plain(self.model).config, place=self.hub_model_id)
        except ValueError:  # no plugin's model
            super().create_model_card(*args, **kwargs)
            return
        before = place.read_text(encoding="utf-8") if place.is_file() else ""
        if self.is_world_process_zero():
            write_file(place, keep_user_text(text, before), overwrite=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        unshared = Path(resume_from_checkpoint) / UNSHARED
        if unshared.is_file() and not self.is_fsdp_enabled:  # what FSDP goes on from is whole
            plain(self.model if model is None else model).load_state_dict(load_file(unshared), strict=False)


@contextmanager
def _worker_faults() -> Iterator[None]:
    """Raise an error of a data worker as one sentence."""
    try:
        yield
    except Exception as error:
        plainer = without_worker(error)
        if plainer is error:
            raise
        raise plainer from error


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return the model's own groups without frozen parameters, after checking that none is left out."""
    groups = [
        {**group, "params": [weight for weight in group["params"] if weight.requires_grad]}
        for group in model.parameter_groups()  # type: ignore[operator]
    ]
    grouped = {id(weight) for group in groups for weight in group["params"]}
    for name, weight in model.named_parameters():
        if weight.requires_grad and id(weight) not in grouped:
            raise ValueError(
                f"parameter_groups() of {type(model).__name__} leaves out {name}, which would never be trained"
            )
    return groups
