"""From rows to tensors, by a method's processor; an error tells the row and the column.

A batch is a dict of tensors: forward's arguments and `row_index`, the number of each row in its dataset, from which the
trainer derives each row's seed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from hub_mim.batching import Batch, EncodedRows, all_readable, batches
from hub_mim.checking import takes
from hub_mim.files import first_line

Made = TypeVar("Made")
OURS = ("row_index", "stream_place")  # what rows carry that is no column; see `streams.Stream`


def encode(processor: Any, rows: Any) -> dict[str, Any]:
    """Turn rows into forward's arguments with one call of the processor.

    A processor whose `__call__` has a parameter `rows` takes the rows whole; any other takes, as a list each, the
    columns that are called like its parameters.

    Args:
        processor: see above.
        rows: list of dicts.
    Raises:
        ValueError: a column that the processor cannot do without is not there, or what a row has there cannot be taken; the
            message tells the row and the column.
        TypeError: a row has there something of another kind.
    """
    return made_of(partial(_encode, processor), rows)


def made_of(make: Callable[[Any], Made], rows: Any, numbers: Any = None) -> Made:
    """Return what is made of rows; an error tells the row, by its number (see `Batch`) or one of `numbers`, and the column."""
    from hub_mim.blame import WRONG, blamed

    try:
        return make(rows)
    except WRONG as error:
        first = getattr(rows, "first", 0)
        told = blamed(error, make, rows, numbers or range(first, first + len(rows)))
        if told is error:
            raise
        raise told from error


def _encode(processor: Any, rows: Any) -> dict[str, Any]:
    parameters = inspect.signature(processor.__call__).parameters
    if "rows" in parameters:
        return dict(processor(rows=rows, return_tensors="pt"))
    names = [name for name in parameters if name != "return_tensors" and parameters[name].kind not in _VARIABLE]
    singular = {
        name: name.removesuffix("s") for name in names
    }  # a folder of pictures gives "image", processors take "images"
    found = {name: name if name in rows[0] else singular[name] for name in names}
    columns = {name: _column(rows, column) for name, column in found.items() if column in rows[0]}
    needed = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in needed if name not in columns] or ([] if columns else names[:1])
    if missing:
        wanted = ", ".join(map(repr, missing))
        present = ", ".join(map(str, rows[0]))
        raise ValueError(
            f"the processor needs {wanted}, but the columns are {present}; map one with --map COLUMN={missing[0]}"
        )
    return dict(processor(**columns, return_tensors="pt"))


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    try:
        return [row[name] for row in rows]
    except KeyError as error:
        number = next(number for number, row in enumerate(rows) if name not in row)
        raise ValueError(f"row {number} lacks the column {name!r} that the first row of its batch has") from error


@takes(batch_size=">=1")
def encode_all(processor: Any, rows: Any, batch_size: int = 4096) -> EncodedRows:
    """Encode every row once; for processors that say `encode_once`."""
    import torch

    parts = [encode(processor, batch) for batch in batches(rows, batch_size)]
    return EncodedRows({name: torch.cat([part[name] for part in parts]) for name in parts[0]})


@takes(batch_size=">=1")
def readable(processor: Any, rows: Any, batch_size: int = 64) -> tuple[Any, list[str]]:
    """Leave out the rows that a processor cannot read; every row is encoded once to know.

    Returns:
        The others, and of each that was left out its number and what is wrong with it.
    Raises:
        ValueError: the rows are a stream, or none can be read.
    """
    if not hasattr(rows, "__len__"):
        raise ValueError("rows of a stream cannot be looked at beforehand; leave out --skip-unreadable, or --streaming")
    wrong: dict[int, str] = {}
    start = 0
    for part in batches(rows, batch_size, keep_unreadable=True):
        if _error_of(processor, part) is not None:
            told = {start + place: _error_of(processor, Batch([row], start + place)) for place, row in enumerate(part)}
            wrong |= {number: error for number, error in told.items() if error is not None}
        start += len(part)
    if len(wrong) == start:
        raise ValueError(f"none of the {start} rows can be read; {next(iter(wrong.values()), 'there are none')}")
    skipped = [f"row {number}: {error}" for number, error in wrong.items()]
    return (rows.select([place for place in range(start) if place not in wrong]) if wrong else rows), skipped


def _error_of(processor: Any, rows: Batch) -> str | None:
    try:
        encode(processor, all_readable(rows))
    except (ValueError, TypeError, OSError) as error:
        return without_number(error, rows.first)
    return None


def without_number(error: Exception, number: int) -> str:
    """Return the first line of an error about a row, without the row's number at its beginning."""
    return re.sub(rf"^row {number}[,:] ", "", first_line(error))


class Collator:
    """Make a batch of rows: encode them together, keep `row_index` and `stream_place`, pass batches that are ready through.

    Args:
        processor: see `encode`.
        collate: a method's own collator, called with the list of rows and the processor instead of `encode`.
        in_bytes: a processor that leaves pictures as bytes, see `on_device`; used wherever they are bytes.
    """

    def __init__(
        self,
        processor: Any,
        collate: Callable[[list[dict[str, Any]], Any], dict[str, Any]] | None = None,
        in_bytes: Any = None,
    ):
        self.processor = processor
        self.collate = collate
        self.in_bytes = in_bytes

    def __call__(self, rows: Any) -> dict[str, Any]:
        """Return the batch: tensors by name, `row_index` int64 (B,) where the rows carry it, the last row's `stream_place`."""
        import torch

        if isinstance(rows, Mapping):
            return dict(rows)
        if len(rows) == 1 and "row_index" in rows[0] and isinstance(rows[0]["row_index"], torch.Tensor):
            return dict(rows[0])
        index = [row.get("row_index") for row in rows]
        plain = Batch(rows, getattr(rows, "first", 0)).without(*OURS)
        batch = made_of(self._make, plain, None if None in index else index)
        if None not in index:
            batch["row_index"] = torch.tensor(index)
        return batch | {"stream_place": rows[-1]["stream_place"]} if "stream_place" in rows[-1] else batch

    def _make(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        if self.collate:
            return self.collate(rows, self.processor)
        if self.in_bytes is not None:
            made = _encode(self.in_bytes, rows)
            if "pixel_values" not in made or made["pixel_values"].dtype == torch.uint8:
                return made
        return _encode(self.processor, rows)
