"""Sounds of every kind become spectrograms, or are refused with a reason."""

import io

import numpy as np
import pytest
import soundfile
import torch

from hub_mim_mwmae.feature_extraction_mwmae import MwMaeFeatureExtractor, read_clip
from hub_mim_mwmae.frontend import log_mel, pad_to_units, standardize

RATE = 16_000


def tone(seconds=1.0, rate=RATE, pitch=440.0):
    return (0.3 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples, rate, kind):
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_files_of_several_kinds_are_read(kind, tmp_path):
    extractor = MwMaeFeatureExtractor()
    wanted = extractor(tone(2.0))["input_values"]
    content = encoded(tone(2.0), RATE, kind)
    (tmp_path / "a.sound").write_bytes(content)
    for clip in (
        {"bytes": content, "path": None},
        str(tmp_path / "a.sound"),
        {"bytes": None, "path": str(tmp_path / "a.sound")},
    ):
        found = extractor([clip])["input_values"]
        assert found.shape == wanted.shape
        close = (found - wanted).abs().median()
        assert close < (0.5 if kind == "OGG" else 0.2)  # 16 bits and compression change what is nearly silent


def test_rates_and_channels_are_brought_to_one():
    extractor = MwMaeFeatureExtractor()
    pitch = int(np.argmax(extractor(tone(2.0))["input_values"][0, 100]))
    for rate in (8000, 44_100, 48_000):
        clip = {"array": np.stack([tone(2.0, rate), tone(2.0, rate)]), "sampling_rate": rate}
        values = extractor([clip])["input_values"]
        assert values.shape == (1, 400, 80)
        assert int(values[0, 100].argmax()) == pitch
    samples, rate = read_clip(np.stack([np.ones(50), np.zeros(50)], 1), 100)
    assert samples.tolist() == [0.5] * 50
    assert rate == 100


def test_lengths():
    extractor = MwMaeFeatureExtractor()
    batch = extractor([tone(1.0), tone(4.5)])
    assert batch["input_values"].shape == (2, 600, 80)
    assert batch["num_frames"].tolist() == [101, 451]
    assert not batch["input_values"][0, 200:].any()
    one = MwMaeFeatureExtractor(max_units=1)([tone(4.5)])
    assert one["input_values"].shape == (1, 200, 80)
    assert one["num_frames"].tolist() == [200]


def test_the_end_is_mirrored_as_often_as_needed():
    values = torch.arange(3.0)[:, None]
    assert pad_to_units(values, 8)[:, 0].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]
    assert pad_to_units(values[:1], 3)[:, 0].tolist() == [0, 0, 0]
    assert pad_to_units(torch.arange(4.0)[:, None], 4).shape == (8, 1)


def test_gradients_reach_the_waveform():
    wave = torch.from_numpy(tone(0.5)).double().requires_grad_()
    standardize(log_mel(wave)).square()[10].sum().backward()
    assert wave.grad.isfinite().all()
    assert wave.grad.abs().sum() > 0


def test_saving_and_loading_gives_the_same(tmp_path):
    extractor = MwMaeFeatureExtractor(feature_size=40, frames=100, deviation="population")
    extractor.save_pretrained(tmp_path)
    again = MwMaeFeatureExtractor.from_pretrained(tmp_path)
    assert torch.equal(extractor([tone()])["input_values"], again([tone()])["input_values"])


def test_silence_is_no_trouble():
    assert MwMaeFeatureExtractor()([np.zeros(RATE, np.float32)])["input_values"].isfinite().all()


@pytest.mark.parametrize(
    ("clip", "told"),
    [
        (np.zeros(0, np.float32), "has no samples"),
        (np.full(4000, np.nan, np.float32), "4000 samples that are no numbers"),
        (np.zeros(100, np.float32), "too short; the least is 13 ms"),
        (np.zeros((2, 2, 50), np.float32), r"\(2, 2, 50\)"),
        ({"bytes": b"this is a text", "path": "speech.wav"}, "speech.wav cannot be read as sound"),
        ({"bytes": None, "path": "nowhere.flac"}, "nowhere.flac cannot be read"),
        ({"bytes": None, "path": None}, "neither samples nor a file"),
    ],
)
def test_what_is_no_sound_is_told(clip, told):
    with pytest.raises(ValueError, match=told):
        MwMaeFeatureExtractor()([clip])


def test_a_flac_that_was_cut_short_is_told():
    whole = encoded(tone(3.0), RATE, "FLAC")
    with pytest.raises(ValueError, match=r"cut\.flac cannot be read as sound"):
        MwMaeFeatureExtractor()([{"bytes": whole[: len(whole) // 3], "path": "cut.flac"}])


def test_settings_out_of_range_are_told():
    with pytest.raises(ValueError, match="half the sampling rate 8000"):
        MwMaeFeatureExtractor(sampling_rate=8000)
    with pytest.raises(ValueError, match="how many units to keep"):
        MwMaeFeatureExtractor(encode_once=True)
    with pytest.raises(ValueError, match="'unbiased' or 'population'"):
        MwMaeFeatureExtractor(deviation="sample")
