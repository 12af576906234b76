"""Weights in bfloat16 with float32 copies in the optimiser: the steps of autocast, and nothing lost on the way to disk."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import hub_mim
from hub_mim.half_weights import AT_ONCE, MasterWeights, castable
from hub_mim.samples import sample_rows

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import interrupted_and_resumed, losses, same_weights, saving, trainer

HALF = {"half_weights": True, "bf16": True}
FAST = {
    "steps": 6,
    "batch_size": 8,
    "validation": 0.2,
    "arguments": {"bf16": True, "logging_steps": 1, "save_steps": 2},
}


class Tied(nn.Module):
    """A table that the output shares, a norm, and a layer of its own."""

    def __init__(self):
        super().__init__()
        self.table, self.norm, self.layer = nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 4)
        self.output = nn.Linear(4, 5, bias=False)
        self.output.weight = self.table.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


def test_what_autocast_leaves_alone_stays_in_float32():
    model = Tied()
    assert castable(model) == {model.layer.weight, model.layer.bias}
    MasterWeights(torch.optim.SGD(model.parameters(), lr=0.1), castable(model))
    kinds = {name: weight.dtype for name, weight in model.named_parameters()}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == {"layer.weight", "layer.bias"}


def test_steps_are_those_of_autocast_bit_for_bit(tmp_path):
    plain, half = (trainer(tmp_path / str(n), max_grad_norm=0, **f) for n, f in enumerate(({"bf16": True}, HALF)))
    assert [each.train().global_step for each in (plain, half)] == [6, 6]
    assert losses(plain) == losses(half)
    assert same_weights(plain, half)
    assert {weight.dtype for weight in half.model.parameters()} == {torch.float32}


def test_gradients_are_clipped_as_in_float32(tmp_path):
    plain, half = (trainer(tmp_path / str(n), max_grad_norm=0.01, **f) for n, f in enumerate(({"bf16": True}, HALF)))
    plain.train()
    half.train()
    for name, weight in plain.model.named_parameters():
        assert torch.allclose(weight, half.model.get_parameter(name), atol=1e-7), name


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path):
    whole = saving(tmp_path / "whole", **HALF)
    whole.train()
    resumed = interrupted_and_resumed(tmp_path / "broken", 6, **HALF)
    assert losses(resumed) == losses(whole)
    assert same_weights(whole, resumed)


def test_the_best_step_is_kept_in_float32(tmp_path):
    rows = sample_rows("iris-gaps", num_rows=40)
    runs = {
        half: hub_mim.pretrain("remasker", rows, tmp_path / str(half), half_weights=half, **FAST)
        for half in (False, True)
    }
    weights = {half: load_file(tmp_path / str(half) / "model.safetensors") for half in runs}
    assert runs[True].half_weights
    logged = [[{**line, "grad_norm": 0} for line in run.history] for run in runs.values()]
    assert logged[0] == logged[1]
    for name, value in weights[False].items():
        assert torch.equal(value, weights[True][name]), name
    assert any((value.bfloat16().float() != value).any() for value in weights[True].values())
    assert hub_mim.load(tmp_path / "True").dtype == torch.float32


def test_weights_are_stepped_some_at_a_time():
    torch.manual_seed(0)
    side = int(AT_ONCE**0.5)
    layers = nn.Sequential(nn.Linear(side, side, bias=False), nn.Linear(side, 3))
    optimizer = torch.optim.SGD(layers.parameters(), lr=1.0)
    before = [weight.detach().clone() for weight in layers.parameters()]
    halved = MasterWeights(optimizer, castable(layers))
    for weight in layers.parameters():
        weight.grad = torch.ones_like(weight)
    halved.step()
    halved.restore()
    for old, new in zip(before, layers.parameters(), strict=True):
        assert torch.equal(new, old - 1)


def test_they_need_bf16(tmp_path):
    with pytest.raises(ValueError, match=r"--half-weights.*need bf16=true"):
        trainer(tmp_path, half_weights=True)
