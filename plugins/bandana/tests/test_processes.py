"""Two processes that each predict half of one graph's edges take the step of one process."""

import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hub_mim_bandana import BandanaConfig, BandanaForPreTraining, BandanaProcessor
from hub_mim_bandana.example import sample


def made(split):
    torch.manual_seed(0)
    config = BandanaConfig(
        num_features=16, hidden_size=8, num_hidden_layers=2, hidden_dropout_prob=0.0, split_edges=split
    )
    row = sample(61)
    return BandanaForPreTraining(config).train(), dict(BandanaProcessor().fit(row)(rows=row))


def work(rank, world, port, out):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    model, batch = made(split=True)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    told = parallel(**batch, row_seed=torch.tensor([3]))
    told.loss.backward()
    loss = told.loss.detach().clone()
    dist.all_reduce(loss)
    if rank == 0:
        torch.save({"loss": loss / world, "grads": [weight.grad for weight in model.parameters()]}, out)
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_share_the_edges_of_one_graph(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (2, port, tmp_path / "told.pt"), nprocs=2)
    told = torch.load(tmp_path / "told.pt", weights_only=True)
    model, batch = made(split=False)
    loss = model(**batch, row_seed=torch.tensor([3])).loss
    loss.backward()
    assert told["loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    for one, two in zip(model.parameters(), told["grads"], strict=True):
        assert torch.allclose(one.grad, two, atol=1e-6)
