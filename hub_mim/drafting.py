"""JPEG files decoded at a half, a quarter or an eighth of their size, which costs less, where they are made smaller anyway."""

from dataclasses import dataclass
from io import BytesIO
from typing import Any

from datasets import Image
from datasets.utils.file_utils import is_local_path
from PIL import ExifTags, ImageOps
from PIL import Image as Pictures

from hub_mim.reading import picture_columns

WHOLE = "whole_size"  # width and height of the whole picture, in the `info` of one that was decoded smaller


@dataclass
class DraftImage(Image):
    """A column of pictures whose JPEG files are decoded smaller.

    Args:
        side: no side becomes shorter than so many pixels by it.
    """

    side: int = 1

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """Decode bytes and files of this machine smaller, and any other as `datasets` does."""
        if not isinstance(value, dict) or (value["bytes"] is None and not is_local_path(value["path"] or "")):
            return super().decode_example(value, token_per_repo_id)
        picture = drafted(opened(value), self.side)
        return picture.convert(self.mode) if self.mode and self.mode != picture.mode else picture


def with_drafts(rows: Any, side: int) -> Any:
    """Return rows, or a stream, whose pictures are decoded by `DraftImage`.

    Raises:
        ValueError: there is no column of pictures.
    """
    columns = picture_columns(rows)
    if not columns:
        raise ValueError("the rows have no column of pictures to decode smaller; leave out draft_side (--draft-side)")
    for name in columns:
        rows = rows.cast_column(name, DraftImage(mode=rows.features[name].mode, side=side))
    return rows


def opened(stored: dict[str, Any]) -> Any:
    """Open a picture as a column holds it: `bytes`, or the `path` of a file."""
    return Pictures.open(BytesIO(stored["bytes"]) if stored["bytes"] is not None else stored["path"])


def drafted(picture: Any, side: int) -> Any:
    """Decode an opened picture, upright as its camera says; a JPEG smaller where no side becomes shorter than `side` by it."""
    whole = picture.size
    picture.draft(None, (side, side))
    shrunk = picture.size != whole
    turned = picture.getexif().get(ExifTags.Base.Orientation, 1) > 4
    ImageOps.exif_transpose(picture, in_place=True)
    if shrunk:
        picture.info[WHOLE] = whole[::-1] if turned else whole
    return picture


def whole_size(picture: Any) -> tuple[int, int]:
    """Return the width and height of a picture, PIL's or an array (H, W, ...), as it was before it was decoded smaller."""
    if not hasattr(picture, "info"):
        high, wide = picture.shape[:2]
        return wide, high
    size: tuple[int, int] = picture.info.get(WHOLE, picture.size)
    return size
