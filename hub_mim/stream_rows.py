"""The rows of a stream, shard by shard, as they are stored: which of them a reader reads, and what is held out.

A stream has shards (files, mostly), and a row a number that does not depend on who reads it: that of its shard, times
2^32, plus that of the row there. It decides whether the row is held out, and its masks.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from hub_mim.console import say
from hub_mim.files import first_line
from hub_mim.reading import check_archive

ROWS = 32  # bits of a row's number in its shard


class Part:
    """The rows of a stream whose number passes a test; iterating reads them all once, in their own order."""

    def __init__(self, rows: Any, keeps: Callable[[int], bool]):
        self.rows, self.keeps = rows, keeps
        self.column_names, self.features = (getattr(rows, name, None) for name in ("column_names", "features"))

    def remove_columns(self, names: Sequence[str]) -> "Part":
        """As of `datasets`, which would decode the pictures that are left out."""
        return self.select_columns([name for name in self.column_names or () if name not in names])

    def select_columns(self, names: Sequence[str]) -> "Part":
        """As of `datasets`."""
        return Part(self.rows.select_columns(names), self.keeps)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        shards = Shards(self)
        for _, number, shard, row in one_pass(shards, range(shards.count)):
            yield from shards.decoded(shard, number, row)


class Shards:
    """Read a stream shard by shard, from any row on, and decode a row (a picture) only when it is wanted.

    Args:
        rows: a `datasets.IterableDataset`, any iterable of dicts (one shard), or a `Part` of these.
        skip_unreadable: leave out rows that cannot be decoded, and say which.
    """

    def __init__(self, rows: Any, skip_unreadable: bool = False):
        self.skip_unreadable = skip_unreadable
        self.keeps = rows.keeps if isinstance(rows, Part) else None
        rows = rows.rows if isinstance(rows, Part) else rows
        self.count = getattr(rows, "num_shards", 1)
        features = getattr(rows, "features", None) if hasattr(rows, "decode") else None
        self.decoder: Callable[[Any], dict[str, Any]] = features.decode_example if features else dict
        self.rows = rows.decode(False) if features else rows

    def read(self, shard: int, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield the rows of a shard with their numbers, as they are stored.

        Raises:
            ValueError: it is missing, broken off or damaged; the message says which and where.
        """
        number = start
        try:
            for row in self._rows(shard, start):
                yield number, row
                number += 1
        except Exception as error:  # readers of all kinds of files say it in all kinds of ways
            name = ", ".join(_files(self.rows.shard(self.count, shard))) if hasattr(self.rows, "shard") else ""
            raise ValueError(
                f"shard {shard} of {self.count}{f' ({name})' if name else ''} cannot be read after {number} rows: "
                f"{first_line(error)}; mend the file, and the same call goes on from the last complete checkpoint"
            ) from error

    def decoded(self, shard: int, number: int, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a row as it is used, or nothing where it is left out.

        Raises:
            ValueError: it cannot be decoded; the message says which row it is.
        """
        try:
            row = self.decoder(row)
        except Exception as error:  # PIL calls a broken png a SyntaxError
            told = f"row {number} of shard {shard} cannot be read: {first_line(error)}"
            if not self.skip_unreadable:
                raise ValueError(told) from error
            say(f"left out: {told}")
            return
        yield row

    def _rows(self, shard: int, start: int) -> Iterator[dict[str, Any]]:
        if not hasattr(self.rows, "num_shards"):
            yield from islice(self.rows, start, None)
            return
        import fsspec

        if get_worker_info() is not None:
            fsspec.asyn.reset_lock()  # held in the process that this one was forked from, it would never be free
        rows = self.rows.shard(self.count, shard)
        # by `iter`, because `__iter__` deals shards out to data workers, which is done here
        for batch in rows.skip(start).iter(batch_size=16):
            for values in zip(*batch.values(), strict=True):
                yield dict(zip(batch, values, strict=True))
        for file in map(Path, _files(rows)):
            if file.is_file():
                check_archive(file)


def _files(rows: Any) -> list[str]:
    """Return the names of the files behind a shard, where `datasets` knows any."""
    source = rows._ex_iterable
    while hasattr(source, "ex_iterable"):
        source = source.ex_iterable
    values = [value for value in getattr(source, "kwargs", {}).values() if isinstance(value, list)]
    return list(dict.fromkeys(text for value in values for text in value if isinstance(text, str)))


def one_pass(
    shards: Shards, order: Sequence[int], reader: int = 0, readers: int = 1, start: tuple[int, int] = (0, 0)
) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """Yield what a reader reads in a pass: place in its order of shards, number of the row, of the shard, the row.

    Args:
        order: of all shards. reader, readers: which one of how many. start: place and row to begin at.
    """
    dealt = len(order) // readers
    own = [*order[: dealt * readers][reader::readers], *order[dealt * readers :]]
    for place in range(start[0], len(own)):
        for number, row in shards.read(own[place], start[1] if place == start[0] else 0):
            mine = place < dealt or number % readers == reader
            if mine and (shards.keeps is None or shards.keeps((own[place] << ROWS) + number)):
                yield place, number, own[place], row


class OnePass(IterableDataset):
    """Read a stream once, in its own order, as evaluation does; several workers share it."""

    def __init__(self, rows: Any, skip_unreadable: bool = False):
        self.shards = Shards(rows, skip_unreadable)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        reader, readers = (worker.id, worker.num_workers) if worker else (0, 1)
        for _, number, shard, row in one_pass(self.shards, range(self.shards.count), reader, readers):
            for whole in self.shards.decoded(shard, number, row):
                yield {**whole, "row_index": (shard << ROWS) + number}
