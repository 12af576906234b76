"""Rows that are read while training, for sources larger than memory, in an order that a resumed run takes up exactly.

A stream has shards (files, mostly) and is read by readers: the data workers of all processes. In each pass every row
that is there comes once, to one reader: shards are dealt out whole, and those that are left over are read by all, each
keeping its share of the rows. Where a reader is, is told by four numbers that travel with its batches.
`datasets` keeps such a state too, but without the rows that wait in its shuffle buffer, which are lost on resuming.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy
from torch.utils.data import Dataset
from transformers.trainer_pt_utils import BatchRebalanceSampler

from hub_mim.stream_rows import ROWS, Shards, one_pass

PLACE = "stream_place"  # of a batch: the reader that made it and where it is then


class Place(NamedTuple):
    """Where a reader is: so many rows of the block are used that begins at a row of one of its shards, in a pass."""

    turn: int = 0
    shard: int = 0  # counted in the reader's order
    row: int = 0
    used: int = 0


class Stream(Dataset):
    """Make batches of a stream, pass after pass, each in another order.

    Shards come in a random order, and rows are shuffled in blocks; while one block is given out the next is read. The item
    of a number is a list of rows, the last of which carries the `Place` where its reader is then. A row's `row_index`
    follows from the pass, its shard and its number there, so that masks do not depend on how many readers there are.

    Args:
        rows: see `Shards`.
        batch_size: number of rows.
        seed: of the order.
        process, processes: which one of how many.
        workers: of each process.
        block: number of rows that are shuffled together, and kept in memory as they are stored.
        skip_unreadable: see `Shards`.
    """

    def __init__(
        self,
        rows: Any,
        *,
        batch_size: int,
        seed: int = 0,
        process: int = 0,
        processes: int = 1,
        workers: int = 0,
        block: int = 1024,
        skip_unreadable: bool = False,
    ):
        self.shards, self.batch_size, self.seed, self.block = Shards(rows, skip_unreadable), batch_size, seed, block
        self.process, self.workers = process, max(1, workers)
        self.readers = processes * self.workers
        self.places: dict[int, Place] = {}  # where the readers of this process are
        self.opened: dict[int, Iterator[tuple[dict[str, Any], Place]]] = {}

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch; each reader is asked for its batches in turn, by one worker."""
        reader = self.process * self.workers + numbers[0] % self.workers
        if reader not in self.opened:
            self.opened[reader] = self._read(reader, self.places.get(reader, Place()))
        found = list(islice(self.opened[reader], self.batch_size))
        rows = [row for row, _ in found]
        rows[-1][PLACE] = (reader, *found[-1][1])
        return rows

    def _read(self, reader: int, place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
        """Yield a reader's rows from a place on, pass after pass, each with the place after it.

        Raises:
            ValueError: a pass has no rows for it.
        """
        while True:
            found = None
            for found in self._read_pass(reader, place):
                yield found
            if found is None and place == Place(place.turn):
                raise ValueError(self._without_rows(reader))
            place = Place(place.turn + 1)

    def _read_pass(self, reader: int, place: Place) -> Iterator[tuple[dict[str, Any], Place]]:
        """Yield the rest of a pass. A block is given out mixed, and for each row of it one of the next block is read."""
        turn, used = place.turn, place.used
        order = numpy.random.default_rng([self.seed, turn]).permutation(self.shards.count).tolist()
        source = one_pass(self.shards, order, reader, self.readers, (place.shard, place.row))
        block = list(islice(source, self.block))
        while block:
            begin = block[0][:2]
            mixed = numpy.random.default_rng([self.seed, reader, turn, *begin]).permutation(len(block)).tolist()
            coming = list(islice(source, used))
            for count, at in enumerate(mixed[used:], start=used + 1):
                coming += islice(source, 1)
                _, number, shard, stored = block[at]
                index = ((turn * self.shards.count + shard) << ROWS) + number
                for row in self.shards.decoded(shard, number, stored):
                    yield {**row, "row_index": index}, Place(turn, *begin, count)
            block, used = coming, 0

    def _without_rows(self, reader: int) -> str:
        what = "rows that can be read" if self.shards.skip_unreadable else "rows"
        if self.readers == 1:
            return f"the stream has no {what}, or holds none out; give more rows or another validation share"
        return (
            f"the stream has too few {what} for {self.readers} readers ({self.readers // self.workers} processes with "
            f"{self.workers} data workers each): none is left for the one numbered {reader}; use fewer, or give more rows"
        )

    def note(self, place: Sequence[int]) -> None:
        """Note that a batch was trained on."""
        self.places[place[0]] = Place(*place[1:])

    def state(self, places: Mapping[int, Place]) -> dict[str, Any]:
        """Return what a checkpoint keeps, as plain values, of the places of all processes' readers."""
        told = {str(reader): list(place) for reader, place in sorted(places.items())}
        return {"shards": self.shards.count, "readers": self.readers, "places": told}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint was written.

        Raises:
            ValueError: the stream has another number of shards, or of readers, than it had.
        """
        now = {"shards": self.shards.count, "readers": self.readers}
        for name, count in now.items():
            if state[name] != count:
                raise ValueError(
                    f"the stream has {count} {name} and had {state[name]} when the checkpoint was written; give the rows, the "
                    "processes and the data workers that it had, or pass overwrite=True (--overwrite) to start anew"
                )
        self.places = {int(reader): Place(*place) for reader, place in state["places"].items()}
        self.opened = {}


class Numbers(BatchRebalanceSampler):
    """Ask for the batches of a `Stream` by their numbers; of a class that Trainer takes as a sampler of whole batches."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in range(self.count))

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: passes over a stream are not the training's epochs."""
