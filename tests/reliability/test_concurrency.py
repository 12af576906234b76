"""Several processes at one place: one works, the others are told, readers see whole states."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
from PIL import Image
from record import counted

import hub_mim
from hub_mim import embedding, loading, picture_cache, sharing
from hub_mim.data import load_rows
from hub_mim.run import Run
from hub_mim.training import pretrain

pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks are POSIX's")

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
HOLD = """
import sys
from hub_mim.checkpoints import exclusive
with exclusive(sys.argv[1], sys.argv[2]):
    print("held", flush=True)
    input()
"""


@contextmanager
def held(folder, doing=""):
    """Let another process hold a folder."""
    command = [sys.executable, "-c", HOLD, str(folder), doing]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.communicate("\n")


@cache
def toy(seed):
    import torch

    from hub_mim_toy.configuration_toy import ToyMimConfig
    from hub_mim_toy.modeling_toy import ToyMimForPreTraining

    torch.manual_seed(seed)
    return ToyMimForPreTraining(ToyMimConfig(num_hidden_layers=1)).eval()


def checkpoint(folder, seed):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    return sharing.save(folder, toy(seed), ToyMimProcessor(factor=0.5), run=Run(method="toy", data="x", seed=seed))


def whole(folder):
    """Return the seed of a checkpoint, whose weights, record and card must be of that one seed."""
    seed = Run.load(folder).seed
    weights, mine = loading.checkpoint_weights(folder), toy(seed).state_dict()
    assert all(np.array_equal(weights[name].numpy(), tensor.numpy()) for name, tensor in mine.items())
    assert f"--seed {seed} " in (folder / "README.md").read_text()
    return seed


@pytest.mark.slow
def test_two_trainings_into_one_folder(tmp_path):
    out = tmp_path / "run"
    words = ["pretrain", "toy", "--data", "sample:toy", "--out", str(out), "--steps", "600", "--validation", "0"]
    with counted("concurrency", "two trainings into one folder") as count:
        first = subprocess.Popen(
            [sys.executable, "-m", "hub_mim", *words], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 120
        while not (out / "checkpoints" / "lock").exists() and time.monotonic() < deadline and first.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        with pytest.raises(RuntimeError, match="another process is training into"):
            pretrain("toy", "sample:toy", out, steps=600, validation=0.0)
        _, told = first.communicate(timeout=300)
        assert first.returncode == 0, told[-2000:]
        assert Run.load(out).steps == 600
        loading.load(out, auto="AutoModelForPreTraining")
        count(1)


def test_two_embeddings_into_one_file(tmp_path):
    folder = checkpoint(tmp_path / "model", 1)
    out = tmp_path / "x.npy"
    with counted("concurrency", "two embeddings into one file") as count:
        with (
            held(tmp_path / ".x.npy.parts", "writing x"),
            pytest.raises(RuntimeError, match="another process is writing x|writing"),
        ):
            embedding.embed(folder, "sample:toy", out)
        assert not out.exists()
        assert embedding.embed(folder, "sample:toy", out).rows == len(np.load(out))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "x.npy"]
        count(1)


def test_two_extractions_of_regions_into_one_file(tmp_path):
    extraction = pytest.importorskip("hub_mim_regions.extraction", reason="hub-mim-regions is not installed")
    out = tmp_path / "x.parquet"
    with counted("concurrency", "two extractions of regions into one file") as count:
        rows = [{"image": Image.new("RGB", (32, 32)), "objects": [{"box": [1, 1, 9, 9]}]}]
        with held(tmp_path / ".x.parquet.parts", "x"), pytest.raises(RuntimeError, match=r"writing .*x\.parquet"):
            extraction.extract(rows, out, backend="crop")
        assert not out.exists()
        assert extraction.extract(rows, out, backend="crop")["regions"] == 1
        assert sorted(path.name for path in tmp_path.iterdir()) == ["x.parquet"]
        count(1)


CACHE = """
import sys
from hub_mim import picture_cache
from hub_mim.data import load_rows
picture_cache.FLUSH = 1
try:
    rows = picture_cache.cached(load_rows(sys.argv[1]), sys.argv[2])
except RuntimeError as error:
    print(f"refused: {error}")
else:
    print(sum(row["image"].getpixel((0, 0)) for row in rows))
"""


def test_a_cache_that_several_processes_build(tmp_path):
    (tmp_path / "pictures").mkdir()
    for number in range(60):
        Image.fromarray(np.full((40, 40), number, np.uint8)).save(tmp_path / "pictures" / f"{number:02}.png")
    rows = load_rows(tmp_path / "pictures")
    with counted("concurrency", "a cache built by several processes") as count:
        command = [sys.executable, "-c", CACHE, str(tmp_path / "pictures"), str(tmp_path / "cache")]
        several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) for _ in range(3)]
        told = [each.communicate(timeout=120)[0].strip() for each in several]
        assert str(sum(range(60))) in told
        assert all(each == str(sum(range(60))) or "is building the cache" in each for each in told), told
        cached = picture_cache.cached(rows, tmp_path / "cache")
        assert [row["image"].getpixel((0, 0)) for row in cached] == list(range(60))
        with held(tmp_path / "cache", "building it"), pytest.raises(RuntimeError, match="another process is building"):
            picture_cache.cached(rows, tmp_path / "cache")
        count(3)


@pytest.fixture
def hub(tmp_path):
    testing = pytest.importorskip("hub_mim_localhub.testing", reason="hub-mim-localhub is not installed")
    with testing.running_hub(tmp_path / "hub") as running, testing.connected(running, tmp_path / "cache"):
        yield running


def test_pushes_at_the_same_time(hub, tmp_path):
    """One wins; a loser is told to push again, and does."""
    folders = [checkpoint(tmp_path / str(seed), seed) for seed in range(4)]
    hub_mim.push(folders[0], "me/x")

    def push(folder):
        try:
            return hub_mim.push(folder, "me/x").commit
        except RuntimeError as error:
            return str(error)

    with counted("concurrency", "pushes at the same time") as count:
        with ThreadPoolExecutor(3) as pool:
            told = list(pool.map(push, folders[1:]))
        assert all(len(each) == 40 or "somebody else changed me/x meanwhile; push again" in each for each in told), told
        hub_mim.pull("me/x", tmp_path / "copy")
        assert told[whole(tmp_path / "copy") - 1] == hub.api().model_info("me/x").sha
        for number, folder in enumerate(folders):
            hub_mim.push(folder, "me/x")
            hub_mim.pull("me/x", tmp_path / "copy", overwrite=True)
            assert whole(tmp_path / "copy") == number
        count(len(told))


def test_ten_readers_during_pushes(hub, tmp_path):
    folders = [checkpoint(tmp_path / str(seed), seed) for seed in range(2)]
    hub_mim.push(folders[0], "me/x")
    seen = []

    def read(number):
        for turn in range(4):
            place = tmp_path / "copies" / f"{number}-{turn}"
            hub_mim.pull("me/x", place)
            seen.append(whole(place))

    with counted("concurrency", "ten readers during pushes") as count:
        with ThreadPoolExecutor(10) as pool:
            readers = [pool.submit(read, number) for number in range(10)]
            for turn in range(6):
                hub_mim.push(folders[(turn + 1) % 2], "me/x")
            for reader in readers:
                reader.result()
        assert len(seen) == 40
        count(len(seen))


def test_readers_of_a_folder_that_is_written_again(tmp_path):
    """A reader opens the old checkpoint or the new one, and never finds the folder gone."""
    out = checkpoint(tmp_path / "run", 0)
    READ = (
        "import sys, time, pathlib\nout = pathlib.Path(sys.argv[1])\nend = time.monotonic() + 60\ncount = 0\n"
        "while not (out.parent / 'stop').exists() and time.monotonic() < end:\n"
        "    (out / 'config.json').read_bytes(); count += 1\nprint(count)"
    )
    reader = subprocess.Popen(
        [sys.executable, "-c", READ, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with counted("concurrency", "a reader while its folder is written again") as count:
        for turn in range(12):
            sharing.save(out, toy(turn % 2), run=Run(method="toy", data="x", seed=turn % 2), overwrite=True)
        (tmp_path / "stop").touch()
        told, wrong = reader.communicate(timeout=120)
        if sys.platform.startswith("linux"):
            assert reader.returncode == 0, wrong[-500:]
            count(int(told))


def test_results_are_added_by_several_processes(tmp_path):
    """Each process keeps its own result; the card tells of those that are there."""
    out = checkpoint(tmp_path / "run", 0)
    code = (
        "import sys\nfrom hub_mim.results import Result\nfrom hub_mim.sharing import add_results\n"
        "add_results(sys.argv[1], [Result(metric_type=sys.argv[2], metric_value=0.5, dataset_name='rows')])"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", code, str(out), f"m{number}"], env=ENVIRONMENT) for number in range(3)
    ]
    assert [each.wait(120) for each in several] == [0, 0, 0]
    kept = [each.metric_type for each in sharing.read_results(out)]
    assert sorted(kept) == ["m0", "m1", "m2"]
    card = (out / "README.md").read_text()
    assert all(f"| {name} |" in card for name in kept)
    assert json.loads((out / "run.json").read_text())["method"] == "toy"
