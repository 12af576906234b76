"""Regions of many pictures into one parquet file: batched, with progress, going on where an interrupted call stopped."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hub_mim.checkpoints import exclusive
from hub_mim.data import (
    Batch,
    all_readable,
    batches,
    column_names,
    fingerprint,
    load_rows,
    made_of,
    without_number,
)
from hub_mim.files import new_file, refuse_overwrite
from hub_mim.parts import open_parts, parts_of, remove_parts, weights_in, write_hashed
from hub_mim_regions.readers import read_regions
from hub_mim_regions.sources import given_boxes, make_source

PART = 256  # pictures a part
KEPT = ("text", "caption", "captions", "sentence", "question", "questions", "answer", "label", "objects")


def extract(
    images: Any,
    out: str | Path,
    *,
    backend: str = "detector",
    model: str | None = None,
    options: Mapping[str, Any] | None = None,
    max_regions: int = 36,
    box_form: str = "xyxy",
    split: str | None = None,
    id: str | None = None,
    batch_size: int = 8,
    show: str | Path | None = None,
    skip_unreadable: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the regions of pictures.

    Args:
        images: rows with an `image` (see `hub_mim.data.load_rows`); for the backend "stored" a file or folder of regions.
        out: file ending in .parquet: `id`, `boxes` (corners in [0, 1]), `features`, what is known of regions, and the rows'
            own texts and labels.
        backend, model, options: see `sources.make_source`. max_regions: of a picture.
        box_form: of given boxes. split, id: of the rows. batch_size: pictures at a time.
        show: picture of the first pictures with their boxes. overwrite: replace `out`.
        skip_unreadable: leave pictures out that cannot be read, and say which; otherwise the first one ends the call.
    Returns:
        What was made: file, rows, regions, width; what was left out.
    Raises:
        ValueError: another ending, unreadable pictures, a backend that does not exist.
        FileExistsError: `out` is there and `overwrite` is false.
        RuntimeError: another process is writing the same file.
    """
    out = refuse_overwrite(out, overwrite)
    if out.suffix != ".parquet":
        raise ValueError(f"{out.name} must end in .parquet")
    settings: dict[str, Any] = {"backend": backend, "model": model, "options": dict(options or {})}
    settings |= {"max_regions": max_regions, "box_form": box_form, "split": split, "id": id}
    settings |= {"skip_unreadable": skip_unreadable}
    settings |= {"images": str(images) if isinstance(images, str | Path) else "in memory"}
    skipped: list[str] | None = [] if skip_unreadable else None
    parts = parts_of(out)
    with exclusive(parts, f"writing {out}"):
        if backend == "stored":
            settings |= {"files": _file_facts(Path(images))}
            found = partial(_stored, images, max_regions)
        else:
            rows = load_rows(images, split=split)
            settings |= {"fingerprint": fingerprint(rows), "weights": weights_in(model)}
            source = make_source(backend, model, **(options or {}))
            found = partial(_found, rows, source, max_regions, box_form, id, batch_size, skipped)
        files = open_parts(parts, settings)
        pictures = found(len(files) * PART)  # a picture that is left out has its place among these
        while pending := list(islice(pictures, PART)):
            files.append(_write(pending, parts, len(files)))
        told = _join(files, out, overwrite)
        remove_parts(parts)
    if skipped:
        told["left_out"] = skipped
    if show is not None:
        from hub_mim_regions.drawing import draw_file

        draw_file(out, images, show, split=split, overwrite=overwrite)
        told["picture"] = str(show)
    return told


def _file_facts(path: Path) -> list[Any]:
    """Return the name, size and time of each file that regions are read from."""
    files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
    return [[each.name, each.stat().st_size, each.stat().st_mtime_ns] for each in files if each.exists()]


def _stored(path: Any, most: int, start: int) -> Iterator[dict[str, Any]]:
    from hub_mim_regions.readers import keep_confident

    for row in islice(read_regions(path), start, None):
        yield keep_confident(row, least=most, most=most)


def _found(
    rows: Any,
    source: Any,
    most: int,
    form: str,
    id: str | None,
    batch_size: int,
    skipped: list[str] | None,
    start: int,
) -> Iterator[dict[str, Any]]:
    """Yield what is written of each picture, and nothing at all of those that are left out."""
    from hub_mim.console import CountLine

    names = column_names(rows)
    if "image" not in names:
        raise ValueError(f"there is no column 'image' among {', '.join(names)}")
    line = CountLine("pictures", start, len(rows))
    done = start
    for part in batches(rows, batch_size, keep_unreadable=skipped is not None, start=start):
        found = _together(source, part, form, most, skipped)
        for number, (row, region) in enumerate(zip(part, found, strict=True)):
            yield {} if region is None else {"id": row[id] if id else done + number} | _facts(row) | region
        done += len(part)
        line.show(done)
    line.end()


def _together(source: Any, rows: Batch, form: str, most: int, skipped: list[str] | None) -> list[dict[str, Any] | None]:
    """Return the regions of rows, found together; where that cannot be, one by one, and None for what is left out."""
    from hub_mim.console import say

    def find(part: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
        needs = getattr(source, "needs_boxes", False)
        boxes = [given_boxes(row, form, "pixel")[:most] for row in part] if needs else None
        return list(source([row["image"] for row in part], boxes))

    try:
        return made_of(find, all_readable(rows))
    except (ValueError, TypeError, OSError) as error:
        if skipped is None:
            raise
        if len(rows) > 1:
            each = (Batch([row], rows.first + place) for place, row in enumerate(rows))
            return [_together(source, alone, form, most, skipped)[0] for alone in each]
        skipped.append(f"picture {rows.first}: {without_number(error, rows.first)}")
        say(f"left out {skipped[-1]}")
        return [None]


def _facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a row beside its regions."""
    size = {"image_width": row["image"].size[0], "image_height": row["image"].size[1]}
    return size | {name: row[name] for name in KEPT if row.get(name) is not None}


def _write(rows: list[dict[str, Any]], folder: Path, number: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for row in rows if row]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_plain(row.get(name)) for row in rows] for name in names}
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), buffer)
    return write_hashed(folder / f"{number:06}.parquet", buffer.getvalue().to_pybytes())


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _column(values: list[Any]) -> Any:
    import pyarrow as pa

    made = pa.array(values)
    if made.type == pa.list_(pa.list_(pa.float64())):
        return made.cast(pa.list_(pa.list_(pa.float32())))
    return made


def _join(files: list[Path], out: Path, overwrite: bool) -> dict[str, Any]:
    import pyarrow.parquet as pq

    rows = regions = width = 0
    tables = (pq.read_table(file) for file in files)
    with new_file(out, overwrite=overwrite) as partial:
        writer = None
        for table in tables:
            if not table.num_rows:  # all of a part were left out
                continue
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            counts = [len(each) for each in table.column("boxes")]
            rows, regions = rows + len(counts), regions + sum(counts)
            first = next((each for each in table.column("features") if len(each)), None)
            width = width or (0 if first is None else len(first[0]))
        if writer is None:
            raise ValueError("there are no pictures, or none can be read")
        writer.close()
    return {"made": str(out), "rows": rows, "regions": regions, "width": width}
