"""What to do about steps whose loss or gradient is no number: tell their rows, or skip them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from hub_mim.console import say
from hub_mim.files import write_json


class StepRows:
    """Remember which rows the steps since the last log line had, so that a bad one can be looked at.

    A row's number and the seed of its masks are enough to make its batch again.
    """

    def __init__(self) -> None:
        self.steps: list[tuple[int, Tensor, Tensor | None]] = []

    def add(self, step: int, index: Tensor | None, seeds: Tensor | None) -> None:
        """Note a batch; of rows without numbers nothing is kept."""
        if index is not None:
            self.steps.append((step, index, seeds))

    def clear(self) -> None:
        """Forget all."""
        self.steps.clear()

    def write(self, step: int, folder: Path, rank: int) -> Path | None:
        """Write the rows of a step as JSON, `rows` and `row_seeds`; returns the file, None where they are not known."""
        found = [(index, seeds) for number, index, seeds in self.steps if number == step]
        if not found:
            return None
        path = folder / f"bad-step-{step}{f'-process-{rank}' if rank else ''}.json"
        rows = torch.cat([index.flatten() for index, _ in found]).tolist()
        seeds = [each.flatten() for _, each in found if each is not None]
        told = {"step": step, "rows": rows, "row_seeds": torch.cat(seeds).tolist() if seeds else []}
        write_json(path, told, overwrite=True)
        return path


class SkipBadSteps(TrainerCallback):
    """Leave the weights as they are in a step whose gradient holds values that are no numbers.

    Costs a look at the device in each step. Gradients are the same on all processes, and so is the decision.
    """

    def __init__(self) -> None:
        self.skipped = 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """See TrainerCallback."""
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if gradients and not bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
            model.zero_grad(set_to_none=True)
            self.skipped += 1
            if state.is_world_process_zero:
                say(f"step {state.global_step + 1} is skipped: its gradient holds values that are no numbers")
