"""Load rows from wherever they are.

How rows are parted, read in batches and made tensors is in `splitting`, `batching` and `encoding`, whose names are here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hub_mim.batching import Batch, EncodedRows, Rows, all_readable, as_records, batches, column_names, take
from hub_mim.encoding import Collator, encode, encode_all, made_of, readable, without_number
from hub_mim.files import check_exists, first_line
from hub_mim.fingerprints import fingerprint
from hub_mim.method import suggest
from hub_mim.splitting import hold_out, split_rows

__all__ = [
    "Batch",
    "Collator",
    "EncodedRows",
    "Rows",
    "all_readable",
    "as_records",
    "batches",
    "column_names",
    "encode",
    "encode_all",
    "fingerprint",
    "hold_out",
    "load_for",
    "load_rows",
    "made_of",
    "readable",
    "rename_columns",
    "split_rows",
    "take",
    "without_number",
]

SAMPLE = "sample:"


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
