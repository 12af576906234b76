"""Rows by their numbers and in batches, read together; what cannot be read has a place of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes
from hub_mim.files import first_line

if TYPE_CHECKING:
    from torch import Tensor


class Batch(list[dict[str, Any]]):
    """Rows that were read together.

    Attributes:
        first: the number of the first of them among all; an error of `encode` tells the one that is wrong.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = (), first: int = 0):
        super().__init__(rows)
        self.first = first

    def without(self, *columns: str) -> Batch:
        """Return the rows without some columns."""
        return Batch(({name: row[name] for name in row if name not in columns} for row in self), self.first)


class Unreadable(dict[str, Any]):
    """Takes the place of a row that cannot be read, such as a picture that is broken off.

    Attributes:
        error: what is wrong with it.
    """

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error


def all_readable(rows: Batch) -> Batch:
    """Return rows as they are.

    Raises:
        ValueError: one is `Unreadable`.
    """
    for row in rows:
        if isinstance(row, Unreadable):
            raise ValueError(first_line(row.error))
    return rows


@takes(numbers="...")
def take(rows: Any, numbers: Sequence[int], keep_unreadable: bool = False) -> list[dict[str, Any]]:
    """Return rows by their numbers, read together.

    Args:
        keep_unreadable: put an `Unreadable` in the place of a row that cannot be read.
    Raises:
        ValueError: a row cannot be read; the message says which and why.
    """
    try:
        return _as_list(rows[list(numbers)] if hasattr(rows, "column_names") else [rows[each] for each in numbers])
    except _BROKEN as error:
        found = [_one(rows, each) for each in numbers]
        broken = next((place for place, row in enumerate(found) if isinstance(row, Unreadable)), None)
        if broken is not None and not keep_unreadable:
            raise ValueError(f"row {numbers[broken]} cannot be read: {first_line(found[broken].error)}") from error
        return found


_BROKEN = (OSError, ValueError, SyntaxError, EOFError)  # what decoders say; PIL calls a broken png a SyntaxError


def _one(rows: Any, number: int) -> Any:
    try:
        return dict(rows[number])
    except _BROKEN as error:
        return Unreadable(error)


@takes(size=">=1", start=">=0")
def batches(rows: Any, size: int, keep_unreadable: bool = False, start: int = 0) -> Iterator[Batch]:
    """Yield lists of at most `size` rows, from number `start` on, read together where the rows have a length; see `take`."""
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):
        for first in range(start, len(rows), size):
            yield Batch(take(rows, range(first, min(first + size, len(rows))), keep_unreadable), first)
        return
    batch = Batch(first=start)
    for row in rows.skip(start) if start else rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = Batch(first=batch.first + size)
    if batch:
        yield batch


def _as_list(rows: Any) -> list[dict[str, Any]]:
    """Return a slice of rows as dicts; a Dataset gives a mapping of columns."""
    if not isinstance(rows, Mapping):
        return [dict(row) for row in rows]
    return [dict(zip(rows, values, strict=True)) for values in zip(*rows.values(), strict=True)]


class Rows:
    """A map-style dataset that tells each row its number: the key of its masks."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        rows = take(self.rows, indices)
        return [{**row, "row_index": int(index)} for row, index in zip(rows, indices, strict=True)]


class EncodedRows:
    """Rows encoded once and kept as tensors; gives whole batches by indexing, without a Python loop over rows."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)
        first, self.length = next((name, len(tensor)) for name, tensor in self.tensors.items())
        for name, tensor in self.tensors.items():
            if len(tensor) != self.length:
                raise ValueError(f"{name!r} has {len(tensor)} rows, but {first!r} has {self.length}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        import torch

        chosen = torch.as_tensor(indices)
        return {name: tensor[chosen] for name, tensor in self.tensors.items()} | {"row_index": chosen}


def column_names(rows: Any) -> list[str]:
    """Return the names of the columns, from the first row where a stream does not tell them."""
    if getattr(rows, "column_names", None):
        return list(rows.column_names)
    for row in rows:
        return list(row)
    raise ValueError("the data is empty: there are no rows")


def as_records(rows: Any) -> list[dict[str, Any]]:
    """Return rows as a list of dicts."""
    return [dict(row) for batch in batches(rows, 4096) for row in batch]
