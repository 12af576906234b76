"""The authors' numbers, from the fixture kept here; and that the comparison can fail."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hub_mim.testing.parity import compare

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
