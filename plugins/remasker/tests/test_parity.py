"""The authors' numbers, from the fixture kept here; and that the comparison can fail."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_mim.testing.parity import compare
from hub_mim_remasker.conversion_remasker import config_from
from hub_mim_remasker.modeling_remasker import ReMaskerForPreTraining
from hub_mim_remasker.plugin import hub_mim_methods

FIXTURE = Path(__file__).parent / "golden" / "remasker_a.safetensors"


def test_every_number_of_the_authors_is_reached():
    report = compare("remasker", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 24
    assert report.worst < 2e-6


@pytest.mark.parametrize("weight", ["weights/blocks.1.mlp.fc2.weight", "weights/mask_token"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    tensors = load_file(FIXTURE)
    tensors[weight].view(-1)[0] += 0.1
    save_file(tensors, tmp_path / "changed.safetensors")
    facts = json.loads(FIXTURE.with_suffix(".json").read_text())
    (tmp_path / "changed.json").write_text(json.dumps(facts))
    assert not compare("remasker", tmp_path / "changed.safetensors").passed


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("legacy-iris", 77_569),
        ("legacy", 128_385),
        ("legacy-bike", 153_793),
        ("legacy-raisin", 604_545),
        ("legacy-wine", 704_513),
    ],
)
def test_parameter_counts_of_the_paper(preset, count):
    config = config_from_preset(preset)
    with torch.device("meta"):
        model = ReMaskerForPreTraining(config)
    assert sum(weight.numel() for weight in model.parameters()) == count


def config_from_preset(preset):
    from hub_mim_remasker.configuration_remasker import ReMaskerConfig

    return ReMaskerConfig(cardinalities=[0] * 13, **hub_mim_methods()[0].presets[preset])


def test_configuration_is_read_off_the_weights():
    weights = {name.removeprefix("weights/"): value for name, value in load_file(FIXTURE).items() if "weights/" in name}
    config = config_from(weights)
    assert (config.num_columns, config.hidden_size, config.num_hidden_layers) == (5, 8, 2)
    assert (config.decoder_num_hidden_layers, config.intermediate_size, config.legacy) == (1, 32, True)
