"""The authors' numbers, from the fixture kept here, heads included; and that the comparison can fail."""

from pathlib import Path

import pytest

from hub_mim.testing.parity import changed, compare

FIXTURE = Path(__file__).parent / "golden" / "uniter_a.safetensors"


def test_every_number_of_the_authors_is_reached():
    report = compare("uniter", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 50
    assert report.worst < 3e-6


@pytest.mark.parametrize(
    "weight",
    [
        "weights/uniter.encoder.layer.1.output.dense.weight",
        "weights_vcr/vcr_output.0.weight",
        "weights/itm_output.bias",
    ],
)
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("uniter", changed(FIXTURE, weight, tmp_path)).passed
