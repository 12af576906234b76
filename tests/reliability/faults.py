"""Break every write of every command in every way, and look at what is left: the old state or the new one, never a mixture.

    python tests/reliability/faults.py --sample 30 --out faults.json     # a seeded sample; without --sample all of them

One process imports everything once and forks for each trial. A trial runs a command in a folder of its own and breaks it at
one write point: an open for writing, a rename, a flush, a removal, a save by a library, or a request to a Hub. Then the folder
is read as a user would read it, the command is called again, and the folder must be what an undisturbed call makes.
"""

import argparse
import builtins
import errno
import hashlib
import importlib
import io
import json
import os
import pkgutil
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

LIMIT = 180  # seconds that a trial may take; a hang is a loss
DISK = ("kill", "torn", "full", "denied")
NETWORK = ("kill", "cut before", "cut after")
CONTENT = ("open", "fsync", "safetensors", "torch", "parquet")  # points at which a file's bytes are at stake
OLD, NEW, NOTHING = "old", "new", "nothing"


# --- write points --------------------------------------------------------------------------------------------------


class Breaker:
    """Count the write points below a folder, and break the one with a number.

    Args:
        root: only what is written below it counts. at: the number, 0 for none. fault: one of DISK or NETWORK.
    """

    def __init__(self, root: Path, at: int = 0, fault: str = "kill"):
        self.root, self.at, self.fault = str(root.resolve()), at, fault
        self.points: list[str] = []
        self.busy = False

    def point(self, kind: str, place: Any, then: Callable[[], Any]) -> Any:
        """Do a write, or break it."""
        path = self._path(place)
        if self.busy or path is None:
            return then()
        self.busy = True  # a library's write is one point, whatever it calls
        try:
            self.points.append(f"{kind} {Path(path).suffix or Path(path).name[-12:]}")
            if len(self.points) == self.at:
                self._break(kind, path, then)
            return then()
        finally:
            self.busy = False

    def request(self, then: Callable[[], Any], error: Callable[[], Exception]) -> Any:
        """Send a request, or break it; a network that is cut stays so."""
        self.points.append("request")
        if not self.at or len(self.points) < self.at:
            return then()
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "cut after" and len(self.points) == self.at:
            then()
        raise error()

    def _path(self, place: Any) -> str | None:
        if isinstance(place, int):
            place = f"/proc/self/fd/{place}"
        if not isinstance(place, str | os.PathLike):
            return None
        path = os.path.realpath(os.path.dirname(place)) + "/" + os.path.basename(place)
        path = os.path.realpath(place) if path.startswith("/proc/") else path
        return path if path.startswith(self.root + "/") else None

    def _break(self, kind: str, path: str, then: Callable[[], Any]) -> None:
        if self.fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self.fault == "denied":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        if self.fault == "torn":
            then()
            if kind in CONTENT and os.path.isfile(path):
                _spoil(path)
        os.kill(os.getpid(), signal.SIGKILL)


def _spoil(path: str) -> None:
    """Leave what a machine that loses its power leaves of a file that it has not flushed: half of it, and the end wrong."""
    content = _read(path)
    handle = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(handle, content[: len(content) // 2] + b"\xff\x00")
    os.close(handle)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@contextmanager
def broken(breaker: Breaker) -> Iterator[None]:
    """Send every write of this process through a breaker."""
    import httpx2
    import pyarrow.parquet
    import safetensors.torch
    import torch

    stack = ExitStack()

    def wrap(
        owner: Any, name: str, kind: str, which: int = 0, when: Callable[..., bool] = lambda *a, **k: True
    ) -> None:
        real = getattr(owner, name)

        def call(*given: Any, **options: Any) -> Any:
            if len(given) <= which or not when(*given, **options):
                return real(*given, **options)
            return breaker.point(kind, given[which], lambda: real(*given, **options))

        stack.enter_context(patch.object(owner, name, call))

    def writes(file: Any, mode: str = "r", *rest: Any, **options: Any) -> bool:
        return bool(set(options.get("mode", mode)) & set("wax+"))

    def flags(path: Any, given: int, *rest: Any, **options: Any) -> bool:
        return bool(given & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    for name in ("replace", "rename", "link", "symlink"):
        wrap(os, name, name, which=1)
    for name in ("unlink", "remove", "rmdir", "mkdir", "truncate", "fsync"):
        wrap(os, name, name)
    wrap(os, "open", "open", when=flags)
    wrap(builtins, "open", "open", when=writes)
    wrap(io, "open", "open", when=writes)
    wrap(safetensors.torch, "serialize_file", "safetensors", which=1)
    wrap(torch, "save", "torch", which=1)
    wrap(shutil, "rmtree", "rmtree")
    for name in ("write_table", "close"):
        real = getattr(pyarrow.parquet.ParquetWriter, name)

        def write(self: Any, *given: Any, _real: Any = real, **options: Any) -> Any:
            return breaker.point("parquet", getattr(self, "_where", None), lambda: _real(self, *given, **options))

        stack.enter_context(patch.object(pyarrow.parquet.ParquetWriter, name, write))
    init = pyarrow.parquet.ParquetWriter.__init__

    def start(self: Any, where: Any, *given: Any, **options: Any) -> None:
        self._where = str(where)
        breaker.point("parquet", self._where, lambda: init(self, where, *given, **options))

    stack.enter_context(patch.object(pyarrow.parquet.ParquetWriter, "__init__", start))
    if breaker.fault in NETWORK[1:] or getattr(breaker, "network", False):
        send = httpx2.Client.send

        def sent(self: Any, *given: Any, **options: Any) -> Any:
            return breaker.request(
                lambda: send(self, *given, **options), lambda: httpx2.ConnectError("the network is cut")
            )

        stack.enter_context(patch.object(httpx2.Client, "send", sent))
    with stack:
        yield


# --- trials --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command under test.

    Attributes:
        name: of it. prepare: (folder) -> lays out what it needs, and the old state. run: (folder) -> the call.
        state: (folder) -> OLD, NEW, NOTHING, or what is wrong; as a reader sees it. start: the state before.
        network: its points are requests to a Hub, not writes.
    """

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], Any]
    state: Callable[[Path], str]
    start: str = NOTHING
    network: bool = False

    @property
    def faults(self) -> tuple[str, ...]:
        """What can be done to it."""
        return NETWORK if self.network else DISK


def forked(action: Callable[[], Any]) -> tuple[int, Any]:
    """Run something in a fork; returns its status (minus the signal) and what it returned or raised, in words."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(LIMIT)
        status = 0
        try:
            with open(os.devnull, "w") as quiet, redirect_stderr(quiet):
                told = action()
        except BaseException as error:
            status, told = 1, "".join(traceback.format_exception_only(error)).strip()[-600:]
            if os.environ.get("FAULTS_DEBUG"):
                traceback.print_exc()
        os.write(writer, json.dumps(told, default=str).encode()[:60_000])
        os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), json.loads(text) if text else None


def points_of(command: Command, place: Path) -> list[str]:
    """Return the write points of an undisturbed call, after checking what it makes."""
    fresh = _laid_out(command, place)

    def count() -> list[str]:
        breaker = Breaker(fresh)
        breaker.network = command.network  # type: ignore[attr-defined]
        with broken(breaker):
            command.run(fresh)
        return breaker.points

    status, points = forked(count)
    if status:
        raise RuntimeError(f"{command.name} fails undisturbed: {points}")
    found = forked(lambda: command.state(fresh))
    if found != (0, NEW):
        raise RuntimeError(f"{command.name} undisturbed leaves {found}")
    return [point for point in points if (point == "request") == command.network]


def _laid_out(command: Command, place: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=place))
    status, told = forked(lambda: command.prepare(folder))
    if status:
        raise RuntimeError(f"{command.name} cannot be prepared: {told}")
    return folder


def trial(command: Command, number: int, fault: str, place: Path) -> str | None:
    """Break one call and look; returns what was lost, None where nothing was."""
    folder = _laid_out(command, place)

    def spoilt() -> None:
        breaker = Breaker(folder, number, fault)
        breaker.network = command.network  # type: ignore[attr-defined]
        with broken(breaker), patch("huggingface_hub.utils._http.time.sleep", lambda seconds: None):
            command.run(folder)

    status, told = forked(spoilt)
    if status == -signal.SIGALRM:
        return "the call hangs"
    if fault == "kill" and status != -signal.SIGKILL:
        return f"it was not killed: {status} {told}"
    found = forked(lambda: command.state(folder))
    if found not in ((0, command.start), (0, NEW)):
        return f"after it, {found[1]} (the call: {status} {told})"
    if status == 0 and found[1] != NEW:
        return f"the call says that all is well, and the state is {found[1]}"
    again = forked(lambda: command.run(folder))
    if again[0]:
        return f"called again: {again}"
    found = forked(lambda: command.state(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return None if found == (0, NEW) else f"called again it leaves {found}"


# --- commands ------------------------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def visible(folder: Path) -> list[str]:
    """Return the names in a folder that a user sees."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def checkpoint_state(folder: Path, names: dict[str, str]) -> str:
    """Return which checkpoint a folder holds, by the seed in its record, and that all its parts are of that one.

    Args:
        folder: of the checkpoint.
        names: seed -> state.
    """
    from hub_mim import loading
    from hub_mim.run import Run

    if not folder.exists() or visible(folder) in ([], ["checkpoints"]):
        return NOTHING
    run = Run.load(folder)
    card = (folder / "README.md").read_text(encoding="utf-8")
    if f"--seed {run.seed} " not in card:
        return f"the card is not of the run with seed {run.seed}"
    weights = loading.load(folder, auto="AutoModelForPreTraining").state_dict()
    total = sum(float(tensor.double().abs().sum()) for tensor in weights.values())
    known = EXPECTED.setdefault(str(run.seed), total)
    if known != total:
        return f"the weights are not those of seed {run.seed}: {total} and {known}"
    return names.get(str(run.seed), f"seed {run.seed}")


EXPECTED: dict[str, float] = {}  # seed -> sum of the weights; filled before anything is broken


def train(folder: Path, seed: int, **options: Any) -> Any:
    """Train the toy for a few steps."""
    from hub_mim.training import pretrain

    arguments = {"save_steps": 2, "eval_steps": 2, "save_total_limit": 1}
    return pretrain("toy", "sample:toy", folder, steps=4, batch_size=4, seed=seed, arguments=arguments, **options)


def old_and_new(folder: Path) -> None:
    """Lay out two finished checkpoints, `old` and `next`, made once."""
    for name in ("old", "next"):
        shutil.copytree(MADE / name, folder / name)


def pretrain_anew() -> Command:
    return Command(
        "pretrain",
        lambda folder: None,
        lambda folder: _run_or_done(folder),
        lambda f: checkpoint_state(f / "run", {"2": NEW}),
    )


def _run_or_done(folder: Path) -> None:
    done = (folder / "run" / "run.json").is_file()
    train(folder / "run", 2, overwrite=done)


def pretrain_over() -> Command:
    def prepare(folder: Path) -> None:
        shutil.copytree(MADE / "old", folder / "run")

    def run(folder: Path) -> None:
        train(folder / "run", 2, overwrite=not (folder / "run" / "checkpoints" / "run.json").is_file())

    return Command(
        "pretrain --overwrite", prepare, run, lambda f: checkpoint_state(f / "run", {"1": OLD, "2": NEW}), OLD
    )


def table(folder: Path) -> None:
    """Write a table with gaps."""
    rows = [f"{n},{n * 2 if n % 5 else ''},{'x' if n % 2 else 'y'}" for n in range(40)]
    (folder / "table.csv").write_text("a,b,c\n" + "\n".join(rows) + "\n")


def impute() -> Command:
    def run(folder: Path) -> None:
        from hub_mim_remasker.filling import fill_file

        fill_file(folder / "table.csv", folder / "filled.csv", max_steps=2, compare=False, overwrite=True, seed=3)

    def state(folder: Path) -> str:
        import pandas

        from hub_mim import loading

        if not (folder / "filled.csv").exists():
            return NOTHING
        filled = pandas.read_csv(folder / "filled.csv")
        if filled.isna().any().any() or len(filled) != 40:
            return "a table with gaps"
        loading.load(folder / "filled-model")  # the table is written last: with it, all is there
        return NEW if (folder / "filled-distributions.png").read_bytes()[:4] == b"\x89PNG" else "half a picture"

    return Command("impute", table, run, state)


def embed() -> Command:
    def run(folder: Path) -> None:
        from hub_mim import embedding

        embedding._PART_ROWS = 16  # several parts
        embedding.embed(folder / "old", "sample:toy", folder / "vectors.parquet", batch_size=8, overwrite=True)

    def state(folder: Path) -> str:
        import pyarrow.parquet

        if not (folder / "vectors.parquet").exists():
            return NOTHING
        vectors = pyarrow.parquet.read_table(folder / "vectors.parquet").column("embedding").combine_chunks().flatten()
        found = hashlib.sha256(vectors.to_numpy().tobytes()).hexdigest()
        return NEW if found == (MADE / "vectors.sha").read_text() else "other vectors"

    return Command("embed", old_and_new, run, state)


def convert() -> Command:
    def run(folder: Path) -> None:
        from hub_mim.conversion import convert as run_convert

        run_convert("toy", MADE / "authors.pt", folder / "out", config={"num_attention_heads": 2}, overwrite=True)

    def prepare(folder: Path) -> None:
        shutil.copytree(MADE / "old", folder / "out")

    def state(folder: Path) -> str:
        from hub_mim import loading

        converted, run = (folder / "out" / "conversion.json").exists(), (folder / "out" / "run.json").exists()
        loading.load(folder / "out", auto="AutoModelForPreTraining")
        same = digest(folder / "out" / "model.safetensors") == digest(MADE / "old" / "model.safetensors")
        return {(False, True, True): OLD, (True, False, False): NEW}.get((converted, run, same), "a mixture")

    return Command("convert --overwrite", prepare, run, state, OLD)


def evaluate() -> Command:
    def prepare(folder: Path) -> None:
        shutil.copytree(MADE / "old", folder / "run")

    def run(folder: Path) -> None:
        from hub_mim.evaluation import evaluate as run_evaluate

        run_evaluate(folder / "run", "sample:toy", protocol="mean-error", save=True)

    def state(folder: Path) -> str:
        from hub_mim.sharing import read_results

        kept, before = read_results(folder / "run"), checkpoint_state(folder / "run", {"1": OLD})
        card = (folder / "run" / "README.md").read_text(encoding="utf-8")
        told = [each for each in kept if f"{each.metric_value:.4g}" in card]
        if before != OLD or len(told) != len(kept):
            return f"{before}; the card tells {len(told)} of {len(kept)} results"
        return NEW if kept else OLD

    return Command("evaluate --save (card)", prepare, run, state, OLD)


def cache() -> Command:
    def prepare(folder: Path) -> None:
        shutil.copytree(MADE / "pictures", folder / "pictures")

    def cached(folder: Path) -> Any:
        from hub_mim import picture_cache
        from hub_mim.data import load_rows

        picture_cache.FLUSH = 4
        return picture_cache.cached(load_rows(folder / "pictures"), folder / "cache")

    def state(folder: Path) -> str:
        if not (folder / "cache" / "index.bin").exists():
            return NOTHING
        if (folder / "cache" / "index.bin").stat().st_size < 12 * 32:
            return NOTHING  # not whole: what reads it builds it first
        pixels = [row["image"].tobytes() for row in cached(folder)]
        return (
            NEW
            if hashlib.sha256(b"".join(pixels)).hexdigest() == (MADE / "pictures.sha").read_text()
            else "other pixels"
        )

    return Command("cache", prepare, lambda folder: len(cached(folder)), state)


def push(network: bool) -> Command:
    import hub_mim

    def name(folder: Path) -> str:
        return f"me/{folder.name.replace('_', 'x').lower()}"

    def prepare(folder: Path) -> None:
        old_and_new(folder)
        hub_mim.push(folder / "old", name(folder))

    def run(folder: Path) -> None:
        with patch("tempfile.tempdir", str(folder)):
            hub_mim.push(folder / "next", name(folder))

    def state(folder: Path) -> str:
        with tempfile.TemporaryDirectory() as place:
            hub_mim.pull(name(folder), Path(place) / "copy")
            return checkpoint_state(Path(place) / "copy", {"1": OLD, "2": NEW})

    return Command("push (network)" if network else "push", prepare, run, state, OLD, network)


def pull(network: bool) -> Command:
    import hub_mim

    def prepare(folder: Path) -> None:
        shutil.copytree(MADE / "old", folder / "copy")

    def run(folder: Path) -> None:
        from huggingface_hub import constants

        with patch.object(constants, "HF_HUB_CACHE", str(folder / "hub-cache")):
            hub_mim.pull("me/next", folder / "copy", overwrite=True)

    def state(folder: Path) -> str:
        return checkpoint_state(folder / "copy", {"1": OLD, "2": NEW})

    return Command("pull (network)" if network else "pull", prepare, run, state, OLD, network)


def commands(hub: bool) -> list[Command]:
    """Return all commands under test."""
    found = [pretrain_anew(), pretrain_over(), impute(), embed(), convert(), evaluate(), cache()]
    return found + ([push(False), push(True), pull(False), pull(True)] if hub else [])


MADE = Path()


def make_states(place: Path) -> None:
    """Make once what all trials start from, and what they are compared with."""
    import numpy as np
    import torch
    from PIL import Image

    from hub_mim import embedding
    from hub_mim.conversion import rename_back
    from hub_mim.loading import checkpoint_weights, load
    from hub_mim_toy.conversion_toy import rules

    for name, seed in (("old", 1), ("next", 2)):
        train(place / name, seed)
        checkpoint_state(place / name, {})
    (place / "expected.json").write_text(json.dumps(EXPECTED))
    model = load(place / "old", auto="AutoModelForPreTraining")
    torch.save(rename_back(checkpoint_weights(place / "next"), rules(model.config)), place / "authors.pt")
    embedding.embed(place / "old", "sample:toy", place / "v.npy", batch_size=8)
    (place / "vectors.sha").write_text(hashlib.sha256(np.load(place / "v.npy").tobytes()).hexdigest())
    (place / "pictures").mkdir()
    source, pixels = np.random.default_rng(0), []
    for number in range(12):
        picture = source.integers(0, 255, (6 + number, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(place / "pictures" / f"{number:02}.png")
        pixels.append(picture.tobytes())
    (place / "pictures.sha").write_text(hashlib.sha256(b"".join(pixels)).hexdigest())


def warm() -> None:
    """Import what the commands use, and run none of it: threads and locks do not survive a fork."""
    import datasets
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401
    import torch
    import transformers.trainer  # noqa: F401

    import hub_mim.conversion
    import hub_mim.embedding
    import hub_mim.evaluation
    import hub_mim.picture_cache
    import hub_mim.training
    import hub_mim.transfer
    import hub_mim_remasker.filling  # noqa: F401
    import hub_mim_toy.modeling_toy  # noqa: F401

    for each in pkgutil.iter_modules(
        hub_mim.__path__, "hub_mim."
    ):  # all of it, so that an edit meanwhile changes nothing
        if not each.ispkg and each.name != "hub_mim.__main__":
            importlib.import_module(each.name)
    torch.set_num_threads(1)
    hub_mim.register()
    datasets.disable_progress_bars()


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


def run_all(sample: int | None, seed: int, only: str | None, say: Callable[[str], None]) -> dict[str, Any]:
    """Run the trials; returns their number, what was lost, and the points of each command."""
    global MADE
    warm()
    with tempfile.TemporaryDirectory() as root, served(Path(root)) as hub:
        place = MADE = Path(root)
        status, told = forked(lambda: make_states(place))
        if status:
            raise RuntimeError(f"the states cannot be made: {told}")
        EXPECTED.update(json.loads((place / "expected.json").read_text()))
        if hub:
            import hub_mim

            forked(lambda: hub_mim.push(place / "next", "me/next") and None)
        tested = [each for each in commands(hub) if only is None or each.name.startswith(only)]
        points = {each.name: points_of(each, place) for each in tested}
        trials = [
            (command, number, fault)
            for command in tested
            for number in range(1, len(points[command.name]) + 1)
            for fault in command.faults
        ]
        possible = len(trials)
        if sample is not None:  # every command gets its share
            trials = _sampled(trials, sample, random.Random(seed))
        lost: list[dict[str, Any]] = []
        tried: Counter[str] = Counter()
        started = time.monotonic()
        for command, number, fault in trials:
            wrong = trial(command, number, fault, place)
            tried[command.name] += 1
            if wrong is not None:
                point = points[command.name][number - 1]
                lost.append({"command": command.name, "point": number, "what": point, "fault": fault, "lost": wrong})
                say(json.dumps(lost[-1]))
            if sum(tried.values()) % 50 == 0:
                say(
                    f"{sum(tried.values())} of {len(trials)} faults, {len(lost)} lost, {time.monotonic() - started:.0f} s"
                )
    counts = {name: len(found) for name, found in points.items()}
    return {"tried": dict(tried), "points": counts, "possible": possible, "lost": lost}


def _sampled(trials: list[Any], count: int, source: random.Random) -> list[Any]:
    """Return so many trials, the commands in turn, at random within each."""
    groups: dict[str, list[Any]] = {}
    for each in trials:
        groups.setdefault(each[0].name, []).append(each)
    for group in groups.values():
        source.shuffle(group)
    longest = max(map(len, groups.values()))
    turns = [group[number] for number in range(longest) for group in groups.values() if number < len(group)]
    return turns[:count]


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="so many faults instead of all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--only", help="commands whose name begins so")
    parser.add_argument("--out", help="file for the counts")
    given = parser.parse_args()
    told = run_all(given.sample, given.seed, given.only, lambda text: print(text, file=sys.stderr, flush=True))
    if given.out:
        Path(given.out).write_text(json.dumps(told, indent=1) + "\n")
    print(
        f"{sum(told['tried'].values())} faults at {sum(told['points'].values())} write points, {len(told['lost'])} lost"
    )
    sys.exit(bool(told["lost"]))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
