"""A hash of rows: whether they are those of an earlier call."""

import hashlib
import json
from pathlib import Path
from typing import Any


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
