"""Around the writing of a checkpoint by transformers' Trainer: a full disk, and the names of the weights."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import PreTrainedModel

from hub_mim.checkpoints import MARKER, numbered
from hub_mim.files import first_line


@contextmanager
def removed_unless_whole(folder: Path) -> Iterator[None]:
    """Remove a checkpoint that cannot be written, which makes room on a full disk; earlier ones are kept.

    Raises:
        OSError: it could not be written; the message says what there is to go on from.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch says nothing of a full disk, hence the space
        free = shutil.disk_usage(folder.parent).free / 2**20
        shutil.rmtree(folder, ignore_errors=True)
        earlier = next((place.name for place in numbered(folder.parent) if (place / MARKER).is_file()), "the beginning")
        raise OSError(
            f"{folder.name} could not be written ({free:.1f} MB were free on the disk): {first_line(error)}; mend that, and the "
            f"same call goes on from {earlier}"
        ) from error


@contextmanager
def own_names(model: Any) -> Iterator[None]:
    """Save weights under the names that the model has, not under those of old releases.

    transformers 5.23 writes ViT, Swin and others in their old layout, which `from_pretrained` reads and Trainer does not:
    resuming and loading the best step would leave every renamed weight as it is, with a warning only.
    """
    usual = getattr(model, "save_pretrained", None)
    if not isinstance(model, PreTrainedModel) or usual is None:
        yield
        return
    model.save_pretrained = partial(usual, save_original_format=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        del model.save_pretrained
