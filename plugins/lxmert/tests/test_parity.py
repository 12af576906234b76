"""The authors' numbers, from the fixture kept here, heads included; and that the comparison can fail."""

from pathlib import Path

import pytest

from hub_mim.testing.parity import changed, compare

FIXTURE = Path(__file__).parent / "golden" / "lxmert_a.safetensors"


def test_every_number_of_the_authors_is_reached():
    report = compare("lxmert", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 39
    assert report.worst < 3e-6


@pytest.mark.parametrize(
    "weight", ["weights/bert.encoder.x_layers.1.visual_attention.att.key.weight", "weights_vqa/logit_fc.3.bias"]
)
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("lxmert", changed(FIXTURE, weight, tmp_path)).passed
