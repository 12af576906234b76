"""The authors' numbers, from the fixture kept here; and that the comparison can fail."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hub_mim.testing.parity import changed, compare
from hub_mim_multimae.parity import masks_from_noise
from hub_mim_multimae.processing_multimae import standardize

FIXTURE = Path(__file__).parent / "golden" / "multimae_a.safetensors"


def test_every_number_of_the_authors_is_reached():
    report = compare("multimae", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 63
    assert report.worst < 3e-6


@pytest.mark.parametrize("weight", ["weights/encoder.1.mlp.fc2.weight", "weights/output_adapters.depth.mask_token"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("multimae", changed(FIXTURE, weight, tmp_path)).passed


def test_the_authors_masks_follow_from_their_noise():
    given = load_file(FIXTURE)
    noises = {name: given[f"masks/noise_{name}"] for name in ("rgb", "depth", "semseg")}
    mask, order = masks_from_noise(given["masks/dirichlet_sample"], noises, given["masks/noise_all"], 12)
    assert torch.equal(order, given["masks/ids_keep"])
    for name, each in mask.items():
        assert torch.equal(each, given[f"masks/{name}"].bool())


def test_depth_is_standardised_as_the_authors_do():
    given = load_file(FIXTURE)
    torch.testing.assert_close(standardize(given["inputs/depth_raw"]), given["inputs/depth"], rtol=0, atol=2e-6)
