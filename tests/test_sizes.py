"""The formulas of docs/reference/sizes.md against tiny trainings, to the byte; the page itself."""

import functools
import importlib.util
import socket
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hub_mim import plugins
from hub_mim.samples import sample_rows
from hub_mim.starting import make_model

ROOT = Path(__file__).resolve().parent.parent


@functools.cache
def script():
    spec = importlib.util.spec_from_file_location("make_sizes", ROOT / "scripts" / "make_sizes.py")
    module = sys.modules["make_sizes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def trained(dtype=torch.float32, sharded=False):
    """Return a toy model and its optimiser after one step."""
    torch.manual_seed(0)
    model = make_model(plugins.get_method("toy"), "tiny", {}).to(dtype)
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for layer in model.toy.layers:
            fully_shard(layer)
        fully_shard(model)
    optimiser = torch.optim.AdamW(model.parameters(), fused=True)
    rows = torch.tensor(sample_rows("toy", num_rows=4)["values"], dtype=dtype)
    model(values=rows, row_seed=torch.arange(4)).loss.backward()
    optimiser.step()
    return model, optimiser


def held(model, optimiser):
    """Return the bytes of weights, gradients and moments that a process holds."""

    def size(value):
        local = value.to_local() if hasattr(value, "to_local") else value
        return local.numel() * local.element_size()

    weights = list(model.parameters())
    moments = [state[name] for state in optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]
    return [sum(map(size, part)) for part in (weights, [weight.grad for weight in weights], moments)]


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_one_process_holds_what_the_formula_says(dtype, width):
    model, optimiser = trained(dtype)
    told = script().memory(model, width=width)
    assert held(model, optimiser) == [told.weights, told.gradients, told.moments]
    assert told.all == 4 * width * model.num_parameters()


def test_presets_are_built_without_weights():
    config, model = script().built(plugins.get_method("toy"), "tiny")
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    real, _ = trained()
    assert script().memory(model) == script().memory(real)
    assert config.model_type == model.config.model_type


def test_hours_of_a_run():
    made = script()
    assert made.hours(1e9, 20e9) == pytest.approx(1e9 * 60e9 / (989e12 * 0.4) / 3600)


def work(rank, port, out):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    sizes = held(*trained(sharded=True))
    if rank == 0:
        torch.save(sizes, out)
    dist.destroy_process_group()


@pytest.mark.distributed
def test_a_process_of_two_holds_its_share(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, tmp_path / "sizes.pt"), nprocs=2)
    model, _ = trained()
    told = script().memory(model, ranks=2, sharded=True)
    assert torch.load(tmp_path / "sizes.pt", weights_only=True) == [told.weights, told.gradients, told.moments]


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert script().main(["--check"]) == 0
