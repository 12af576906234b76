"""Folders of sounds are read as files where datasets has nothing to decode them with."""

import pytest

from hub_mim import reading
from hub_mim.data import load_rows


@pytest.fixture(autouse=True)
def without_torchcodec(monkeypatch):
    monkeypatch.setattr(reading, "can_decode", lambda: False)


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"sound")
    return folder


def test_labels_are_the_names_of_folders(tmp_path):
    rows = load_rows(files(tmp_path, "dog/a.wav", "dog/b.flac", "cat/c.ogg", "cat/.hidden.wav"))
    assert [row["audio"]["path"].rsplit("/", 1)[1] for row in rows] == ["c.ogg", "a.wav", "b.flac"]
    assert rows.features["label"].names == ["cat", "dog"]
    assert [row["label"] for row in rows] == [0, 1, 1]
    assert rows[0]["audio"]["bytes"] is None


def test_splits_are_folders_directly_below(tmp_path):
    folder = files(tmp_path, "train/a.wav", "train/b.wav", "test/c.wav")
    assert len(load_rows(folder)) == 2
    assert len(load_rows(folder, split="test")) == 1
    assert "label" not in load_rows(folder).column_names
    with pytest.raises(ValueError, match="it has test, train|it has train, test"):
        load_rows(folder, split="validation")


def test_streaming(tmp_path):
    rows = load_rows(files(tmp_path, "a.wav", "b.mp3"), streaming=True)
    assert len(list(rows)) == 2


def test_metadata_needs_a_decoder(tmp_path):
    folder = files(tmp_path, "a.wav")
    (folder / "metadata.csv").write_text("file_name,text\na.wav,hello\n")
    with pytest.raises(ValueError, match="pip install torchcodec|mixes"):
        load_rows(folder)


def test_columns_of_sounds_are_left_undecoded(tmp_path):
    from datasets import Audio, Dataset

    rows = Dataset.from_dict({"audio": [{"bytes": b"x", "path": "a.wav"}]})
    rows = rows.cast_column("audio", Audio(sampling_rate=16_000, decode=True))
    assert load_rows(rows)[0]["audio"] == {"bytes": b"x", "path": "a.wav"}
