"""Read the rows of one file or folder: csv, tsv, parquet, JSON lines, webdataset's archives, images and sounds in folders.

pandas, pyarrow and `datasets` do the reading; this module picks the reader by the file's ending and turns their errors
into sentences that name the file and the row. Tables are read into memory; `stream_path` reads them piece by piece.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hub_mim.files import first_line
from hub_mim.method import suggest

if TYPE_CHECKING:
    import pandas
    from datasets import Dataset, IterableDataset

BUILDERS = {".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
BUILDERS |= {".tar": "webdataset"}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zip", ".zst")
SHARD = re.compile(r"(.*?)(\d+)-of-(\d+)(\..*)")
EXACT_FLOAT = 2**53  # float64 holds every integer up to here
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"}


def read_path(path: Path, split: str | None = None) -> Dataset:
    """Read a table, a folder of tables or of archives, or a folder of images or sounds, into a `datasets.Dataset`.

    Args:
        path: an existing file or folder.
        split: for folders of media with `train/`, `validation/` below them.
    Raises:
        ValueError: an ending we do not read, an empty file, an unreadable row, duplicate column names.
    """
    if path.is_file():
        return _read_file(path)
    files = _tables(path)
    if not files:
        return _load_media(path, split, streaming=False)
    from datasets import concatenate_datasets

    if split is not None:
        files = [file for file in files if split in {file.parent.name, file.name.split(".")[0].split("-")[0]}]
    if not files:
        raise ValueError(
            f"{path} holds no table of split {split!r}: expected {split}.csv, {split}-*.parquet or {split}/"
        )
    _check_none_is_missing(files)
    if table_kind(files[0]) == ".tar":
        return _read_archives(files)
    tables = [_read_file(file) for file in files]
    _check_same_columns(files, tables)
    return concatenate_datasets(tables) if len(tables) > 1 else tables[0]


def stream_path(path: Path, split: str | None = None) -> IterableDataset:
    """Stream a table, a folder of tables, or a folder of media, without reading it whole."""
    files = [path] if path.is_file() else _tables(path)
    if not files:
        return _load_media(path, split, streaming=True)
    from datasets import load_dataset

    if path.is_dir():
        _check_none_is_missing(files)
    options = {"sep": "\t"} if table_kind(files[0]) == ".tsv" else {}
    builder = BUILDERS[table_kind(files[0])]
    return load_dataset(builder, data_files=[str(file) for file in files], split="train", streaming=True, **options)


def _check_none_is_missing(files: list[Path]) -> None:
    """Raise where files are numbered as shards (`train-00001-of-00004.parquet`) and one is not there."""
    here = {file.name for file in files}
    for file in files:
        found = SHARD.fullmatch(file.name)
        if found is None:
            continue
        start, number, count, end = found.groups()
        wanted = [f"{start}{each:0{len(number)}}-of-{count}{end}" for each in range(int(count))]
        missing = [name for name in wanted if name not in here]
        if missing:
            names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(
                f"{file.parent} lacks {len(missing)} of {int(count)} shards: {names}; fetch what is missing"
            )


def _read_archives(files: list[Path]) -> Dataset:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError

    for file in files:
        check_archive(file)
    try:
        return load_dataset("webdataset", data_files=[str(file) for file in files], split="train")
    except DatasetGenerationError as error:
        raise ValueError(f"cannot read {files[0].parent}: {first_line(error.__cause__ or error)}") from error


def check_archive(path: Path) -> None:
    """Walk over the headers of a tar file: readers take a damaged one for the end, and leave out what follows.

    Raises:
        ValueError: it does not end where an archive ends; compressed ones are not looked at.
    """
    import tarfile

    if path.suffix != ".tar":
        return
    try:
        with tarfile.open(path, "r:") as archive, path.open("rb") as file:
            count = len(archive.getmembers())
            file.seek(archive.offset)
            whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no whole archive: {first_line(error)}") from error
    if not whole:
        raise ValueError(f"{path} is no whole archive: what follows file {count} is damaged")


def table_kind(path: Path) -> str:
    """Return the ending that tells the format, without compression: ".csv" of "a.csv.gz".

    Raises:
        ValueError: it is none of those we read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in COMPRESSIONS else "".join(suffixes[-1:])
    if kind not in BUILDERS:
        hint = (
            "save the sheet as csv" if kind in {".xls", ".xlsx", ".ods"} else suggest(kind, list(BUILDERS)).strip("; ")
        )
        raise ValueError(
            f"cannot read {path}: ending {kind or 'none'!r} is none of {', '.join(BUILDERS)} (also with .gz)"
            + (f"; {hint}" if hint else "")
        )
    return kind


def frame_to_rows(frame: pandas.DataFrame, name: str = "the table") -> Dataset:
    """Turn a DataFrame into a Dataset: gaps become None, categories their values, the index is dropped.

    Raises:
        ValueError: duplicate column names, or a column that mixes types.
    """
    import pyarrow
    from datasets import Dataset

    frame = frame.rename(columns=str)
    _check_names(list(frame.columns), name)
    for column in frame.columns[[str(dtype) == "category" for dtype in frame.dtypes]]:
        frame[column] = frame[column].astype(frame[column].cat.categories.dtype)
    try:
        return Dataset.from_pandas(frame, preserve_index=False)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ValueError(_mixed_message({str(key): cells for key, cells in frame.items()}, name, error)) from error


def records_to_rows(records: Iterable[dict[str, Any]], name: str = "the rows") -> Dataset:
    """Turn a list of dicts into a Dataset with the columns of all of them, None where one lacks a column.

    Raises:
        ValueError: no rows, a row that is no dict, or a column that mixes types.
    """
    import pyarrow
    from datasets import Dataset

    records = list(records)
    if not records:
        raise ValueError(f"{name} is empty: there is nothing to learn from")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"row {index + 1} of {name} is {type(record).__name__}, not a mapping of column to value")
    columns = dict.fromkeys(str(key) for record in records for key in record)
    _check_names(list(columns), name)
    values: dict[str, list] = {column: [record.get(column) for record in records] for column in columns}
    try:
        return Dataset.from_dict(values)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError, UnicodeError) as error:
        raise ValueError(_mixed_message(values, name, error)) from error


def _read_file(path: Path) -> Dataset:
    kind = table_kind(path)
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    if kind == ".tar":
        rows = _read_archives([path])
    elif kind in {".csv", ".tsv"}:
        rows = frame_to_rows(read_csv(path), str(path))
    elif kind == ".parquet":
        rows = _read_parquet(path)
    else:
        rows = records_to_rows(_read_json(path, kind), str(path))
    if len(rows) == 0:
        raise ValueError(f"{path} has columns ({', '.join(rows.column_names)}) but no rows")
    return rows


def read_csv(path: Path) -> pandas.DataFrame:
    """Read a csv or tsv file with exact types.

    Returns:
        Numbers with gaps as float64 with missing values (as nullable Int64 where an integer is too large for float64),
        truth values with gaps as nullable boolean, all else as strings.
    Raises:
        ValueError: empty, duplicate columns, a row of another length, not text, or separated by something else.
    """
    import pandas

    separator = "\t" if table_kind(path) == ".tsv" else ","
    try:
        header = pandas.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
        _check_names(list(header.iloc[0]), str(path))
        _check_separator(list(header.iloc[0]), path)
        frame = pandas.read_csv(path, sep=separator, dtype_backend="numpy_nullable", index_col=False)
    except pandas.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty: it has no header line") from error
    except pandas.errors.ParserError as error:
        raise ValueError(f"cannot read {path}: {str(error).strip()}; mend that line") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}: it is not UTF-8 text ({error}); save it as UTF-8") from error
    for column in frame.columns:
        cells = frame[column]
        if str(cells.dtype) == "Float64" or (str(cells.dtype) == "Int64" and cells.isna().any()):
            if str(cells.dtype) == "Float64" or not (cells.abs() > EXACT_FLOAT).any():
                frame[column] = cells.astype("float64")
        elif str(cells.dtype) == "Int64":
            frame[column] = cells.astype("int64")
    return frame


def _read_parquet(path: Path) -> Dataset:
    import pyarrow
    from datasets import Dataset
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {path} as parquet: {error}") from error
    _check_names(table.column_names, str(path))
    return Dataset(table)


def _read_json(path: Path, kind: str) -> list[dict[str, Any]]:
    """Read JSON lines, or one array of objects, keeping integers exact."""
    import fsspec

    with fsspec.open(str(path), "rt", encoding="utf-8", compression="infer") as file:
        text = file.read()
    if kind == ".json" and text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
    records = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                told = getattr(error, "msg", error)
                raise ValueError(f"cannot read {path}: line {number} is not JSON ({told})") from error
    return records


def _tables(folder: Path) -> list[Path]:
    """Find the tables in and below a folder of tables, in order; empty where it holds media."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if any(path.suffix.lower() in IMAGES | SOUNDS for path in files):
        return []  # a csv beside images is their metadata
    found = [path for path in files if path.suffix.lower() in BUILDERS or path.suffix.lower() in COMPRESSIONS]
    if not found:
        seen = sorted({path.suffix or path.name for path in files})
        raise ValueError(
            f"{folder} holds no rows: expected tables ({', '.join(BUILDERS)}), images or sounds, found "
            + (", ".join(seen[:8]) or "nothing")
        )
    kinds = {BUILDERS[table_kind(path)] for path in found}
    if len(kinds) > 1:
        raise ValueError(
            f"{folder} mixes {' and '.join(sorted(kinds))} files; name one of them, or keep one kind in it"
        )
    return found


def _load_media(folder: Path, split: str | None, streaming: bool) -> Any:
    from datasets import load_dataset

    kinds = {path.suffix.lower() for path in folder.rglob("*")}
    builder = "imagefolder" if kinds & IMAGES else "audiofolder"
    if builder == "audiofolder" and not can_decode():
        rows = pick_split(_sound_splits(folder), split, str(folder))
        return rows.to_iterable_dataset() if streaming else rows
    splits = load_dataset(builder, data_dir=str(folder), streaming=streaming)
    return pick_split(splits, split, str(folder))


def can_decode() -> bool:
    """Tell whether `datasets` can decode sounds, or even read a folder of them: it needs torchcodec for both."""
    from importlib.util import find_spec

    return find_spec("torchcodec") is not None


def _sound_splits(folder: Path) -> dict[str, Dataset]:
    """Return the files of a folder of sounds as rows of paths, with the name of their own folder as label, by split.

    As `datasets`' audiofolder, without decoding: `train`, `validation`, `test` directly below are splits; labels where files
    lie in several folders.

    Raises:
        ValueError: there is a metadata file, which only `datasets` with torchcodec reads.
    """
    from datasets import ClassLabel, Dataset, Features, Value

    if any(folder.rglob("metadata.*")):
        raise ValueError(f"{folder} has a metadata file beside its sounds; pip install torchcodec to read it")
    files = [
        path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SOUNDS and not path.name.startswith(".")
    ]
    names = {"train", "validation", "test"}
    found: dict[str, list[Path]] = {}
    for path in files:
        first = path.relative_to(folder).parts[0]
        found.setdefault(first if first in names else "train", []).append(path)
    labels = sorted({path.parent.name for path in files if path.parent != folder and path.parent.name not in names})
    features: dict[str, Any] = {"audio": {"bytes": Value("binary"), "path": Value("string")}}
    if len(labels) > 1:
        features["label"] = ClassLabel(names=labels)
    splits = {}
    for name, paths in found.items():
        columns: dict[str, list[Any]] = {"audio": [{"bytes": None, "path": str(path)} for path in paths]}
        if len(labels) > 1:
            columns["label"] = [path.parent.name for path in paths]
        splits[name] = Dataset.from_dict(columns, features=Features(features))
    return splits


def undecoded(rows: Any) -> Any:
    """Leave sounds as the bytes and the path of their files where `datasets` has nothing to decode them with (torchcodec).

    A feature extractor that reads files, or that has soundfile, takes them so.
    """
    features = getattr(rows, "features", None)
    if not features or can_decode():
        return rows
    from datasets import Audio

    for name, feature in features.items():
        if isinstance(feature, Audio) and feature.decode:
            rows = rows.cast_column(name, Audio(sampling_rate=feature.sampling_rate, decode=False))
    return rows


def picture_columns(rows: Any) -> tuple[str, ...]:
    """Return the names of the columns that hold pictures."""
    from datasets import Image

    features = getattr(rows, "features", None) or {}
    return tuple(name for name, kind in features.items() if isinstance(kind, Image))


def pick_split(splits: Any, split: str | None, name: str) -> Any:
    """Take one split of a DatasetDict: the one asked for, else `train`, else the only one.

    Raises:
        ValueError: no such split; the message lists those present.
    """
    present = list(splits)
    wanted = split or ("train" if "train" in present else present[0] if len(present) == 1 else None)
    if wanted not in present:
        asked = f"no split {split!r}" if split else "no split 'train'"
        raise ValueError(f"{name} has {asked}; it has {', '.join(present)}")
    return splits[wanted]


def _check_names(names: list[str], where: str) -> None:
    broken = next((name for name in names if "\0" in str(name)), None)  # Arrow's schemas end names there
    if broken is not None:
        raise ValueError(
            f"{where} has a column called {broken!r}, with a NUL character, which no column can have; rename it, or save "
            "the file as UTF-8 text if it is UTF-16"
        )
    seen: set[str] = set()
    twice = list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    if twice:
        raise ValueError(
            f"{where} has more than one column called {', '.join(map(repr, twice))}; give each its own name"
        )


def _check_separator(header: list[str], path: Path) -> None:
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(header) == 1 and separator in header[0]:
            right = "call it .tsv" if separator == "\t" else "save it with commas"
            raise ValueError(f"{path} has one column, {header[0]!r}: it looks separated by {name}; {right}")


def _check_same_columns(files: list[Path], tables: list[Dataset]) -> None:
    for file, table in zip(files, tables):
        if set(table.column_names) != set(tables[0].column_names):
            odd = sorted(set(table.column_names) ^ set(tables[0].column_names))
            raise ValueError(f"{file} and {files[0]} differ in columns {odd}; tables of one folder must have the same")


def _mixed_message(columns: Mapping[str, Any], name: str, error: Exception) -> str:
    """Name the column that pyarrow could not type, and the types in it."""
    for column in columns:
        cells = (
            value for value in columns[column] if not (value is None or (isinstance(value, float) and value != value))
        )
        kinds = sorted({type(value).__name__ for value in cells})
        if len(kinds) > 1 and set(kinds) != {"int", "float"}:
            return f"column {column!r} of {name} mixes types ({', '.join(kinds)}); make it one type"
    return f"{name} cannot be read: {first_line(error)}"
