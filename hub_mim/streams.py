"""Rows that are read while training, for sources larger than memory."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info


class Stream(IterableDataset):
    """Number the rows of a stream, in as many passes as training takes or in one for evaluation.

    The numbers run on from pass to pass, so that every pass has masks of its own, and a resumed run, which reads and
    drops what was used before, gives each row the mask it would have had. One process reads the rows: several workers
    would each read all of them.

    Args:
        rows: an iterable of dicts; one of `datasets` is shuffled through a buffer when `endless`, differently in each pass.
        endless: begin again when the rows are used up.
        seed: of the order.
        buffer: number of rows that are shuffled together.
    """

    def __init__(self, rows: Any, *, endless: bool, seed: int = 0, buffer: int = 1024):
        self.rows = rows.shuffle(seed=seed, buffer_size=buffer) if endless and hasattr(rows, "shuffle") else rows
        self.endless = endless

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, each with its `row_index`.

        Raises:
            ValueError: the stream has no rows, or more than one worker reads it.
        """
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise ValueError(
                f"a stream is read by one worker at most, not {worker.num_workers} (dataloader_num_workers)"
            )
        number = turn = 0
        while self.endless or not turn:
            if hasattr(self.rows, "set_epoch"):
                self.rows.set_epoch(turn)
            before = number
            for row in self.rows:
                yield {**row, "row_index": number}
                number += 1
            if number == before:
                raise ValueError(
                    "the stream has no rows, or holds none out; give more rows or another validation share"
                )
            turn += 1
