"""The authors' numbers, from the fixtures kept here: MW-MAE, the plain MAE, and from waveform to embedding."""

from pathlib import Path

import pytest

from hub_mim.testing.parity import changed, compare

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(("name", "count"), [("mwmae_a", 35), ("mwmae_baseline_mae", 24), ("mwmae_frontend", 20)])
def test_every_number_of_the_authors_is_reached(name, count):
    report = compare("mwmae", GOLDEN / f"{name}.safetensors")
    assert report.passed, f"\n{report}"
    assert len(report.lines) == count
    # a Fourier transform rounds quiet bins otherwise on each kind of processor: see TOLERANCES of the plugin's parity
    assert report.worst < (5e-4 if name == "mwmae_frontend" else 2e-6)


@pytest.mark.parametrize("weight", ["weights/mask_token", "weights/decoder_block_01/wmha_block/qkv/kernel"])
def test_one_changed_weight_turns_it_red(tmp_path, weight):
    assert not compare("mwmae", changed(GOLDEN / "mwmae_a.safetensors", weight, tmp_path)).passed
