"""Start a verb on several processes of this machine, by torch's own launcher."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hub_mim.console import say


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
    """Run `hub-mim` with these arguments on so many processes; returns the exit status.

    Processes of a CPU share its cores. SIGTERM is passed on. Where a process dies, torchrun ends the others.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
    threads = str(max(1, (os.cpu_count() or 1) // count))
    environment = {"OMP_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1", **os.environ}
    process = subprocess.Popen([*command, "-m", "hub_mim", *arguments], env=environment)
    asked: list[int] = []

    def pass_on(number: int, frame: Any) -> None:
        asked.append(number)
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        status = process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
    if asked:  # torchrun's own status tells of the signal, not of what the processes did
        say("hub-mim: stopped, as asked by SIGTERM; the same command goes on from the last complete checkpoint")
        return 0
    if status:
        say(
            f"hub-mim: error: one of the {count} processes ended with a fault, and so the others were ended; what it said "
            "stands above. The same command goes on from the last complete checkpoint."
        )
    return status


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
