"""The choice of pairs that are worth learning, and training on these alone."""

import copy
import os
import socket
import subprocess
import sys

import pytest
import torch

from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.contrast import unit
from hub_mim_siglip2.curation import Judge, select_learnable
from hub_mim_siglip2.example import example
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimForPreTraining


def a_judge(count=24, seed=0, width=5):
    source = torch.Generator().manual_seed(seed)
    x, y = (unit(torch.randn(count, width, generator=source)) for _ in range(2))
    return Judge(x, y, 1.0, -2.0)


def whole_matrix(judge):
    """Return the losses of all pairs (S, S) by their definition."""
    logits = judge.images.double() @ judge.texts.double().T * torch.tensor(judge.log_scale).double().exp() + judge.bias
    signs = 2 * torch.eye(len(logits), dtype=torch.float64) - 1
    return -torch.nn.functional.logsigmoid(signs * logits)


@pytest.mark.parametrize(("keep", "chunks"), [(8, 4), (7, 3), (1, 16), (24, 5), (24, 1)])
def test_as_many_as_wanted_distinct_and_repeatable(keep, chunks):
    first, again, other = (
        select_learnable(a_judge(), a_judge(seed=1, width=3), keep, chunks=chunks, seed=seed) for seed in (3, 3, 4)
    )
    assert len(set(first.tolist())) == len(first) == keep
    assert torch.equal(first, again)
    assert keep == 1 or not torch.equal(first, other)


def test_a_pair_far_above_the_rest_is_chosen_at_once():
    learner, reference = a_judge(), a_judge()
    reference.images[5] = reference.texts[5]
    learner.images[5] = -learner.texts[5]
    sure = Judge(reference.images, reference.texts, 4.0, -2.0)
    unsure = Judge(learner.images, learner.texts, 4.0, -2.0)
    for seed in range(10):
        assert int(select_learnable(unsure, sure, 3, chunks=3, seed=seed)[0]) == 5


def test_a_learner_that_is_its_reference_draws_uniformly():
    counts = torch.zeros(6)
    for seed in range(1000):
        counts[select_learnable(a_judge(6), a_judge(6), 2, chunks=2, seed=seed)] += 1
    assert (counts / 1000 - 2 / 6).abs().max() < 0.06


def test_later_draws_depend_on_what_is_chosen():
    """After a first draw the law is that of s_ii + sum over the chosen of s_ij + s_ji, here computed from the whole matrix."""
    learner, reference = a_judge(7), a_judge(7, seed=1)
    gain = whole_matrix(learner) - whole_matrix(reference)
    law: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {place: torch.zeros(7) for place in range(7)}
    for place in range(7):
        scores = gain.diagonal() + gain[:, place] + gain[place]
        scores[place] = -torch.inf
        law[place] = scores.softmax(0)
    for seed in range(1200):
        one, two = select_learnable(learner, reference, 2, chunks=2, seed=seed, block=3).tolist()
        seen[one][two] += 1
    firsts = torch.stack([seen[place].sum() for place in range(7)])
    assert (firsts / 1200 - gain.diagonal().softmax(0)).abs().max() < 0.06
    often = int(firsts.argmax())
    assert (seen[often] / firsts[often] - law[often]).abs().max() < 0.1


@pytest.mark.parametrize(("keep", "chunks"), [(0, 4), (25, 4), (3, 0)])
def test_numbers_out_of_range_are_refused(keep, chunks):
    with pytest.raises(ValueError, match=f"{keep} pairs are to be chosen in {chunks} draws"):
        select_learnable(a_judge(), a_judge(), keep, chunks=chunks)


def test_training_takes_the_chosen_rows_alone(tmp_path):
    found = example()
    torch.manual_seed(0)
    fields = copy.deepcopy(found.config).to_dict()
    judge = Siglip2MimForPreTraining(Siglip2MimConfig(**fields))
    judge.save_pretrained(tmp_path / "judge")
    told = {"curation_ratio": 0.5, "curation_reference": str(tmp_path / "judge")}
    model = Siglip2MimForPreTraining(Siglip2MimConfig(**fields | told)).train()
    batch = dict(found.processor(rows=found.rows))
    out = model(**batch, row_seed=torch.arange(6), step_seed=5)
    assert len(out.selected) == len(out.mask) == 3
    again = model(**batch, row_seed=torch.arange(6), step_seed=5, selected=out.selected)
    assert torch.equal(out.mask, again.mask)
    assert not any("reference" in name for name in model.state_dict())
    assert len(model.eval()(**batch, row_seed=torch.arange(6)).mask) == 6
    missing = Siglip2MimForPreTraining(Siglip2MimConfig(**fields | {"curation_ratio": 0.5})).train()
    with pytest.raises(ValueError, match="curation_reference names no model"):
        missing(**batch, row_seed=torch.arange(6))


SPREAD = """
import sys, torch, torch.distributed as dist
from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.example import example
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimForPreTraining
found = example()
torch.manual_seed(0)
fields = found.config.to_dict() | {"losses": ["sigmoid", "caption"], "curation_ratio": 1 / 3, "curation_reference": sys.argv[1]}
model = Siglip2MimForPreTraining(Siglip2MimConfig(**fields)).train()
batch = dict(found.processor(rows=found.rows)) | {"row_seed": torch.arange(6)}
alone = model(**batch, step_seed=4)
dist.init_process_group("gloo")
rank = dist.get_rank()
mine = model(**{name: value[3 * rank : 3 * rank + 3] for name, value in batch.items()}, step_seed=4)
assert torch.equal(mine.selected, alone.selected[rank::2]), (mine.selected, alone.selected)
for name, value in mine.losses.items():
    told = value.detach().clone()
    dist.all_reduce(told)
    torch.testing.assert_close(told / 2, alone.losses[name].detach(), rtol=1e-4, atol=1e-5)
dist.destroy_process_group()
"""


@pytest.mark.distributed
def test_processes_choose_together_and_share_what_is_chosen(tmp_path):
    found = example()
    torch.manual_seed(1)
    Siglip2MimForPreTraining(copy.deepcopy(found.config)).save_pretrained(tmp_path / "judge")
    script = tmp_path / "spread.py"
    script.write_text(SPREAD)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [*start, str(tmp_path / "judge")], capture_output=True, text=True, env=environment, timeout=300
    )
    assert told.returncode == 0, told.stderr[-2000:]
