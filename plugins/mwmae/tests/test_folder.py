"""From a folder of sound files to a model and to embeddings, by the general verbs."""

import numpy as np
import pytest
import soundfile

import hub_mim
from hub_mim.data import load_rows
from hub_mim.embedding import embed
from hub_mim_mwmae.plugin import NANO

SMALL = {"num_hidden_layers": 1, "decoder_num_hidden_layers": 1}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    source = np.random.default_rng(0)
    for number in range(6):
        kind = ("wav", "flac", "ogg")[number % 3]
        rate = (8000, 16_000, 44_100)[number % 3]
        place = folder / ("low" if number < 3 else "high")
        place.mkdir(exist_ok=True)
        pitch = 300 if number < 3 else 2000
        wave = np.sin(2 * np.pi * pitch * np.arange(rate) / rate) * 0.3 + source.normal(0, 0.01, rate)
        soundfile.write(place / f"{number}.{kind}", wave, rate)
    return folder


def test_a_folder_trains_and_embeds(sounds, tmp_path):
    run = hub_mim.pretrain("mwmae", sounds, tmp_path / "run", preset="nano", config=SMALL, steps=2, batch_size=2)
    assert (run.status, run.rows) == ("finished", 5)
    embed(tmp_path / "run", sounds, tmp_path / "vectors.parquet")
    table = load_rows(tmp_path / "vectors.parquet")
    assert len(table) == 6
    assert len(table[0]["embedding"]) == NANO["hidden_size"] * 5


def test_a_file_that_is_no_sound_is_named(sounds, tmp_path):
    import shutil

    folder = shutil.copytree(sounds, tmp_path / "sounds")
    (folder / "low" / "broken.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"broken\.wav cannot be read as sound"):
        hub_mim.pretrain("mwmae", folder, tmp_path / "run", preset="nano", config=SMALL, steps=9, batch_size=2)


def test_a_picture_is_drawn(sounds, tmp_path):
    from hub_mim.showing import show

    hub_mim.pretrain("mwmae", sounds, tmp_path / "run", preset="nano", config=SMALL, steps=1, batch_size=2)
    assert show(tmp_path / "run", sounds, tmp_path / "shown.png", count=2).is_file()
