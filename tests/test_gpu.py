"""On an accelerator every method computes what it computes on the CPU; skipped where there is none."""

import copy

import pytest
import torch

from hub_mim import plugins
from hub_mim.data import encode
from hub_mim.testing.subject import Subject, tensors, without_dropout
from hub_mim.training import pretrain

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
OURS = sorted(name for name, method in plugins.methods().items() if not method.native)


def on_gpu(batch):
    return {name: value.cuda() for name, value in batch.items()}


@pytest.mark.parametrize("name", OURS)
def test_masks_outputs_and_gradients_are_those_of_the_cpu(name):
    subject = Subject(name)
    model = without_dropout(subject.model())
    batch, seeds = subject.batch(), subject.seeds()
    there = copy.deepcopy(model).cuda()
    ours, theirs = model(**batch, row_seed=seeds), there(**on_gpu(batch), row_seed=seeds.cuda())
    other = dict(tensors(theirs))
    for key, value in tensors(ours):
        if value.is_floating_point():
            assert torch.allclose(value, other[key].cpu(), atol=1e-3, rtol=1e-3, equal_nan=True), key
        else:
            assert torch.equal(value, other[key].cpu()), key
    ours.loss.backward()
    theirs.loss.backward()
    for (key, weight), same in zip(model.named_parameters(), there.parameters(), strict=True):
        if weight.grad is not None:
            assert torch.allclose(weight.grad, same.grad.cpu(), atol=1e-3, rtol=1e-2), key


@pytest.mark.parametrize("name", OURS)
def test_half_precision_is_near(name):
    subject = Subject(name)
    model = subject.model().cuda()
    batch, seeds = on_gpu(subject.batch()), subject.seeds().cuda()
    with torch.no_grad():
        whole = model(**batch, row_seed=seeds).loss
        with torch.autocast("cuda", torch.bfloat16):
            half = model(**batch, row_seed=seeds).loss
    assert abs(float(half) - float(whole)) < 0.05 * max(1.0, abs(float(whole)))


@pytest.mark.parametrize("name", OURS)
def test_memory_does_not_grow(name):
    subject = Subject(name)
    model = subject.model().cuda().train()
    held = []
    for step in range(12):
        model(**on_gpu(subject.batch()), row_seed=subject.seeds(step).cuda()).loss.backward()
        model.zero_grad()
        held.append(torch.cuda.memory_allocated())
    assert held[-1] <= held[4] + 2**16


@pytest.mark.parametrize("name", OURS)
def test_a_run_in_half_precision_ends(name, tmp_path):
    subject = Subject(name)
    run = pretrain(
        name,
        subject.rows * 4,
        tmp_path / "run",
        steps=6,
        batch_size=4,
        processor=subject.example.processor,
        config={key: value for key, value in subject.example.config.to_diff_dict().items() if _ours(subject, key)},
        arguments={"bf16": True},
    )
    assert run.status == "finished"


def _ours(subject, key):
    from hub_mim.testing.subject import own_fields

    return key in own_fields(subject.example.config)


def test_a_processor_s_tensors_reach_the_gpu():
    subject = Subject("remasker")
    model = subject.model().cuda()
    with torch.no_grad():
        assert model(**on_gpu(encode(subject.example.processor, subject.rows)), mask=None).loss.is_cuda
