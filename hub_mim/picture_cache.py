"""Pictures decoded once: their pixels in one memory-mapped file, from which every later epoch and run reads.

Decoding a JPEG and shrinking it costs more than everything else between file and model. The cache keeps what a picture is after
both, in its own mode (8 or 16 bits, colours or classes), in `pictures.bin`, and where each is in `index.bin`. It is built in
order, goes on where it was interrupted, and belongs to the rows it was made from: their fingerprint is in `cache.json`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from hub_mim.checking import takes
from hub_mim.checkpoints import exclusive
from hub_mim.console import CountLine
from hub_mim.data import fingerprint
from hub_mim.files import first_line, read_json, write_json
from hub_mim.reading import picture_columns

FACTS, PIXELS, INDEX = "cache.json", "pictures.bin", "index.bin"
MODES = ("RGB", "L", "I;16", "I", "F", "RGBA")
RECORD = [("offset", "<u8"), ("size", "<u8"), ("wide", "<u4"), ("high", "<u4"), ("mode", "<u4"), ("spare", "<u4")]
FLUSH = 256  # rows between two writes to the index


class Place(NamedTuple):
    """Where the pictures of a row are: the folder, the columns, and the row's number in it."""

    folder: str
    columns: tuple[str, ...]


@takes(side=">=1")
def cached(rows: Any, folder: str | Path, side: int | None = None) -> Any:
    """Return the same rows with their pictures from a cache, which is built first where it is not whole.

    Args:
        rows: a `datasets.Dataset` with columns of pictures.
        folder: of the cache; made where it is not there.
        side: shrink pictures in colour until the shorter side has so many pixels (bilinear, never enlarged); None keeps them
            as they are. What a processor makes of them is the same only where it would have shrunk them to this size itself.
    Raises:
        ValueError: rows without pictures, a stream, a picture that cannot be read, or a folder with the pictures of other rows.
    """
    columns = picture_columns(rows)
    if not columns or not hasattr(rows, "__len__"):
        raise ValueError(
            "only rows of a known number with columns of pictures can be cached; leave out cache (--cache)"
        )
    folder = Path(folder)
    facts = {
        "fingerprint": fingerprint(rows),
        "columns": list(columns),
        "side": side,
        "rows": len(rows),
        "upright": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder, f"building the cache {folder}"):
        known = read_json(folder / FACTS) if (folder / FACTS).is_file() else None
        if known is not None and known != facts:
            told = next(name for name in facts if known.get(name) != facts[name])
            raise ValueError(
                f"{folder} holds pictures of other rows ({told} was {known.get(told)!r} and is now {facts[told]!r}); give "
                "another folder, or delete it"
            )
        if known is None:
            write_json(folder / FACTS, facts)
        _build(rows, folder, columns, side)
    plain = rows.add_column("_place", list(range(len(rows)))).remove_columns(list(columns))
    return plain.with_transform(partial(with_pictures, Place(str(folder.resolve()), columns)))


def with_pictures(place: Place, batch: dict[str, Any]) -> dict[str, Any]:
    """Return columns of rows with their pictures, read from the cache."""
    numbers = batch["_place"]
    found = {name: values for name, values in batch.items() if name != "_place"}
    for at, column in enumerate(place.columns):
        found[column] = [read(place.folder, len(place.columns) * number + at) for number in numbers]
    return found


def read(folder: str, number: int) -> Any:
    """Return one picture of a cache."""
    from PIL import Image

    pixels, index = _open(folder)
    told = index[number]
    start = int(told["offset"])
    size = int(told["wide"]), int(told["high"])
    return Image.frombytes(MODES[int(told["mode"])], size, pixels[start : start + int(told["size"])].tobytes())


_opened: dict[str, tuple[Any, Any]] = {}  # each process maps a cache once


def _open(folder: str) -> tuple[Any, Any]:
    import numpy as np

    if folder not in _opened:
        pixels = np.memmap(Path(folder) / PIXELS, np.uint8, "r")
        _opened[folder] = pixels, np.memmap(Path(folder) / INDEX, np.dtype(RECORD), "r")
    return _opened[folder]


def _build(rows: Any, folder: Path, columns: tuple[str, ...], side: int | None) -> None:
    """Add the pictures that are not there yet; what an interrupted call left of a row is cut off first."""
    import numpy as np
    from datasets import Image

    for column in columns:  # decoded here, so that a JPEG can be decoded smaller
        rows = rows.cast_column(column, Image(decode=False))
    kind = np.dtype(RECORD)
    (folder / INDEX).touch()
    (folder / PIXELS).touch()
    done = (folder / INDEX).stat().st_size // kind.itemsize // len(columns)
    if done >= len(rows):
        return
    _opened.pop(str(folder.resolve()), None)
    index = np.fromfile(folder / INDEX, kind, done * len(columns))
    offset = int(index[-1]["offset"] + index[-1]["size"]) if len(index) else 0
    line = CountLine("pictures cached", done, len(rows))
    with (folder / INDEX).open("r+b") as places, (folder / PIXELS).open("r+b") as pixels:
        places.truncate(done * len(columns) * kind.itemsize)
        places.seek(0, 2)
        pixels.truncate(offset)
        pixels.seek(offset)
        for start in range(done, len(rows), FLUSH):
            offset = _add(rows, range(start, min(start + FLUSH, len(rows))), columns, side, offset, pixels, places)
            line.show(min(start + FLUSH, len(rows)))
    line.end()


def _add(
    rows: Any, numbers: range, columns: tuple[str, ...], side: int | None, offset: int, pixels: Any, places: Any
) -> int:
    """Write the pictures of some rows, then where they are; returns the end."""
    import numpy as np

    from hub_mim.data import take

    records = []
    for number, row in zip(numbers, take(rows, numbers), strict=True):
        for column in columns:
            picture = _decoded(row[column], side, number)
            data = picture.tobytes()
            pixels.write(data)
            records.append((offset, len(data), *picture.size, MODES.index(picture.mode), 0))
            offset += len(data)
    pixels.flush()  # a picture that the index tells of is there
    places.write(np.array(records, np.dtype(RECORD)).tobytes())
    places.flush()
    return offset


def _decoded(stored: Any, side: int | None, row: int) -> Any:
    """Decode a picture as a file holds it, in a mode that is kept, a large one in colour made smaller.

    A JPEG of twice the size or more is decoded at a half, a quarter or an eighth of it (`draft`), which saves most of the work.
    """
    from PIL import Image, ImageOps

    from hub_mim.drafting import opened

    if stored is None:
        raise ValueError(f"row {row} has no picture; leave it out, or do without cache (--cache)")
    try:
        picture = opened(stored)
        if side is not None and picture.mode == "RGB":
            picture.draft("RGB", _size(picture.size, side))
        ImageOps.exif_transpose(picture, in_place=True)  # upright, as `datasets` gives it
        if picture.mode not in MODES:
            picture = picture.convert("L" if picture.mode == "1" else "RGB")
        size = picture.size if side is None or picture.mode != "RGB" else _size(picture.size, side)
        return picture.resize(size, Image.Resampling.BILINEAR) if size != picture.size else picture.copy()
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ValueError(f"the picture of row {row} cannot be read: {first_line(error)}") from error


def _size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height with the shorter one no longer than `side`."""
    shrink = min(1.0, side / min(size))
    return max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink))
