"""The authors' numbers, from the fixture kept here; and that the comparison can fail."""

from pathlib import Path

import pytest

from hub_mim.testing.parity import changed, compare

FIXTURE = Path(__file__).parent / "golden" / "remasker_a.safetensors"


def test_every_number_of_the_authors_is_reached():
    report = compare("remasker", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 24
    assert report.worst < 2e-6


@pytest.mark.parametrize("weight", ["weights/blocks.1.mlp.fc2.weight", "weights/mask_token"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("remasker", changed(FIXTURE, weight, tmp_path)).passed
