"""From a source of rows to batches: load, split, fingerprint, encode, collate.

Rows are a `datasets.Dataset` (or a stream of dicts). A batch is a dict of tensors: forward's arguments and `row_index`,
the number of each row in its dataset, from which the trainer derives each row's seed.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hub_mim.checking import takes
from hub_mim.files import check_exists, first_line
from hub_mim.method import suggest

if TYPE_CHECKING:
    from torch import Tensor

Made = TypeVar("Made")
SAMPLE = "sample:"
OURS = ("row_index", "stream_place")  # what rows carry that is no column; see `streams.Stream`


def load_rows(
    source: Any,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    streaming: bool = False,
) -> Any:
    """Load rows from wherever they are.

    Args:
        source: a csv, tsv, parquet, JSON-lines or tar (webdataset) file, a folder of them or of images or sounds, one written by
            `Dataset.save_to_disk`, a Hub id, "sample:NAME" (see `samples.py`), a Dataset, a DataFrame or a list of dicts.
        split: which split of a source that has several; default train.
        columns: column -> argument, renames columns to what the processor calls them.
        streaming: read while iterating, for sources larger than memory.
    Returns:
        A `datasets.Dataset`, an IterableDataset when streaming.
    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: unreadable, empty, or a column that is not there; the message names what is present.
    """
    from hub_mim.reading import undecoded

    rows = undecoded(_read(source, split, streaming))
    return rename_columns(rows, columns) if columns else rows


def load_for(method: Any, source: Any, *, features: Any = None, **options: Any) -> Any:
    """Load rows as a method wants them: by its own `load`, where it has one.

    Args:
        method: a `Method`, or None. source, options: see `load_rows`.
        features: a second table, of what the first one's rows name: of the nodes of a table of edges.
    Raises:
        ValueError: the method takes no second table.
    """
    from hub_mim.method import resolve

    if method is not None and method.load:
        return resolve(method.load)(source, features=features, **options)
    if features is not None:
        raise ValueError(f"{method.name if method else 'this model'} takes no table of features (--features)")
    return load_rows(source, **options)


def hold_out(method: Any, rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Part rows for a method: by its own `hold_out`, where it has one; see `split_rows`."""
    from hub_mim.method import resolve

    own = resolve(method.hold_out) if method is not None and method.hold_out else split_rows
    parts: tuple[Any, Any] = own(rows, share, seed)
    return parts


def _read(source: Any, split: str | None, streaming: bool) -> Any:
    from hub_mim import reading

    if not isinstance(source, str | Path):
        return _from_memory(source, split)
    text = str(source)
    path = Path(text).expanduser()
    if split is not None and (text.startswith(SAMPLE) or path.is_file()):
        raise ValueError(f"{text} is one table and has no split {split!r}; leave the split out")
    if text.startswith(SAMPLE):
        from hub_mim.samples import sample_rows

        return sample_rows(text.removeprefix(SAMPLE))
    if not path.exists():
        return _from_hub(text, split, streaming)
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return _from_disk(path, split)
    return reading.stream_path(path, split) if streaming else reading.read_path(path, split)


def _from_memory(source: Any, split: str | None) -> Any:
    import pandas

    from hub_mim import reading

    if isinstance(source, Mapping):
        return reading.pick_split(source, split, "the data")
    if split is not None and str(getattr(source, "split", None)) != split:
        raise ValueError(f"the data in memory has no split {split!r}; leave the split out")
    if isinstance(source, pandas.DataFrame):
        return reading.frame_to_rows(source)
    if hasattr(source, "column_names"):
        return source
    if not isinstance(source, Iterable):
        kind = type(source).__name__
        raise TypeError(f"cannot read rows from {kind}; give a path, a DataFrame, a Dataset or a list of dicts")
    return reading.records_to_rows(source)


def _from_disk(path: Path, split: str | None) -> Any:
    from datasets import load_from_disk

    from hub_mim.reading import pick_split

    stored = load_from_disk(str(path))
    return pick_split(stored, split, str(path)) if isinstance(stored, dict) else stored


def _from_hub(name: str, split: str | None, streaming: bool) -> Any:
    """Load a Hub dataset; what looks like a path is told to be missing instead."""
    check_exists(name)
    from datasets import load_dataset

    from hub_mim.reading import pick_split

    try:
        return pick_split(load_dataset(name, streaming=streaming), split, name)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is neither a file here nor a dataset that the Hub gave: {first_line(error)}"
        ) from error


def rename_columns(rows: Any, columns: Mapping[str, str]) -> Any:
    """Rename columns to the processor's arguments; a column that has such a name already gives way.

    Raises:
        ValueError: a column is not there (the message names those present), or two get one name.
    """
    present = column_names(rows)
    missing = [column for column in columns if column not in present]
    if missing:
        raise ValueError(
            f"no column {', '.join(map(repr, missing))} in the data{suggest(missing[0], present)}; "
            f"the columns are {', '.join(present)}"
        )
    twice = [name for name in columns.values() if list(columns.values()).count(name) > 1]
    if twice:
        raise ValueError(f"{twice.count(twice[0])} columns are mapped to {twice[0]!r}; map one to each argument")
    clash = [name for name in columns.values() if name in present and name not in columns]
    wanted = {column: argument for column, argument in columns.items() if column != argument}
    if not hasattr(rows, "__len__") and rows.features:
        return _rename_stored(rows, clash, wanted)
    return (rows.remove_columns(clash) if clash else rows).rename_columns(wanted)


def _rename_stored(rows: Any, clash: list[str], wanted: Mapping[str, str]) -> Any:
    """Rename columns of a stream as they are stored: `datasets` would decode each picture and encode it again."""
    from datasets import Features

    kept = {name: feature for name, feature in rows.features.items() if name not in clash}
    renamed = Features({wanted.get(name, name): feature for name, feature in kept.items()})
    return rows.decode(False).select_columns(list(kept)).rename_columns(wanted).cast(renamed)


def split_rows(rows: Any, validation: float = 0.1, seed: int = 0) -> tuple[Any, Any]:
    """Part rows into a training and a validation set, decided by the seed; both keep the rows' order.

    Args:
        rows: a Dataset, of which exactly `round(validation * rows)`, at least one, are held out; or a stream, whose row
            is held out by a hash of the seed, its shard and its number there, so that the share is met on average, whoever
            reads it, and both parts (`stream_rows.Part`) read the whole stream.
        validation: share held out, in [0, 1); 0 gives None as the second.
        seed: decides which rows.
    Raises:
        ValueError: the share is out of range, or there are too few rows to part.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"the validation share is {validation}; it must be at least 0 and less than 1")
    if validation == 0:
        return rows, None
    if not hasattr(rows, "__len__"):
        from hub_mim.stream_rows import Part

        side = partial(_is_on, share=validation, seed=seed)
        return Part(rows, partial(side, held_out=False)), Part(rows, partial(side, held_out=True))
    if len(rows) < 2:
        raise ValueError(f"there is {len(rows)} row; at least 2 are needed to hold one out, or use --validation 0")
    import numpy

    count = min(len(rows) - 1, max(1, round(len(rows) * validation)))
    order = numpy.random.default_rng(seed).permutation(len(rows))
    return rows.select(numpy.sort(order[count:])), rows.select(numpy.sort(order[:count]))


def _is_on(index: int, *, held_out: bool, share: float, seed: int) -> bool:
    drawn = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(drawn, "big") < share * 2**64) == held_out


def fingerprint(rows: Any) -> str | None:
    """Return a hash of the rows' content, column names and types, the same in every process; None for a stream.

    Images and sounds that lie in files count by the file's name and size, not by its content and not by its folder.
    """
    if not hasattr(rows, "__len__") or not hasattr(rows, "features"):
        return None
    digest = hashlib.sha256(json.dumps({name: str(kind) for name, kind in rows.features.items()}).encode())
    for table in rows.with_format("arrow").iter(batch_size=4096):
        for name in table.column_names:
            _hash_column(digest, table[name].combine_chunks())
    return digest.hexdigest()[:16]


def _hash_column(digest: Any, column: Any) -> None:
    """Add a column's values, and no padding, offset or hidden value of its memory, to a hash."""
    import pyarrow
    from pyarrow import compute

    if pyarrow.types.is_struct(column.type) and {"bytes", "path"} <= {field.name for field in column.type}:
        for cell in column.to_pylist():
            digest.update(
                repr(cell and (_file_facts(cell["path"]) if cell["bytes"] is None else cell["bytes"])).encode()
            )
        return
    if pyarrow.types.is_floating(column.type) and column.null_count:
        _hash_column(digest, compute.is_null(column))
        column = compute.fill_null(column, 0.0)
    fresh = pyarrow.record_batch([compute.take(column, pyarrow.array(range(len(column))))], names=["x"])
    digest.update(fresh.serialize())


def _file_facts(path: str) -> tuple[str, int | None]:
    file = Path(path)
    return file.name, file.stat().st_size if file.is_file() else None


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
