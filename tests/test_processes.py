"""Two gloo processes take the steps of one with the joined batch, by the command line: every method, the last round ragged."""

import functools
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from hub_mim import plugins, sharded
from hub_mim.method import resolve
from hub_mim.samples import sample_rows
from hub_mim.shares import share_of

METHODS = sorted(plugins.methods())
ROWS = 11  # rounds of 4, 4 and 3 rows; of the last, one process has one row and the other two
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


HUB_MIM = (sys.executable, "-m", "hub_mim")


def hub_mim(*arguments, environment=ENVIRONMENT, start=HUB_MIM):
    command = [*start, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)


def small_data(name, folder):
    """Return the few rows that a method is trained on: of its own sample, or of a table."""
    method = plugins.get_method(name)
    if method.load:
        return f"sample:{name}"
    rows = sample_rows(name if method.sample_data else "iris-gaps", num_rows=ROWS)
    rows.select(range(ROWS)).save_to_disk(str(folder / "rows"))
    return folder / "rows"


def settled(name):
    """Return options that leave nothing to chance: no dropout, which processes draw for themselves; no rows exchanged."""
    method = plugins.get_method(name)
    preset = next(iter(method.presets.values()), {})
    config = resolve(method.config)(**preset)
    model = resolve(method.auto["AutoModelForPreTraining"])
    fields = {key: 0.0 for key, value in config.to_dict().items() if "drop" in key and isinstance(value, float)}
    fields |= {model.swaps_rows: 0.0} if getattr(model, "swaps_rows", None) else {}
    fields |= {"split_edges": "true"} if "split_edges" in config.to_dict() else {}
    return [part for key, value in fields.items() for part in ("--config", f"{key}={value}")]


def pretrain(name, data, out, *options, steps=4, start=HUB_MIM, **more):
    # plain gradient descent: what weights differ by is what gradients do
    usual = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0, "logging_steps": 1, "save_steps": 100}
    sets = [part for key, value in (usual | more).items() for part in ("--set", f"{key}={value}")]
    given = ["--data", data, "--out", out, "--steps", steps, "--learning-rate", 0.005, "--validation", 0, "--seed", 3]
    told = hub_mim("pretrain", name, *given, *sets, *options, start=start)
    assert told.returncode == 0, told.stderr[-3000:]
    return json.loads((out / "run.json").read_text()), load_file(out / "model.safetensors")


def alike(first, second, tolerance=1e-5):
    """Assert that two runs logged the same losses and ended with the same weights."""
    (run, weights), (other, theirs) = first, second
    lines = zip(run["history"], other["history"], strict=True)
    for mine, told in lines:
        for key in (key for key in mine if key.startswith(("loss", "grad_norm"))):
            assert told[key] == pytest.approx(mine[key], rel=tolerance, abs=tolerance), (key, mine["step"])
    assert weights.keys() == theirs.keys()
    for key, value in weights.items():
        scale = max(1.0, float(value.abs().max()))
        assert torch.allclose(value, theirs[key], rtol=0, atol=tolerance * scale), key


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function that gives the data, the options and the result of a method's run on one process, run once."""

    @functools.cache
    def run(name):
        folder = tmp_path_factory.mktemp(name)
        data, options = small_data(name, folder), settled(name)
        return data, options, pretrain(name, data, folder / "one", "--batch-size", 4, *options)

    return run


@pytest.mark.distributed
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_take_the_steps_of_one(name, alone, tmp_path):
    data, options, one = alone(name)
    two = pretrain(name, data, tmp_path / "two", "--batch-size", 2, "--launch", 2, *options)
    assert (one[0]["processes"], two[0]["processes"]) == (1, 2)
    alike(one, two)


@pytest.mark.distributed
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_share_the_weights(name, alone, tmp_path):
    data, options, one = alone(name)
    two = pretrain(name, data, tmp_path / "two", "--batch-size", 2, "--launch", 2, *options, fsdp="true")
    alike(one, two)


DEEPSPEED = """
compute_environment: LOCAL_MACHINE
distributed_type: DEEPSPEED
deepspeed_config: {zero_stage: 2, gradient_accumulation_steps: 1, zero3_init_flag: false}
num_processes: 2
num_machines: 1
machine_rank: 0
mixed_precision: 'no'
use_cpu: true
"""


@pytest.mark.distributed
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_of_deepspeed_share_the_optimiser(name, alone, tmp_path):
    """ZeRO-2, by what `accelerate config` writes; not installed by our tests: pip install deepspeed."""
    if find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    data, options, one = alone(name)
    (tmp_path / "config.yaml").write_text(DEEPSPEED)
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "config.yaml")]
    start += ["-m", "hub_mim"]
    if any(not weight.dim() for weight in one[1].values()):
        told = hub_mim("pretrain", name, "--data", data, "--out", tmp_path / "two", "--steps", 1, start=start)
        assert "error: DeepSpeed (0.19.8) cannot send a weight that is one number" in told.stderr
        return
    two = pretrain(name, data, tmp_path / "two", "--batch-size", 2, *options, start=start)
    assert two[0]["processes"] == 2
    alike(one, two)


@pytest.mark.distributed
def test_two_nodes(alone, tmp_path):
    """Two launchers that meet at an address, as on two machines."""
    pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")
    data, options, one = alone("mae")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    nodes = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_endpoint", address]
    start = [sys.executable, "-m", "torch.distributed.run", *nodes, "-m", "hub_mim"]
    with ThreadPoolExecutor(2) as pool:
        given = "mae", data, tmp_path / "two", "--batch-size", 2, *options
        both = [pool.submit(pretrain, *given, start=start) for _ in range(2)]
        two = both[0].result()
        assert both[1].result()[0] == two[0]
    assert two[0]["processes"] == 2
    alike(one, two)


@pytest.mark.distributed
@pytest.mark.parametrize("held_out", [5, 7])
def test_held_out_rows_count_once(held_out, tmp_path):
    """Of the last round there is one row for two processes, or three."""
    pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")
    sample_rows("mae", num_rows=20).select(range(20)).save_to_disk(str(tmp_path / "rows"))
    options = ["--validation", held_out / 20, "--preset", "tiny"]
    arguments = {"per_device_eval_batch_size": 4, "eval_strategy": "steps", "eval_steps": 1}
    one = pretrain("mae", tmp_path / "rows", tmp_path / "one", "--batch-size", 4, *options, steps=2, **arguments)
    arguments["per_device_eval_batch_size"] = 2
    two = pretrain(
        "mae", tmp_path / "rows", tmp_path / "two", "--batch-size", 2, "--launch", 2, *options, steps=2, **arguments
    )
    told = [[line["eval_loss"] for line in run["history"] if "eval_loss" in line] for run, _ in (one, two)]
    assert len(told[0]) >= 2
    assert told[1] == pytest.approx(told[0], rel=1e-5)


def test_rows_are_divided_in_order():
    for count in range(3, 12):
        parts = [share_of(list(range(count)), rank, 3) for rank in range(3)]
        assert [row for part in parts for row in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [share_of([7, 8], rank, 5) for rank in range(5)] == [[7], [8], [7], [8], [7]]


def test_what_deepspeed_cannot_send_is_told():
    model = torch.nn.Linear(2, 2)
    sharded._refuse_scalars(model)
    model.scale = torch.nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="as scale of this model is; use FSDP2"):
        sharded._refuse_scalars(model)
