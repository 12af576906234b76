"""The commands under test that need a Hub, and the Hub itself: one that is served beside the trials, one that is broken."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import made
from trials import LIMIT, NEW, OLD, Command

KILLS = Path(__file__).resolve().parents[2] / "plugins" / "localhub" / "tests" / "test_kills.py"


def push(network: bool) -> Command:
    import hub_mim

    def name(folder: Path) -> str:
        return f"me/{folder.name.replace('_', 'x').lower()}"

    def prepare(folder: Path) -> None:
        for each in ("old", "next"):
            shutil.copytree(made.MADE / each, folder / each)
        hub_mim.push(folder / "old", name(folder))

    def run(folder: Path) -> None:
        with patch("tempfile.tempdir", str(folder)):
            hub_mim.push(folder / "next", name(folder))

    def state(folder: Path) -> str:
        with tempfile.TemporaryDirectory() as place:
            hub_mim.pull(name(folder), Path(place) / "copy")
            return made.checkpoint_state(Path(place) / "copy", {"1": OLD, "2": NEW})

    return Command("push (network)" if network else "push", prepare, run, state, OLD, network, elsewhere=True)


def pull(network: bool) -> Command:
    import hub_mim

    def prepare(folder: Path) -> None:
        shutil.copytree(made.MADE / "old", folder / "copy")

    def run(folder: Path) -> None:
        from huggingface_hub import constants

        with patch.object(constants, "HF_HUB_CACHE", str(folder / "hub-cache")):
            hub_mim.pull("me/next", folder / "copy", overwrite=True)

    def state(folder: Path) -> str:
        return made.checkpoint_state(folder / "copy", {"1": OLD, "2": NEW})

    name, fetched = "pull (network)" if network else "pull", ("hub-cache/*/blobs/*",)
    return Command(name, prepare, run, state, OLD, network, hashed=fetched)


def serve() -> Command:
    """Return the command whose writes are those of the server, while another process pushes two files that belong together."""
    kills = _kills()

    def prepare(folder: Path) -> None:
        from hub_mim_localhub.testing import running_hub

        with running_hub(folder / "hub") as hub:
            hub.api().create_repo("me/x")
            kills.push(hub.api(), 1)

    def run(folder: Path) -> None:
        from hub_mim_localhub.testing import running_hub

        client, address = _client(kills.push)
        try:
            with running_hub(folder / "hub") as hub:
                address.write(json.dumps([hub.endpoint, hub.token]).encode())
                address.close()
                status = os.waitstatus_to_exitcode(os.waitpid(client, 0)[1])
        finally:
            address.close()
        if status:
            raise RuntimeError("the push failed")

    def state(folder: Path) -> str:
        _, number, faults = kills.look(folder / "hub")
        return "; ".join(faults) or {1: OLD, 2: NEW}.get(number, f"commit {number}")

    return Command("serve", prepare, run, state, OLD, hashed=None)  # how a database rots is SQLite's affair


def _kills() -> Any:
    """Return the Hub's own tests of kills, whose push and whose look at the folder are used here."""
    told = importlib.util.spec_from_file_location("localhub_kills", KILLS)
    assert told is not None
    assert told.loader is not None
    module = importlib.util.module_from_spec(told)
    told.loader.exec_module(module)
    return module


def _client(push: Any) -> tuple[int, Any]:
    """Start a process that pushes to the Hub of whom it is told through a pipe; returns its number and the pipe."""
    from huggingface_hub import HfApi

    reader, writer = os.pipe()
    client = os.fork()
    if client:
        os.close(reader)
        return client, os.fdopen(writer, "wb")
    os.close(writer)
    signal.alarm(LIMIT)
    status = 1
    try:
        with os.fdopen(reader, "rb") as pipe:
            endpoint, token = json.loads(pipe.read())
        push(HfApi(endpoint=endpoint, token=token), 2)
        status = 0
    finally:
        os._exit(status)


def hub_commands() -> list[Command]:
    """Return them all."""
    return [push(False), push(True), pull(False), pull(True), serve()]


@contextmanager
def served(place: Path) -> Iterator[bool]:
    """Serve a Hub from another process, and connect this one; False where there is none to serve."""
    from importlib.util import find_spec

    if find_spec("hub_mim_localhub") is None:
        yield False
        return
    command = [sys.executable, "-m", "hub_mim", "serve", str(place / "hub"), "--port", "0", "--user", "me"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        endpoint = process.stdout.readline().strip().partition("=")[2]  # type: ignore[union-attr]
        token = (place / "hub" / "token").read_text().strip()
        from huggingface_hub import constants, hf_api

        constants.ENDPOINT = hf_api.api.endpoint = endpoint
        constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_XET = False, True
        constants.HF_HUB_CACHE = str(place / "cache")
        os.environ["HF_TOKEN"] = token
        yield True
    finally:
        process.terminate()
        process.wait()
