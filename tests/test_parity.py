"""The parity harness: passes on a fixture made of the toy's own numbers, and can fail in every way it should."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_mim import conversion as engine
from hub_mim.testing.parity import compare
from hub_mim_toy import parity
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.conversion_toy import rules
from hub_mim_toy.modeling_toy import ToyMimForPreTraining


@pytest.fixture
def fixture(tmp_path):
    """A fixture in the made-up authors' layout, its numbers from the toy itself."""
    torch.manual_seed(0)
    model = ToyMimForPreTraining(ToyMimConfig()).eval()
    values = torch.rand(4, 6, 3)
    out = model(values, generator=torch.Generator().manual_seed(0))
    out.loss.backward()
    weights = engine.rename_back(model.state_dict(), rules(model.config))
    gradients = engine.rename_back({n: w.grad for n, w in model.named_parameters()}, rules(model.config))
    tensors = {f"weights/{name}": value for name, value in weights.items()}
    tensors |= {f"grads/{name}": value for name, value in gradients.items()}
    tensors |= {"inputs/values": values, "masks/mask": out.mask.int()}
    tensors |= {"outputs/predictions": out.predictions.detach(), "outputs/loss": out.loss.detach().reshape(1)}
    path = tmp_path / "toy_a.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"config": {"num_tokens": 6}}))
    return path


def change(path, name, function):
    tensors = load_file(path)
    tensors[name] = function(tensors[name])
    save_file(tensors, path)


def test_the_right_numbers_pass(fixture):
    report = compare("toy", fixture)
    assert report.passed, f"\n{report}"
    assert report.worst < 1e-6
    assert len(report.lines) > 20


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("weights/blocks.0.attn.qkv.weight", lambda value: value + 0.01),
        ("outputs/loss", lambda value: value * (1 + 3e-4)),
        ("grads/embed.bias", lambda value: value * 1.001),
        ("outputs/predictions", lambda value: value[:, :5].contiguous()),
        ("outputs/predictions", lambda value: value * torch.nan),
        ("outputs/unknown", None),
    ],
)
def test_a_wrong_number_turns_it_red(fixture, name, function):
    if function is None:
        tensors = load_file(fixture)
        save_file({**tensors, name: torch.zeros(1)}, fixture)
    else:
        change(fixture, name, function)
    report = compare("toy", fixture)
    assert not report.passed
    assert "BAD" in str(report)


def test_what_is_left_out_is_listed(fixture, monkeypatch):
    change(fixture, "outputs/loss", lambda value: value + 1)
    monkeypatch.setattr(parity, "NOT_COMPARED", {"outputs/loss": "the authors print it rounded"})
    report = compare("toy", fixture)
    assert report.passed
    assert "the authors print it rounded" in str(report)


def test_a_file_without_references_is_an_error(tmp_path):
    save_file({"inputs/x": torch.zeros(1)}, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no tensor under outputs"):
        compare("toy", tmp_path / "x.safetensors")
