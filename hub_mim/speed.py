"""How fast a training is, against what the device can do: model FLOPs utilisation (MFU)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from hub_mim.callbacks import plain
from hub_mim.checking import takes

if TYPE_CHECKING:
    from hub_mim.trainer import MaskedTrainer

WARM = 2  # steps that are not counted: caches, compilers and allocators settle in them
SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices by which the device's peak is measured


class StepTimes(TrainerCallback):
    """Keep the seconds of each step, the wait for its data included, evaluations and savings not."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.begun: float | None = None
        self.ended, self.steps, self.broken = 0.0, 0, False

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        now = time.perf_counter()
        if self.begun is not None and self.steps > WARM:
            self.seconds.append((self.ended if self.broken else now) - self.begun)
        self.begun, self.broken, self.steps = now, False, self.steps + 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        self.ended = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """See TrainerCallback."""
        self.broken = True

    on_evaluate = on_save


def utilisation(trainer: MaskedTrainer, times: StepTimes) -> dict[str, Any]:
    """Return what a training did a second, per process, and the share of the device's peak that this is.

    FLOPs are counted in one more step, whose gradients are thrown away: matrix products, convolutions and attention of
    forward and backward, 2 for a multiplication and an addition; what gradient checkpointing computes again is in it.

    Returns:
        `step_seconds` (median), `rows_per_second`, `step_flops`, `peak_flops` (a second, of torch.mm in the training's
        number format), `mfu`, `data_wait` (share of the time that was spent waiting for rows, after the first line of the
        log), and on a GPU `memory_bytes`, the most that its tensors took; empty where fewer than four steps were timed.
    """
    import statistics

    import torch

    if not times.seconds:
        return {}
    seconds = statistics.median(times.seconds)
    args = trainer.args
    memory = {"memory_bytes": torch.cuda.max_memory_allocated()} if args.device.type == "cuda" else {}
    waited = [line["data_wait"] for line in trainer.state.log_history if "data_wait" in line][1:]
    flops = step_flops(trainer) * args.gradient_accumulation_steps
    peak = peak_flops(args.device.type, "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32")
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
    return {
        "step_seconds": seconds,
        "rows_per_second": rows / seconds,
        "step_flops": flops,
        "peak_flops": peak,
        "mfu": flops / seconds / peak,
        **({"data_wait": statistics.mean(waited)} if waited else {}),
        **memory,
    }


def step_flops(trainer: MaskedTrainer) -> int:
    """Return the floating-point operations of one forward and backward pass on a training batch."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model = plain(trainer.model)
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    model.train()
    # the fused kernels of the CPU are not counted; the plain one computes the same
    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        trainer.accelerator.backward(trainer.compute_loss(model, inputs))
    model.zero_grad(set_to_none=True)
    trainer.named.sums.clear()
    return int(counter.get_total_flops())


@takes(repeats=">=1")
def peak_flops(device: str, dtype: str, repeats: int = 5, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the operations a second of the device's best of some products of large square matrices, by a clock."""
    import torch

    side = SIDE.get(device, SIDE["cpu"])
    left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(repeats + 1):
        _wait(device)
        start = clock()
        torch.mm(left, right)
        _wait(device)
        best = min(best, clock() - start)
    return 2 * side**3 / best


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
