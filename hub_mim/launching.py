"""Start a verb on several processes of this machine, by torch's own launcher."""

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from hub_mim.console import say
from hub_mim.secrets import hide

CHILD = "HUB_MIM_LAUNCHER"  # in the environment of the processes that `launch` starts: its own number
SETTLING = 0.02  # seconds
USAGE = 2  # the exit status of wrong usage, which each process has told


def running() -> bool:
    """Tell whether a launcher (torchrun, accelerate) started this process."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def count_of(asked: str) -> int:
    """Return how many processes to start: a number, or "auto" for one a GPU.

    Raises:
        ValueError: neither, more than there are GPUs, or "auto" where there are none.
    """
    import torch

    devices = torch.cuda.device_count()
    if asked == "auto":
        if not devices:
            raise ValueError("there is no GPU here to count; give a number of processes instead of --launch auto")
        return devices
    if not asked.isdigit() or int(asked) < 1:
        raise ValueError(f'--launch takes a number above 0 or "auto", not {asked!r}')
    if devices and int(asked) > devices:
        raise ValueError(f"--launch {asked} asks for more processes than there are GPUs ({devices})")
    return int(asked)


def launch(count: int, arguments: Sequence[str]) -> int:
    """Run `hub-mim` with these arguments on so many processes, by torch's launcher; returns the exit status.

    Processes of a CPU share its cores. SIGTERM is passed on. Where a process dies, the others are ended, and what ended the
    first of them is told once.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = str(max(1, (os.cpu_count() or 1) // count))
    os.environ |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads), CHILD: str(os.getpid())}
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # pages on what is told in a line below
    place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": uuid.uuid4().hex}
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=count, max_restarts=0, **place)  # type: ignore[arg-type]
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "hub_mim", *arguments)
    except SignalException as asked:
        if asked.sigval == signal.SIGINT:
            say("hub-mim: interrupted")
            return 130
        say(
            f"hub-mim: stopped, as asked by {asked.sigval.name}; the same command goes on from the last complete checkpoint"
        )
        return 0
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=_rank_of_cause)
        if failure.exitcode == USAGE:
            return USAGE
        say(_told(rank, count, failure))
        return 1
    return 0


def _rank_of_cause(told: tuple[int, Any]) -> tuple[bool, bool, int]:
    """Sort failures: one that was killed takes the others with it, whose errors are about that, and SIGTERM is ours."""
    failure = told[1]
    return failure.exitcode == -signal.SIGTERM, failure.exitcode >= 0, failure.timestamp


def _told(rank: int, count: int, failure: Any) -> str:
    if failure.exitcode < 0:
        why = "; out of memory?" if failure.exitcode == -signal.SIGKILL else ""
        return (
            f"hub-mim: error: process {rank} of {count} was ended by {failure.signal_name()}{why}, and so the others were "
            "ended too; the same command goes on from the last complete checkpoint"
        )
    if "message" not in failure.error_file_data:
        return (
            f"hub-mim: error: process {rank} of {count} ended with status {failure.exitcode}; what it said stands above"
        )
    return f"hub-mim: error: {failure.message}"


def report(error: BaseException) -> bool:
    """Leave an error for the launcher, which tells the first of all processes' once; False where `launch` started none."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if CHILD not in os.environ or not path:
        return False
    told = hide(str(error)) or f"{type(error).__name__}; see --debug"
    Path(path).write_text(json.dumps({"message": told, "timestamp": int(time.time())}), encoding="utf-8")
    return True


def leave_others() -> None:
    """Leave the group of processes in which a call has succeeded.

    gloo's threads let go of the last tensors that were exchanged a moment after the exchange. Where the interpreter is
    ending by then they find no lock of it to take, and the process is aborted although its work is done. After an error
    the group is left alone: to leave it is to wait for exchanges that others may never enter.
    """
    if "torch" in sys.modules and running():
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


@cache
def settle_before_forks() -> None:
    """Wait a moment before each fork of this process, so that no thread of gloo is about to free a tensor.

    Such a thread makes itself known to Python under a lock. Held at the moment of a fork, the worker that was forked waits
    for it for ever, and all processes for the worker (Python 3.11; 3.12 makes the lock anew). The sleep lets go of what the
    thread waits for.
    """
    if sys.version_info < (3, 12):
        os.register_at_fork(before=partial(time.sleep, SETTLING))


def end_with_launcher() -> None:
    """Ask the system to stop this process (SIGTERM) when the launcher dies, which could not end it any more; Linux alone."""
    if CHILD in os.environ and sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != int(os.environ[CHILD]):
            sys.exit(1)


def without(arguments: Sequence[str], option: str) -> list[str]:
    """Return arguments without an option and its value."""
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == option:
            skip = True
        elif not argument.startswith(f"{option}="):
            kept.append(argument)
    return kept
