"""Embed rows: one vector each into a parquet or npy file, in batches, going on where an interrupted call stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.files import new_file, read_json, refuse_overwrite, write_json
from hub_mim.method import suggest

if TYPE_CHECKING:
    import numpy as np

DTYPES = {"float32": None, "bf16": "bfloat16", "fp16": "float16"}
ENDINGS = (".parquet", ".npy")
_PART_ROWS = 8192


@dataclass(frozen=True)
class Embedded:
    """What was written.

    Attributes:
        path: the file. rows, width: of its vectors. resumed: rows that an earlier, interrupted call had embedded.
    """

    path: Path
    rows: int
    width: int
    resumed: int


def embed(
    source: str | Path,
    data: Any,
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    streaming: bool = False,
    id: str | None = None,
    pooling: str = "auto",
    batch_size: int = 64,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Embedded:
    """Write the features of every row.

    A parquet file has the columns `id` and `embedding` (float32, of fixed length) and reads back with `datasets`; an npy
    file has the vectors alone, in the order of the rows. What is finished of an interrupted call is kept beside `out` and
    used by the next call with the same settings.

    Args:
        source: folder or Hub id.
        data: see `data.load_rows`.
        out: file ending in .parquet or .npy.
        columns, split, streaming: see `data.load_rows`.
        id: column whose values name the rows; default their numbers.
        pooling, batch_size: see `features.batch_features`.
        dtype: "float32", "bf16" or "fp16" for the encoder's arithmetic.
        overwrite: replace `out`.
    Raises:
        ValueError: another ending, an unknown column or dtype, unreadable data or checkpoint.
        FileExistsError: `out` is there and `overwrite` is false.
    """
    import torch

    from hub_mim import loading
    from hub_mim.data import column_names, load_rows
    from hub_mim.training import has_accelerator

    out = refuse_overwrite(out, overwrite)
    if out.suffix not in ENDINGS:
        raise ValueError(f"{out.name} must end in {' or '.join(ENDINGS)}")
    if dtype not in DTYPES:
        raise ValueError(f"no dtype {dtype!r}{suggest(dtype, DTYPES)}; there are {', '.join(DTYPES)}")
    rows = load_rows(data, split=split, columns=columns, streaming=streaming)
    names = column_names(rows)
    if id is not None and id not in names:
        raise ValueError(f"no column {id!r}{suggest(id, names)}; there are {', '.join(names)}")
    model, processor = loading.load(source), loading.load_processor(source)
    if has_accelerator():
        model.to("cuda" if torch.cuda.is_available() else "mps")
    settings = _settings(source, data, rows, split, id, pooling, dtype)
    parts = Parts(out.with_name(f".{out.name}.parts"), settings)
    resumed = parts.rows
    arithmetic = None if DTYPES[dtype] is None else getattr(torch, str(DTYPES[dtype]))
    for ids, vectors in _embed(model, processor, rows, id, parts.rows, batch_size, pooling, arithmetic):
        parts.add(ids, vectors)
    if parts.rows == 0:
        raise ValueError("there are no rows to embed")
    with new_file(out, overwrite=overwrite) as partial:
        parts.join(partial)
    parts.remove()
    return Embedded(out, parts.rows, parts.width, resumed)


def _settings(source: Any, data: Any, rows: Any, split: Any, id: Any, pooling: str, dtype: str) -> dict[str, Any]:
    """Return what decides the vectors, so that parts of another call are not mixed in."""
    from hub_mim.data import fingerprint
    from hub_mim.files import sha256
    from hub_mim.loading import fetch

    folder, commit = fetch(source)
    weights = commit or {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}
    named = str(data) if isinstance(data, str | Path) else "in memory"
    return {
        "weights": weights,
        "data": named,
        "fingerprint": fingerprint(rows),
        "split": split,
        "id": id,
        "pooling": pooling,
        "dtype": dtype,
    }


def _embed(
    model: Any, processor: Any, rows: Any, id: str | None, start: int, batch_size: int, pooling: str, dtype: Any
) -> Iterator[tuple[list[Any], np.ndarray]]:
    """Yield ids and vectors of about `_PART_ROWS` rows at a time, telling on stderr how far it is."""
    import numpy as np

    from hub_mim.console import CountLine
    from hub_mim.features import iterate_features

    line = CountLine("rows embedded", start, len(rows) if hasattr(rows, "__len__") else None)
    held: list[np.ndarray] = []
    names: list[Any] = []
    done = start
    rest = rows.skip(start) if start else rows
    found = iterate_features(model, processor, rest, batch_size=batch_size, pooling=pooling, dtype=dtype)
    for part, vectors in found:
        names += [row[id] for row in part] if id else range(done, done + len(part))
        held.append(vectors)
        done += len(part)
        line.show(done)
        if len(names) >= _PART_ROWS:
            yield names, np.concatenate(held)
            held, names = [], []
    if held:
        yield names, np.concatenate(held)
    line.end()


class Parts:
    """What is finished, part by part, in a hidden folder; those of other settings are thrown away.

    Args:
        folder: for the parts.
        settings: what they must have been made with.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        known = folder / "settings.json"
        plain = json.loads(json.dumps(settings))
        if known.is_file() and read_json(known) == plain:
            self.files = sorted(folder.glob("*.parquet"))
        else:
            shutil.rmtree(folder, ignore_errors=True)
            write_json(known, plain)
            self.files = []
        self.rows = sum(_metadata(path).num_rows for path in self.files)
        self.width = 0

    def add(self, ids: list[Any], vectors: np.ndarray) -> None:
        """Keep one more part, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.width = vectors.shape[1]
        flat = pa.array(vectors.ravel(), type=pa.float32())
        table = pa.table({"id": pa.array(ids), "embedding": pa.FixedSizeListArray.from_arrays(flat, self.width)})
        path = self.folder / f"{len(self.files):06}.parquet"
        with new_file(path, overwrite=True) as partial:
            pq.write_table(table, partial)
        self.files.append(path)
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
        shutil.rmtree(self.folder, ignore_errors=True)


def _metadata(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(path)
