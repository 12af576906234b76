"""Embed rows, or the parts of rows, into a parquet or npy file, in batches, going on where an interrupted call stopped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.checking import takes
from hub_mim.checkpoints import exclusive
from hub_mim.files import new_file, refuse_overwrite
from hub_mim.method import resolve, suggest
from hub_mim.parts import open_parts, parts_of, remove_parts, weights_in, write_hashed

if TYPE_CHECKING:
    import numpy as np

    from hub_mim.data import Batch

DTYPES = {"float32": None, "bf16": "bfloat16", "fp16": "float16"}
ENDINGS = (".parquet", ".npy")
_PART_ROWS = 8192
_OPEN = "open"  # in the name of a part after which a row is not finished


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        path: the file. rows, width: of its vectors. resumed: vectors that an earlier, interrupted call had made.
        skipped: what was wrong with rows that were left out.
    """

    path: Path
    rows: int
    width: int
    resumed: int
    skipped: tuple[str, ...] = ()


@takes(batch_size=">=1")
def embed(
    source: str | Path,
    data: Any,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    features: Any = None,
    split: str | None = None,
    streaming: bool = False,
    id: str | None = None,
    per: str | None = None,
    pooling: str = "auto",
    batch_size: int = 64,
    dtype: str = "float32",
    skip_unreadable: bool = False,
    overwrite: bool = False,
) -> Embedded:
    """Write the features of every row, or of every part of it.

    A parquet file has the columns `id` and `embedding` (float32, of fixed length) and reads back with `datasets`, and for
    parts of rows a column that names them; an npy file has the vectors alone, in the order of the rows. What is
    finished of an interrupted call is kept beside `out` and used by the next call with the same settings.

    Args:
        source: folder or Hub id.
        data: see `data.load_rows`.
        out: file ending in .parquet or .npy.
        columns, split, streaming: see `data.load_rows`. features: see `data.load_for`.
        id: column whose values name the rows; default their numbers.
        per: "row" for one vector a row; "image" or "text" for unit vectors of a row's picture or of its (first) text in the
            space of both, where the model has one; or what the method embeds besides (`Method.embeds`), such as "frame" or
            "node"; default the method's own choice.
        pooling, batch_size: see `features.batch_features`.
        dtype: "float32", "bf16" or "fp16" for the encoder's arithmetic.
        skip_unreadable: leave rows out that cannot be read, and say which; otherwise the first one ends the call.
        overwrite: replace `out`.
    Raises:
        ValueError: another ending, an unknown column or dtype, unreadable data or checkpoint.
        FileExistsError: `out` is there and `overwrite` is false.
        RuntimeError: another process is writing the same file.
    """
    import torch

    from hub_mim import loading
    from hub_mim.data import column_names, load_for
    from hub_mim.evaluation import method_of
    from hub_mim.run_arguments import has_accelerator

    out = refuse_overwrite(out, overwrite)
    if out.suffix not in ENDINGS:
        raise ValueError(f"{out.name} must end in {' or '.join(ENDINGS)}")
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}{suggest(dtype, DTYPES)}; there are {', '.join(DTYPES)}")
    method = method_of(source)
    rows = load_for(method, data, features=features, split=split, columns=columns, streaming=streaming)
    names = column_names(rows)
    if id is not None and id not in names:
        raise ValueError(f"no column {id!r}{suggest(id, names)}; there are {', '.join(names)}")
    model, processor = loading.load(source).eval(), loading.load_processor(source)
    per, own = _per(method, per, model)
    if has_accelerator():
        model.to("cuda" if torch.cuda.is_available() else "mps")
    settings = _settings(source, data, rows, split, id, per, pooling, dtype) | {"skip": skip_unreadable}
    arithmetic = None if DTYPES[dtype] is None else getattr(torch, str(DTYPES[dtype]))
    side = per if own is None and per != "row" else None
    work = Work(model, processor, id, batch_size, pooling, arithmetic, own, skip_unreadable, side)
    place = parts_of(out)
    with exclusive(place, f"writing {out}"):
        parts = Parts(place, settings, "row" if own is None else per)
        resumed = parts.rows
        for ids, names_of_parts, vectors, done in work.embed(rows, parts.done):
            parts.add(ids, names_of_parts, vectors, done)
        if parts.rows == 0:
            parts.remove()
            raise ValueError("there are no rows to embed" + (f"; {work.skipped[0]}" if work.skipped else ""))
        with new_file(out, overwrite=overwrite) as partial:
            parts.join(partial)
        parts.remove()
    return Embedded(out, parts.rows, parts.width, resumed, tuple(work.skipped))


def _per(method: Any, per: str | None, model: Any) -> tuple[str, Any]:
    """Return what gets a vector, and the method's function for it; None for whole rows, their pictures or their texts.

    Raises:
        ValueError: the method embeds no such thing.
    """
    from hub_mim.pairs import SIDES, is_dual

    sides = dict.fromkeys(SIDES) if is_dual(model) else {}
    known = {"row": None, **sides, **(method.embeds if method is not None else {})}
    per = per or (method.embed_per if method is not None else "row")
    if per not in known:
        raise ValueError(f"no vectors per {per!r}{suggest(per, known)}; there are those per {', '.join(known)}")
    return per, None if known[per] is None else resolve(str(known[per]))


def _settings(
    source: Any, data: Any, rows: Any, split: Any, id: Any, per: str, pooling: str, dtype: str
) -> dict[str, Any]:
    """Return what decides the vectors, so that parts of another call are not mixed in."""
    from hub_mim.data import fingerprint
    from hub_mim.loading import fetch

    folder, commit = fetch(source)
    weights = commit or weights_in(folder)
    named = str(data) if isinstance(data, str | Path) else "in memory"
    return {
        "weights": weights,
        "data": named,
        "fingerprint": fingerprint(rows),
        "split": split,
        "id": id,
        "per": per,
        "pooling": pooling,
        "dtype": dtype,
    }


Piece = tuple[list[Any], list[Any], "np.ndarray", int | None]


@dataclass
class Work:
    """How rows become vectors.

    Attributes:
        model, processor, id, batch_size, pooling, dtype: see `embed`.
        own: of the method, for parts of rows; None for whole rows.
        skip: leave out what cannot be read. side: "image" or "text" in place of the whole row.
        skipped: what was left out, and why.
    """

    model: Any
    processor: Any
    id: str | None
    batch_size: int
    pooling: str
    dtype: Any
    own: Any
    skip: bool
    side: str | None = None
    skipped: list[str] = field(default_factory=list)

    def embed(self, rows: Any, start: int) -> Iterator[Piece]:
        """Yield ids, names of parts, vectors and how many rows are done, about `_PART_ROWS` vectors at a time.

        Where the last row's parts are not all there, None takes the place of the number.
        """
        import numpy as np

        from hub_mim.console import CountLine
        from hub_mim.data import batches

        line = CountLine("rows embedded", start, len(rows) if hasattr(rows, "__len__") else None)
        done, held = start, Held()
        size = self.batch_size if self.own is None else 1
        for part in batches(rows, size, keep_unreadable=self.skip, start=start):
            opened = False
            for ids, names, vectors in self._pieces(part, done):
                if self.own is not None and held.count >= _PART_ROWS:
                    opened = True
                    yield *held.take(np), None
                held.add(ids, names, vectors)
            done += len(part)
            line.show(done)
            if opened or held.count >= _PART_ROWS:
                yield *held.take(np), done
        if held.count or done > start:
            yield *held.take(np), done
        line.end()

    def _pieces(self, part: Batch, done: int) -> Iterator[tuple[list[Any], list[Any], np.ndarray]]:
        """Yield the vectors of some rows; where they cannot be read together, of each that can."""
        from hub_mim.data import Batch, all_readable, without_number

        names = [row.get(self.id, done + place) if self.id else done + place for place, row in enumerate(part)]
        try:
            yield from self._vectors(all_readable(part), names)
        except (ValueError, TypeError, OSError) as error:
            if not self.skip:
                raise
            if len(part) == 1:
                self._leave_out(names[0], without_number(error, part.first))
                return
            for number, row in enumerate(part):
                yield from self._pieces(Batch([row], part.first + number), done + number)

    def _vectors(
        self, part: list[dict[str, Any]], names: list[Any]
    ) -> Iterator[tuple[list[Any], list[Any], np.ndarray]]:
        from hub_mim.features import batch_features
        from hub_mim.pairs import side_vectors

        if self.side is not None:
            yield names, [], side_vectors(self.model, self.processor, part, self.side, self.dtype)
            return
        if self.own is None:
            yield names, [], batch_features(self.model, self.processor, part, pooling=self.pooling, dtype=self.dtype)
            return
        found = self.own(self.model, self.processor, part[0], batch_size=self.batch_size, dtype=self.dtype)
        for inner, vectors in found:
            yield names * len(inner), list(inner), vectors

    def _leave_out(self, name: Any, error: str) -> None:
        from hub_mim.console import say

        self.skipped.append(f"row {name}: {error}")
        say(f"left out {self.skipped[-1]}")


@dataclass
class Held:
    """Vectors that wait to be written."""

    ids: list[Any] = field(default_factory=list)
    names: list[Any] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.ids)

    def add(self, ids: list[Any], names: list[Any], vectors: np.ndarray) -> None:
        """Keep some more."""
        self.ids += ids
        self.names += names
        self.vectors.append(vectors)

    def take(self, numpy: Any) -> tuple[list[Any], list[Any], np.ndarray]:
        """Return all, and forget them."""
        vectors = numpy.concatenate(self.vectors) if self.vectors else numpy.zeros((0, 0), numpy.float32)
        found = self.ids, self.names, vectors
        self.ids, self.names, self.vectors = [], [], []
        return found


class Parts:
    """What is finished, part by part, in a hidden folder; those of other settings are thrown away.

    Args:
        folder: for the parts.
        settings: what they must have been made with.
        per: "row", or the column for the names of rows' parts.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], per: str = "row"):
        self.folder, self.per = folder, per
        self.files = open_parts(folder, settings)
        while self.files and _rows_done(self.files[-1]) == _OPEN:
            self.files.pop().unlink()  # of a row that was not finished
        self.rows = sum(_metadata(path).num_rows for path in self.files)
        self.done = int(_rows_done(self.files[-1])) if self.files else 0
        self.width = 0

    def add(self, ids: list[Any], names: list[Any], vectors: np.ndarray, done: int | None) -> None:
        """Keep one more part, whole or not at all; `done` rows are finished with it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not len(vectors):
            return
        self.width = vectors.shape[1]
        flat = pa.array(vectors.ravel(), type=pa.float32())
        columns = {"id": pa.array(ids)} | ({} if self.per == "row" else {self.per: pa.array(names)})
        table = pa.table(columns | {"embedding": pa.FixedSizeListArray.from_arrays(flat, self.width)})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        path = self.folder / f"{len(self.files):06}-{_OPEN if done is None else done}.parquet"
        self.files.append(write_hashed(path, buffer.getvalue().to_pybytes()))
        self.rows += len(ids)

    def join(self, path: Path) -> None:
        """Write all parts as one file, one in memory at a time."""
        import pyarrow.parquet as pq

        tables = (pq.read_table(part) for part in self.files)
        if path.suffix == ".npy":
            self._join_npy(path, tables)
            return
        first = next(tables)
        self.width = first.column("embedding").type.list_size
        with pq.ParquetWriter(path, first.schema) as writer:
            writer.write_table(first)
            for table in tables:
                writer.write_table(table)

    def _join_npy(self, path: Path, tables: Iterator[Any]) -> None:
        import numpy as np

        array: Any = None
        start = 0
        for table in tables:
            column = table.column("embedding").combine_chunks()
            self.width = column.type.list_size
            if array is None:
                array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(self.rows, self.width))
            array[start : start + len(column)] = column.flatten().to_numpy().reshape(-1, self.width)
            start += len(column)
        array.flush()

    def remove(self) -> None:
        """Remove the parts, once they are joined."""
        remove_parts(self.folder)


def _rows_done(part: Path) -> str:
    """Return how many rows are finished with a part, as its name tells; `_OPEN` where the last one is not."""
    return part.stem.split("-")[1]


def _metadata(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(path)
