"""Read stored regions: LXMERT's tsv, UNITER's npz, our parquet. Everything is checked, nothing is unpickled.

A region row is a dict: `id`, `boxes` (N, 4) corners in [0, 1], `features` (N, D), and where known `confidence` (N,),
`object_labels`, `object_confidence`, `attribute_labels`, `attribute_confidence` (N,), `soft_labels` (N, C, background first).
"""

import base64
import binascii
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hub_mim import unpacking
from hub_mim_regions.boxes import normalised

LXMERT_FIELDS = (
    "img_id",
    "img_h",
    "img_w",
    "objects_id",
    "objects_conf",
    "attrs_id",
    "attrs_conf",
    "num_boxes",
    "boxes",
    "features",
)
ARRAYS = ("norm_bb", "features", "conf", "soft_labels")  # of UNITER's files
LONGEST = 256 * 2**20  # bytes of one field; more is no region file


def read_regions(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield region rows of a file: .tsv (LXMERT), .npz (UNITER, one picture), .parquet, or a folder of npz files.

    Raises:
        ValueError: another ending, or a file that is not what its ending says; the message names the row.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.npz"))
        if not files:
            raise ValueError(f"{path} holds no npz files")
        for file in files:
            yield read_npz(file)
    elif path.suffix == ".tsv":
        yield from read_tsv(path)
    elif path.suffix == ".npz":
        yield read_npz(path)
    elif path.suffix == ".parquet":
        yield from read_parquet(path)
    else:
        raise ValueError(
            f"cannot read regions from {path}: the ending must be .tsv, .npz or .parquet, or it is a folder of npz"
        )


def read_tsv(path: str | Path, *, order: str = "xyxy") -> Iterator[dict[str, Any]]:
    """Yield the rows of a file as LXMERT's authors share them: base64 columns, boxes in pixels.

    Features come from a detector that pools before its last layer, so none is negative; the reader tells where one is.
    """
    csv.field_size_limit(LONGEST)
    with open(path, encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file, LXMERT_FIELDS, delimiter="\t", quoting=csv.QUOTE_NONE)):
            try:
                yield _tsv_row(row, order)
            except (ValueError, TypeError, binascii.Error) as error:
                raise ValueError(f"{path}, row {number}: {error}") from error


def _tsv_row(row: dict[str, Any], order: str) -> dict[str, Any]:
    if row.get("features") is None or None in row:
        raise ValueError(f"it has not the {len(LXMERT_FIELDS)} columns of LXMERT's files ({', '.join(LXMERT_FIELDS)})")
    count, high, wide = (int(row[name]) for name in ("num_boxes", "img_h", "img_w"))
    if not 0 <= count <= 10_000:
        raise ValueError(f"num_boxes is {count}")

    def column(name: str, kind: Any, width: int | None = None) -> np.ndarray:
        values = np.frombuffer(base64.b64decode(row[name], validate=True), kind)
        if width is None:
            if len(values) % max(1, count):
                raise ValueError(f"{name} holds {len(values)} numbers, which {count} boxes do not share evenly")
            return values.reshape(count, -1)
        if len(values) != count * width:
            raise ValueError(f"{name} holds {len(values)} numbers for {count} boxes, not {count * width}")
        return values.reshape(count, width) if width > 1 else values

    made = {
        "id": row["img_id"],
        "boxes": normalised(column("boxes", np.float32, 4), (wide, high), order),
        "features": column("features", np.float32),
        "object_labels": column("objects_id", np.int64, 1),
        "object_confidence": column("objects_conf", np.float32, 1),
        "attribute_labels": column("attrs_id", np.int64, 1),
        "attribute_confidence": column("attrs_conf", np.float32, 1),
        "image_size": (wide, high),
    }
    return check_features(made)


def check_features(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose features are numbers, and confidences between 0 and 1.

    Raises:
        ValueError: they are not.
    """
    if not np.isfinite(row["features"]).all():
        raise ValueError("features hold values that are no numbers")
    check_confidences(row)
    return row


def check_confidences(row: Mapping[str, Any]) -> None:
    """Check that confidences are between 0 and 1.

    Raises:
        ValueError: they are not, or are no numbers.
    """
    for name in ("confidence", "object_confidence", "attribute_confidence"):
        values = None if row.get(name) is None else np.asarray(row[name])
        if values is not None and values.size and not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{name} reaches from {values.min()} to {values.max()}, not within 0 to 1")


def frcnn_ready(features: np.ndarray, width: int = 2048) -> None:
    """Check features for weights trained on the detector of Anderson et al. 2018, whose average pooling follows a ReLU.

    Raises:
        ValueError: another width, or negative values: features of another network, or normalised ones.
    """
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features have the shape {features.shape}; these weights take (regions, {width})")
    if len(features) and features.min() < 0:
        raise ValueError(
            f"features reach down to {features.min():.3g}; those of the detector that these weights were trained on are never "
            "below 0, so they are of another network, or were normalised"
        )


def read_npz(path: str | Path) -> dict[str, Any]:
    """Read one picture's regions as UNITER's authors store them: `features`, `norm_bb`, `conf`, `soft_labels`.

    Raises:
        ValueError: it is no npz file without pickles, or lacks an array.
    """
    held = unpacking.read_npz(path)
    missing = [name for name in ("features", "norm_bb") if name not in held]
    if missing:
        raise ValueError(f"{path} has no {missing[0]!r}; it has {', '.join(held) or 'nothing'}")
    words = [name for name, array in held.items() if name in ARRAYS and array.dtype.kind not in "fiub"]
    if words:
        raise ValueError(f"{path}: {words[0]} holds {held[words[0]].dtype}, not numbers")
    boxes, features = held["norm_bb"].astype(np.float32), held["features"].astype(np.float32)
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6, 7) or features.ndim != 2 or len(boxes) != len(features):
        raise ValueError(f"{path}: norm_bb {boxes.shape} and features {features.shape} do not fit together")
    made: dict[str, Any] = {"id": Path(path).stem, "boxes": normalised(boxes[:, :4]), "features": features}
    if "conf" in held:
        made["confidence"] = held["conf"].astype(np.float32).reshape(-1)
    if "soft_labels" in held:
        made["soft_labels"] = held["soft_labels"].astype(np.float32)
    try:
        return check_features(made)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_parquet(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows that `hub-mim regions` wrote."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise ValueError(f"cannot read {path} as parquet: {error}") from error
    missing = {"boxes", "features"} - set(file.schema_arrow.names)
    if missing:
        raise ValueError(f"{path} holds no regions: it lacks {', '.join(sorted(missing))}")
    try:
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield {name: as_array(name, value) for name, value in row.items() if value is not None}
    except (pyarrow.ArrowInvalid, OSError, TypeError) as error:
        raise ValueError(f"cannot read {path} as regions: {error}") from error


def as_array(name: str, value: Any) -> Any:
    """Return a column of a region row as an array, other values as they are."""
    if name in ("boxes", "features", "soft_labels"):
        return np.asarray(value, np.float32).reshape(len(value), -1)
    if name.endswith("labels"):
        return np.asarray(value, np.int64)
    return np.asarray(value, np.float32) if name.endswith("confidence") else value


def keep_confident(row: dict[str, Any], threshold: float = 0.2, least: int = 10, most: int = 100) -> dict[str, Any]:
    """Keep a picture's most confident regions: those above the threshold, between `least` and `most` of them.

    Source: UNITER's code; LXMERT keeps exactly 36 (`least` = `most`).
    """
    scores = row.get("confidence", row.get("object_confidence"))
    if scores is None:
        chosen = np.arange(min(most, len(row["boxes"])))
    else:
        count = int(np.clip((scores > threshold).sum(), least, most))
        chosen = np.sort(np.argsort(-scores, kind="stable")[:count])
    return {
        name: value[chosen] if isinstance(value, np.ndarray) and len(value) == len(row["boxes"]) else value
        for name, value in row.items()
    }
