"""The authors' numbers, from the fixtures kept here: MW-MAE, the plain MAE, and from waveform to embedding."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from hub_mim.testing.parity import compare

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "count"), [("mwmae_a", 35), ("mwmae_baseline_mae", 24), ("mwmae_frontend", 20)])
def test_every_number_of_the_authors_is_reached(name, count):
    report = compare("mwmae", GOLDEN / f"{name}.safetensors")
    assert report.passed, f"\n{report}"
    assert len(report.lines) == count
    assert report.worst < 2e-6


@pytest.mark.parametrize("weight", ["weights/mask_token", "weights/decoder_block_01/wmha_block/qkv/kernel"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    tensors = load_file(GOLDEN / "mwmae_a.safetensors")
    tensors[weight].view(-1)[0] += 0.1
    save_file(tensors, tmp_path / "changed.safetensors")
    facts = json.loads((GOLDEN / "mwmae_a.json").read_text())
    (tmp_path / "changed.json").write_text(json.dumps(facts))
    assert not compare("mwmae", tmp_path / "changed.safetensors").passed
