"""The authors' numbers (`ssl_*`: an independent reference's), from the fixture kept here; and that the comparison can fail."""

from pathlib import Path

import pytest

from hub_mim.testing.parity import changed, compare

FIXTURE = Path(__file__).parent / "golden" / "siglip2_a.safetensors"


def test_every_number_is_reached():
    report = compare("siglip2", FIXTURE)
    assert report.passed, f"\n{report}"
    assert len(report.lines) == 55
    assert not report.left_out
    assert report.worst < 5e-6


@pytest.mark.parametrize(
    "weight",
    [
        "weights/txt/head/kernel",
        "weights_decoder/EncDecBlock0/CrossAttn/value/kernel",
        "weights_ssl/teacher_patch_head.mlp.4.weight",
    ],
)
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("siglip2", changed(FIXTURE, weight, tmp_path)).passed
