"""The sigmoid loss in blocks and over processes, the cross-entropy in blocks, the losses against the teacher."""

import math
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from hub_mim_siglip2 import distillation
from hub_mim_siglip2.contrast import pair_logits, row_losses, sigmoid_loss, unit
from hub_mim_siglip2.vocabulary import caption_loss, chunked_cross_entropy


def pairs(rows=13, width=8, dtype=torch.float64):
    source = torch.Generator().manual_seed(1)
    x, y = (unit(torch.randn(rows, width, generator=source, dtype=dtype)).requires_grad_() for _ in range(2))
    return (
        x,
        y,
        torch.tensor([1.5], dtype=dtype, requires_grad=True),
        torch.tensor([-3.0], dtype=dtype, requires_grad=True),
    )


@pytest.mark.parametrize("chunk", [1, 4, 13, 100])
def test_blocks_give_the_loss_and_gradients_of_the_whole_matrix(chunk):
    x, y, scale, bias = given = pairs()
    signs = 2 * torch.eye(13, dtype=torch.float64) - 1
    whole = -F.logsigmoid(signs * (x @ y.T * scale.exp() + bias)).sum() / 13
    wanted = torch.autograd.grad(whole * 3, given)
    ours = sigmoid_loss(*given, chunk=chunk)
    torch.testing.assert_close(ours, whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(row_losses(pair_logits(*given)).mean(), whole, rtol=1e-12, atol=0)
    for mine, theirs in zip(torch.autograd.grad(ours * 3, given), wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_float32_gradient_is_within_a_millionth():
    given, exact = pairs(64, 32, torch.float32), pairs(64, 32)
    for single, double in zip(given, exact, strict=True):
        single.data.copy_(double.data)
    ours = torch.autograd.grad(sigmoid_loss(*given, chunk=7), given)
    wanted = torch.autograd.grad(row_losses(pair_logits(*exact)).mean(), exact)
    for mine, theirs in zip(ours, wanted, strict=True):
        assert (mine - theirs).abs().max() <= 1e-6 * max(1.0, float(theirs.abs().max()))


def test_the_loss_at_the_start_is_that_of_the_papers_scale_and_bias():
    source = torch.Generator().manual_seed(0)
    x, y = (unit(torch.randn(512, 64, generator=source)) for _ in range(2))
    assert sigmoid_loss(x, y, torch.tensor([math.log(10)]), torch.tensor([-10.0])) == pytest.approx(10.1, abs=0.2)
    assert sigmoid_loss(x, y, torch.zeros(1), torch.zeros(1)) > 300  # as transformers' model starts


SPREAD = """
import os, torch, torch.distributed as dist
from hub_mim_siglip2.contrast import sigmoid_loss, unit
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
source = torch.Generator().manual_seed(2)
x, y = (torch.randn(11, 6, generator=source, dtype=torch.float64) for _ in range(2))
size = [11 // world + (place < 11 % world) for place in range(world)]  # a ragged batch
mine = slice(sum(size[:rank]), sum(size[:rank + 1]))
def gradients(a, b, share):
    weights = [torch.eye(6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    scale, bias = (torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (1.0, -2.0))
    loss = sigmoid_loss(unit(a @ weights[0]), unit(b @ weights[1]), scale, bias, chunk=3) if share else None
    if loss is None:
        logits = unit(a @ weights[0]) @ unit(b @ weights[1]).T * scale.exp() + bias
        signs = 2 * torch.eye(len(a), dtype=torch.float64) - 1
        loss = -torch.nn.functional.logsigmoid(signs * logits).sum() / len(a)
    loss.backward()
    return [loss.detach(), *(each.grad for each in (*weights, scale, bias))]
ours, wanted = gradients(x[mine], y[mine], True), gradients(x, y, False)
for a, b in zip(ours, wanted):
    dist.all_reduce(a)
    torch.testing.assert_close(a / world, b, rtol=1e-10, atol=1e-12)
dist.destroy_process_group()
"""


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_have_the_gradient_of_one(tmp_path, world):
    script = tmp_path / "spread.py"
    script.write_text(SPREAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={world}",
        f"--master_port={port}",
        str(script),
    ]
    told = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300
    )
    assert told.returncode == 0, told.stderr[-2000:]


LARGE = """
import resource, torch
from hub_mim_siglip2.contrast import sigmoid_loss, unit
x, y = (unit(torch.randn(32768, 64)).requires_grad_() for _ in range(2))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sigmoid_loss(x, y, torch.tensor([2.3], requires_grad=True), torch.tensor([-10.0]), chunk=512).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


@pytest.mark.slow
def test_a_batch_of_32768_pairs_needs_little_memory():
    told = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True, timeout=300)
    assert told.returncode == 0, told.stderr[-2000:]
    assert float(told.stdout) < 1.0  # GiB; the matrix alone is 4


@pytest.mark.parametrize("chunk", [3, 7, 50])
def test_cross_entropy_in_blocks_of_words(chunk):
    source = torch.Generator().manual_seed(3)
    shapes = ((9, 5), (17, 5), (17,))
    given = [torch.randn(shape, generator=source, dtype=torch.float64).requires_grad_() for shape in shapes]
    labels = torch.randint(17, (9,), generator=source)
    ours = chunked_cross_entropy(*given, labels, chunk)
    theirs = F.cross_entropy(F.linear(*given), labels, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weight = torch.rand(9, generator=source, dtype=torch.float64)
    wanted = torch.autograd.grad((theirs * weight).sum(), given)
    for mine, other in zip(torch.autograd.grad((ours * weight).sum(), given), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


def test_texts_count_alike_whatever_their_length():
    scored = torch.tensor([[True, True, True, True], [True, False, False, False], [False] * 4])
    loss = caption_loss(torch.tensor([1.0, 1.0, 1.0, 1.0, 7.0]), scored)
    assert loss == pytest.approx((1.0 + 7.0 + 0.0) / 3)


def test_nothing_flows_into_the_teacher_and_hidden_patches_alone_count():
    logits = torch.randn(2, 5, requires_grad=True)
    targets = distillation.soft_targets(logits, torch.zeros(5), 0.04)
    assert not targets.requires_grad
    mask = torch.tensor([[True, False, True], [False, False, True]])
    assert distillation.masked_loss(torch.tensor([1.0, 3.0, 5.0]), mask) == pytest.approx((2.0 + 5.0) / 2)
    assert distillation.masked_loss(torch.zeros(0), torch.zeros(2, 3, dtype=torch.bool)) == 0


def test_the_centre_is_the_mean_of_raw_scores():
    head = distillation.Head(4, 6, 3, 5)
    x, center = torch.randn(2, 7, 4), torch.randn(5)
    moved = distillation.moved_center(center, head, head.embed(x), 0.9)
    torch.testing.assert_close(moved, 0.9 * center + 0.1 * head(x).flatten(0, 1).mean(0).detach(), rtol=1e-5, atol=1e-6)
