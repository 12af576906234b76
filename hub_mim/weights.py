"""Read weights from files of strangers: safetensors, torch, npz, msgpack. No code in a file is ever executed."""

import mmap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hub_mim.unpacking import check_zip, read_npz

NESTS = ("model", "state_dict", "params", "module")  # where checkpoints keep their weights, looked up in this order


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read every tensor of a checkpoint file, by its full name.

    A file that holds more than weights (an optimiser, arguments) is entered by the first of `NESTS` that is a mapping,
    again and again; nested mappings become names joined by dots.

    Args:
        path: .safetensors, .pt, .pth, .bin, .ckpt (torch, weights only), .npz, or .msgpack (flax).
    Raises:
        FileNotFoundError: no such file.
        ValueError: the ending is unknown, the file is damaged, needs code to be executed, or holds no tensor.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"cannot read weights from {path.name}; the endings known are {', '.join(sorted(_READERS))}")
    try:
        check_zip(path)
        weights = flatten(enter(reader(path)))
    except Exception as error:  # every reader has errors of its own; all mean the same to the caller
        told = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise ValueError(f"cannot read weights from {path.name}: {told}") from error
    if not weights:
        raise ValueError(f"{path.name} holds no tensors")
    return weights


def enter(content: Any) -> Any:
    """Go down to the mapping that holds the weights; see `NESTS`."""
    while isinstance(content, Mapping):
        inner = next((content[name] for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            return content
        content = inner
    return content


def flatten(content: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return the tensors of nested mappings by dotted names; what is no tensor is left out."""
    if isinstance(content, Tensor):
        return {prefix: content}
    if not isinstance(content, Mapping):
        return {}
    weights: dict[str, Tensor] = {}
    for name, value in content.items():
        weights |= flatten(value, f"{prefix}.{name}" if prefix else str(name))
    return weights


def _read_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _read_torch(path: Path) -> Any:
    import argparse

    # training checkpoints often hold their arguments; a Namespace is plain data, so it may be read
    with torch.serialization.safe_globals([argparse.Namespace]):
        if zipfile.is_zipfile(path):
            return torch.load(path, map_location="cpu", weights_only=True)
        # of before torch 1.6: reading from memory, unlike from a file, makes no room for more than there is
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return torch.load(content, map_location="cpu", weights_only=True)  # type: ignore[arg-type]


def _read_npz(path: Path) -> Any:
    return {name: torch.from_numpy(array) for name, array in read_npz(path).items() if array.dtype.kind not in "SU"}


def _read_msgpack(path: Path) -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise ImportError("reading msgpack needs the extra: pip install hub-mim[convert]") from error
    data = path.read_bytes()
    return msgpack.unpackb(data, ext_hook=_flax_value, object_hook=_join_chunks, raw=False, strict_map_key=False)


def _join_chunks(mapping: dict[Any, Any]) -> Any:
    """Join an array that flax cut because it is larger than 1 GiB; lists are mappings from "0", "1", ... there."""
    if not mapping.get("__msgpack_chunked_array__"):
        return mapping
    shape, chunks = ([mapping[key][str(i)] for i in range(len(mapping[key]))] for key in ("shape", "chunks"))
    return torch.cat(chunks).reshape(shape)


def _flax_value(code: int, data: bytes) -> Any:
    """Decode flax's extension types: 1 = array, 3 = scalar array, both (shape, dtype name, bytes)."""
    import msgpack
    import numpy as np

    if code not in (1, 3):
        return None  # 2 is a Python complex number: never a weight
    shape, dtype, content = msgpack.unpackb(data, raw=True)
    name = dtype.decode()
    if name == "bfloat16":
        return torch.frombuffer(bytearray(content), dtype=torch.bfloat16).reshape(tuple(shape))
    return torch.from_numpy(np.frombuffer(content, dtype=np.dtype(name)).reshape(shape).copy())


_READERS = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".msgpack": _read_msgpack,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), _read_torch),
}
