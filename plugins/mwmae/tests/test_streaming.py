"""Clips piece by piece give what they give whole, in memory that does not grow; files that cannot be read are told."""

import io
import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from hub_mim.embedding import embed
from hub_mim.training import pretrain
from hub_mim_mwmae import streaming
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig
from hub_mim_mwmae.example import sample
from hub_mim_mwmae.feature_extraction_mwmae import MwMaeFeatureExtractor
from hub_mim_mwmae.modeling_mwmae import MwMaeForPreTraining, MwMaeModel

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "decoder_num_hidden_layers": 1,
}


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return MwMaeModel(MwMaeConfig(**TINY)).eval()


@pytest.mark.parametrize("rate", [16_000, 8_000, 44_100, 22_050])
@pytest.mark.parametrize("seconds", [0.05, 1.99, 2.0, 5.3, 9.777])
def test_piece_by_piece_is_as_whole(encoder, monkeypatch, rate, seconds):
    monkeypatch.setattr(streaming, "SECONDS", 1)
    samples = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), 2))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")
    clip = {"bytes": file.getvalue(), "path": None}
    extractor = MwMaeFeatureExtractor()
    with torch.no_grad():
        whole = encoder(**extractor([clip]))
    steps = int(whole.valid[0].sum()) // encoder.config.grid[1]
    found = list(streaming.frames(encoder, extractor, {"audio": clip}, batch_size=2))
    vectors = np.concatenate([part for _, part in found])
    assert np.allclose(vectors, whole.frame_embeddings[0, :steps].numpy(), atol=1e-5)
    assert [time for times, _ in found for time in times] == [40.0 * step for step in range(steps)]
    ((_, scene),) = streaming.scenes(encoder, extractor, {"audio": clip})
    assert np.allclose(scene[0], whole.pooler_output[0].numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "message"),
    [(np.zeros(0), "no samples"), (np.full(16_000, np.nan), "no numbers"), (np.zeros(100), "too short")],
)
def test_clips_that_are_none_are_told(encoder, samples, message):
    with pytest.raises(ValueError, match=message):
        list(streaming.frames(encoder, MwMaeFeatureExtractor(), {"audio": samples.astype(np.float32)}))


PEAK = """
import resource, sys, numpy as np
from hub_mim.embedding import embed
done = embed(sys.argv[1], [{"audio": {"bytes": None, "path": sys.argv[2]}}], sys.argv[3], per="frame", batch_size=16)
print(done.rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_two_minutes(tmp_path):
    torch.manual_seed(0)
    MwMaeForPreTraining(MwMaeConfig(**TINY)).save_pretrained(tmp_path / "model")
    MwMaeFeatureExtractor().save_pretrained(tmp_path / "model")
    found = []
    for minutes in (2, 60):
        path = tmp_path / f"{minutes}.wav"
        with soundfile.SoundFile(path, "w", 16_000, 1) as file:
            for minute in range(minutes):
                file.write(np.random.default_rng(minute).normal(0, 0.1, 60 * 16_000))
        command = [sys.executable, "-c", PEAK, tmp_path / "model", path, tmp_path / f"{minutes}.npy"]
        told = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
        found.append(tuple(map(int, told.stdout.split())))
    assert [rows for rows, _ in found] == [3000 + 1, 90_000 + 1]
    assert found[1][1] < found[0][1] + 150  # MiB; the vectors of a part are held until it is written


@pytest.fixture
def folder(tmp_path):
    """Fifty files, of which one is text called wav and one is a truncated flac."""
    place = tmp_path / "sounds"
    for number, row in enumerate(sample(48, seconds=0.3)):
        target = place / ("rising" if row["label"] else "falling") / f"{number:02}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(row["audio"]["bytes"])
    (place / "rising" / "text.wav").write_text("no sound")
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 4000), 16_000, format="FLAC")
    (place / "falling" / "cut.flac").write_bytes(file.getvalue()[:60])
    return place


def test_one_bad_file_ends_a_run_or_is_left_out(folder, tmp_path, capsys):
    options = {"config": TINY, "steps": 2, "batch_size": 8, "validation": 0.1}
    with pytest.raises(ValueError, match="cannot be read as sound"):
        pretrain("mwmae", folder, tmp_path / "fatal", processor={"max_units": 1, "encode_once": True}, **options)
    assert not (tmp_path / "fatal" / "model.safetensors").exists()
    run = pretrain("mwmae", folder, tmp_path / "run", skip_unreadable=True, **options)
    assert run.rows + run.validation_rows == 48
    told = capsys.readouterr().err
    assert "text.wav cannot be read as sound" in told
    assert "cut.flac cannot be read as sound" in told
    for per in ("row", "scene", "frame"):
        with pytest.raises(ValueError, match="cannot be read as sound"):
            embed(tmp_path / "run", folder, tmp_path / "v.npy", per=per)
        done = embed(tmp_path / "run", folder, tmp_path / f"{per}.npy", per=per, skip_unreadable=True)
        assert len(done.skipped) == 2
        assert done.rows == (48 if per != "frame" else 48 * 8)
    whole, streamed = (np.load(tmp_path / f"{per}.npy") for per in ("row", "scene"))
    assert np.allclose(whole, streamed, atol=1e-5)


def test_an_interrupted_call_goes_on_after_the_last_whole_clip(folder, tmp_path, monkeypatch):
    from hub_mim import embedding

    pretrain("mwmae", folder, tmp_path / "run", skip_unreadable=True, config=TINY, steps=1, batch_size=8)
    options = {"per": "frame", "skip_unreadable": True}
    embed(tmp_path / "run", folder, tmp_path / "whole.npy", **options)
    monkeypatch.setattr(embedding, "_PART_ROWS", 20)
    usual, calls = streaming._encoded, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        yield from usual(*arguments)

    monkeypatch.setattr(streaming, "_encoded", failing)
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "run", folder, tmp_path / "again.npy", **options)
    done = embed(tmp_path / "run", folder, tmp_path / "again.npy", **options)
    assert done.resumed > 100
    assert np.array_equal(np.load(tmp_path / "whole.npy"), np.load(tmp_path / "again.npy"))
    assert json.dumps(done.skipped)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
