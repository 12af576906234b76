"""Rows of all processes together, for losses that look at a whole batch: contrast, negatives.

A loss must not depend on the number of processes. Each takes the rows of all of them, computes its share of the loss over the
joined batch, times the number of processes: gradients are averaged over processes (DDP), which undoes that factor.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hub_mim.checking import takes


def processes() -> int:
    """Return how many processes train together; 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@takes(rows=">=0")
def row_counts(rows: int, device: Any = "cpu") -> list[int]:
    """Return how many rows each process has in its batch; the last batch of an epoch may be ragged."""
    if processes() == 1:
        return [rows]
    own = torch.tensor([rows], device=device)
    counts = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(counts, own)
    return [int(count) for count in counts]


@takes(x="any B ...", counts=">=0 ...")
def gather_rows(x: Tensor, counts: list[int] | None = None) -> Tensor:
    """Return the rows (B, ...) of all processes, in order of rank, with gradients; `x` itself where there is one process.

    Args:
        x: rows of this process. counts: of `row_counts`, where the caller has them.
    """
    if processes() == 1:
        return x
    counts = row_counts(len(x), x.device) if counts is None else counts
    gathered: Tensor = _Gather.apply(x, counts)
    return gathered


@takes(counts=">=0 ...")
def first_row(counts: list[int]) -> int:
    """Return where this process's rows begin among the gathered ones."""
    return sum(counts[: dist.get_rank()]) if len(counts) > 1 else 0


@takes(count="int ...")
def joint_count(count: Tensor | int, device: Any = "cpu") -> Any:
    """Return what this process divides its sum by, so that the mean of all processes' results is the mean over all their rows.

    That is the mean of their counts, and at least 1 over all of them; where no gradients are taken (evaluation), and in one
    process, its own count. In training all processes must call this alike: none may leave out a loss that it has nothing for.

    Args:
        count: of what this process sums up. device: where it is, if it is no tensor.
    """
    if processes() == 1 or not torch.is_grad_enabled():
        return count.clamp(min=1) if isinstance(count, Tensor) else max(1, count)
    every = torch.as_tensor(count, device=count.device if isinstance(count, Tensor) else device).clone()
    dist.all_reduce(every)
    return every.clamp(min=1) / processes()


class _Gather(torch.autograd.Function):
    """Gather rows; the gradient of a row is the sum of what all processes say of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        padded = x.new_zeros(max(counts), *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        start = first_row(ctx.counts)
        return total[start : start + ctx.counts[dist.get_rank()]], None
