"""What each of several processes gets of a round of batches: an incomplete round is divided, no row is taken twice."""

from collections.abc import Iterator
from typing import Any

from accelerate.data_loader import BatchSamplerShard


class Shares(BatchSamplerShard):
    """Accelerate's shares, one whole batch for each process, but for the last round of an epoch.

    Accelerate fills that up with rows from the beginning, which then count twice; here its rows are divided, in order, so that
    the processes together have the batch that one process would have. Where there are fewer rows than processes, they are
    repeated.
    """

    def _iter_with_no_split(self) -> Iterator[list[int]]:
        held: list[list[int]] = []
        for batch in self.batch_sampler:
            held.append(batch)
            if len(held) == self.num_processes and len(batch) == self.batch_size:
                yield held[self.process_index]
                held = []
        rows = [row for batch in held for row in batch]
        if rows and not self.drop_last:
            yield share_of(rows, self.process_index, self.num_processes)


def share_of(rows: list[int], rank: int, processes: int) -> list[int]:
    """Return a process's part of some rows: the parts follow each other and differ in length by one at most."""
    if len(rows) < processes:
        return [rows[rank % len(rows)]]
    return rows[rank * len(rows) // processes : (rank + 1) * len(rows) // processes]


def divide(loader: Any) -> Any:
    """Return a loader that Accelerate prepared for several processes, its last round divided instead of filled up."""
    if type(loader.batch_sampler) is BatchSamplerShard and loader.batch_sampler.batch_size is not None:
        loader.batch_sampler.__class__ = Shares  # a loader does not let its sampler be replaced
    return loader


def is_divided(loader: Any) -> bool:
    """Tell whether a loader's last round is divided."""
    return isinstance(getattr(loader, "batch_sampler", None), Shares)
