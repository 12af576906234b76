"""The folder of a run while it is trained: who may write there, and the checkpoint that an interrupted run goes on from."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hub_mim.checkpoints import LOCK, exclusive, last_complete, numbered
from hub_mim.console import say
from hub_mim.files import refuse_overwrite
from hub_mim.run import FILE, Run

CHECKPOINTS = "checkpoints"


def interrupted_run(out: Path, overwrite: bool) -> Run | None:
    """Return the record of an interrupted run in a folder, None where the folder is free or may be overwritten.

    Raises:
        FileExistsError: the folder holds something else, and `overwrite` is false.
    """
    if not overwrite and (out / CHECKPOINTS / FILE).is_file():
        return Run.load(out / CHECKPOINTS)
    if not _barely_begun(out):
        refuse_overwrite(out, overwrite)
    return None


def _barely_begun(out: Path) -> bool:
    """Tell whether all that a folder holds is the lock of a run that ended before it wrote its record."""
    if not (out / CHECKPOINTS).is_dir() or len(list(out.iterdir())) > 1:
        return False
    return all(path.name == LOCK or path.name.startswith(".") for path in (out / CHECKPOINTS).iterdir())


def written(out: Path) -> list[int]:
    """Return when the records of a folder's runs were written, 0 for one that is not there."""
    return [path.stat().st_mtime_ns if path.is_file() else 0 for path in (out / FILE, out / CHECKPOINTS / FILE)]


@contextmanager
def open_folder(out: Path, run: Run, earlier: Run | None, looked: list[int]) -> Iterator[Path | None]:
    """Put the run's record into `checkpoints/` and give the checkpoint to go on from, if any.

    Args:
        out: folder of the run.
        run: the record of what is about to be trained.
        earlier: the record of an interrupted run there; without one, old checkpoints are deleted.
        looked: what `written` told when `earlier` was looked for.
    Raises:
        ValueError: the interrupted run had other settings.
        RuntimeError: another process is training into the folder, or has since then.
    """
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    difference = earlier.difference(run) if earlier else None
    if difference:
        raise ValueError(
            f"{out} holds an interrupted run with other settings: {difference}; repeat those, or pass overwrite=True "
            "(--overwrite) to start anew"
        )
    state = PartialState()
    state.wait_for_everyone()  # every process has looked before the first one writes
    folder = out / CHECKPOINTS
    with exclusive(folder) if state.is_main_process else nullcontext():
        found: list[Any] = [None]
        if state.is_main_process:
            if written(out) != looked:
                raise RuntimeError(f"another process trained into {out} in the meantime; look at it, and call again")
            found[0] = _choose_checkpoint(folder, run, earlier)
            run.save(folder)
        if state.num_processes > 1:
            broadcast_object_list(found)
        yield found[0]


def _choose_checkpoint(folder: Path, run: Run, earlier: Run | None) -> Path | None:
    """Return the checkpoint that the run goes on from, after deleting those that it cannot use."""
    checkpoint = None
    if earlier is not None:
        run.started = earlier.started
        others = earlier.other_versions(run)
        if others:
            say(f"going on with other versions than before, so the numbers may differ: {others}")
        if earlier.processes != run.processes:
            say(
                f"going on with another number of processes, {run.processes} instead of {earlier.processes}, and as many rows a "
                "step: rows, their order and masks stay what they were; sums differ by rounding, and dropout is drawn anew"
            )
        checkpoint = last_complete(folder)
    for newer in numbered(folder):
        if newer == checkpoint:
            break
        shutil.rmtree(newer)
    return checkpoint
