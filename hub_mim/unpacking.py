"""Open zip files of strangers (npz, torch's own format): no pickle, and no more memory than the file may ask for."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

FREE = 64 * 2**20  # bytes that any file may unpack to
RATIO = 200  # times its own size that a larger one may; arrays of numbers stay far below, a bomb reaches 1000


def check_zip(path: str | Path) -> None:
    """Raise where a zip file would unpack to far more than it holds; nothing is said of other files.

    Raises:
        ValueError: a bomb, or an encrypted file.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as stored:
        members = stored.infolist()
    whole, held = sum(each.file_size for each in members), Path(path).stat().st_size
    if whole > max(FREE, RATIO * held):
        raise ValueError(f"it unpacks to {whole} bytes, {whole // held} times its size; no file of arrays does")
    if any(each.flag_bits & 1 for each in members):
        raise ValueError("it is encrypted")


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    """Read all arrays of an npz file; a header that claims more than its member holds is refused before it costs memory.

    Raises:
        ValueError: it is no npz file, holds Python objects, is damaged, or a bomb.
    """
    import numpy as np

    try:
        check_zip(path)
        with zipfile.ZipFile(path) as stored:
            for member in stored.infolist():
                _check_header(stored, member)
        with np.load(path, allow_pickle=False) as arrays:
            return {name: np.array(arrays[name]) for name in arrays.files}
    except Exception as error:  # zip, zlib and numpy have a dozen kinds; all mean the same to the caller
        raise ValueError(f"cannot read {path} as npz without pickles: {type(error).__name__}: {error}") from error


def _check_header(stored: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    import math

    from numpy.lib import format

    readers: dict[tuple[int, int], Any] = {(1, 0): format.read_array_header_1_0, (2, 0): format.read_array_header_2_0}
    with stored.open(member) as file:
        version = format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{member.filename} has the version {version} of numpy's format")
        shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    if math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} claims the shape {shape}, and holds {member.file_size} bytes")
