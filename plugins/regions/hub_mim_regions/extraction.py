"""Regions of many pictures into one parquet file: batched, with progress, going on where an interrupted call stopped."""

import shutil
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hub_mim.files import new_file, read_json, refuse_overwrite, write_json
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
    Returns:
        What was made: file, rows, regions, width.
    Raises:
        ValueError: another ending, unreadable pictures, a backend that does not exist.
        FileExistsError: `out` is there and `overwrite` is false.
    """
    out = refuse_overwrite(out, overwrite)
    if out.suffix != ".parquet":
        raise ValueError(f"{out.name} must end in .parquet")
    parts = out.with_name(f".{out.name}.parts")
    settings: dict[str, Any] = {
        "images": str(images),
        "backend": backend,
        "model": model,
        "options": dict(options or {}),
    }
    settings |= {"max_regions": max_regions, "box_form": box_form, "split": split, "id": id}
    files = _finished(parts, settings)
    start = len(files) * PART
    found = (
        _stored(images, max_regions, start)
        if backend == "stored"
        else _found(images, backend, model, options or {}, max_regions, box_form, split, id, batch_size, start)
    )
    pending: list[dict[str, Any]] = []
    for row in found:
        pending.append(row)
        if len(pending) == PART:
            files.append(_write(pending, parts, len(files)))
            pending = []
    if pending:
        files.append(_write(pending, parts, len(files)))
    if not files:
        raise ValueError(f"{images} has no pictures")
    told = _join(files, out, overwrite)
    shutil.rmtree(parts, ignore_errors=True)
    if show is not None:
        from hub_mim_regions.drawing import draw_file

        draw_file(out, images, show, split=split, overwrite=overwrite)
        told["picture"] = str(show)
    return told


def _finished(parts: Path, settings: Mapping[str, Any]) -> list[Path]:
    known = parts / "settings.json"
    if known.is_file() and read_json(known) == dict(settings):
        return sorted(parts.glob("*.parquet"))
    shutil.rmtree(parts, ignore_errors=True)
    write_json(known, dict(settings))
    return []


def _stored(path: Any, most: int, start: int) -> Iterator[dict[str, Any]]:
    from hub_mim_regions.readers import keep_confident

    for row in islice(read_regions(path), start, None):
        yield keep_confident(row, least=most, most=most)


def _found(
    images: Any,
    backend: str,
    model: str | None,
    options: Mapping[str, Any],
    most: int,
    form: str,
    split: str | None,
    id: str | None,
    batch_size: int,
    start: int,
) -> Iterator[dict[str, Any]]:
    from hub_mim.console import CountLine
    from hub_mim.data import batches, column_names, load_rows

    rows = load_rows(images, split=split)
    names = column_names(rows)
    if "image" not in names:
        raise ValueError(f"there is no column 'image' among {', '.join(names)}")
    source = make_source(backend, model, **options)
    line = CountLine("pictures", start, len(rows))
    done = start
    for part in batches(rows.skip(start) if start else rows, batch_size):
        boxes = (
            [given_boxes(row, form, "pixel")[:most] for row in part] if getattr(source, "needs_boxes", False) else None
        )
        for number, (row, region) in enumerate(zip(part, source([row["image"] for row in part], boxes), strict=True)):
            own = {name: row[name] for name in KEPT if row.get(name) is not None}
            size = {"image_width": row["image"].size[0], "image_height": row["image"].size[1]}
            yield {"id": row[id] if id else done + number} | size | region | own
        done += len(part)
        line.show(done)
    line.end()


def _write(rows: list[dict[str, Any]], folder: Path, number: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: [_plain(row.get(name)) for row in rows] for name in names}
    path = folder / f"{number:06}.parquet"
    with new_file(path, overwrite=True) as partial:
        pq.write_table(pa.table({name: _column(values) for name, values in columns.items()}), partial)
    return path


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
    with new_file(out, overwrite=overwrite) as partial:
        writer = None
        for file in files:
            table = pq.read_table(file)
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            counts = [len(each) for each in table.column("boxes")]
            rows, regions = rows + len(counts), regions + sum(counts)
            first = next((each for each in table.column("features") if len(each)), None)
            width = width or (0 if first is None else len(first[0]))
        assert writer is not None
        writer.close()
    return {"made": str(out), "rows": rows, "regions": regions, "width": width}
