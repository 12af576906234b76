"""The reference's numbers, from the fixture kept here; and that the comparison can fail.

The reference is an independent float64 implementation of the paper: the authors released no code.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hub_mim.testing.parity import changed, compare, under
from hub_mim_cfm_vit.parity import build, mask_from_noise, predict, tables

FIXTURE = Path(__file__).parent / "golden" / "cfm_vit_a.safetensors"


@pytest.fixture(scope="module")
def given():
    return load_file(FIXTURE)


@pytest.fixture(scope="module")
def facts():
    return json.loads(FIXTURE.with_suffix(".json").read_text(encoding="utf-8"))


def test_every_number_of_the_reference_is_reached():
    report = compare("cfm_vit", FIXTURE)
    assert report.passed, f"\n{report}"
    assert not report.left_out
    assert len(report.lines) == 40
    assert report.worst < 1e-7


@pytest.mark.parametrize("weight", ["weights/vision.blocks.1.attn.qkv.bias", "weights/decoder.mask_token"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("cfm_vit", changed(FIXTURE, weight, tmp_path)).passed


def test_the_references_masks_follow_from_its_noise(given, facts):
    mask = mask_from_noise(given["masks/noise"], facts["config"]["mask_ratio"])
    assert torch.equal(mask, given["masks/mask"].bool())
    for name, which in (("visible", ~mask), ("masked", mask)):
        assert torch.equal(which.nonzero()[:, 1].view(len(mask), -1), given[f"masks/ids_{name}"])


def test_the_references_tables_are_ours(given, facts):
    made = tables(build(facts["config"], given), tuple(facts["config"]["hires_hw"]))
    for name, table in under("buffers/", given).items():
        torch.testing.assert_close(made[f"buffers/{name}"], table, rtol=0, atol=2e-7)


def test_other_configurations_are_read_from_the_json(tmp_path, given, facts):
    """Where whole pictures are contrasted, half is hidden and targets are no constants, the numbers are others."""
    facts["config"] |= {"contrastive_on": "full", "mask_ratio": 0.5, "stop_gradient_target": False}
    other = tmp_path / "other.safetensors"
    save_file(given, other)
    other.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
    ours, theirs = predict(other), predict(FIXTURE)
    assert ours.keys() == theirs.keys()
    assert ours["outputs/contrastive_tokens"].shape == (4, 16, 48)
    assert ours["outputs/reconstruction"].shape == (4, 8, 32)
    same = "grads/vision.proj.weight", "grads_no_stop_gradient/vision.proj.weight"
    torch.testing.assert_close(ours[same[0]], ours[same[1]])
    assert not torch.allclose(theirs[same[0]], theirs[same[1]])
