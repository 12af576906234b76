"""Embeddings are the encoder's, in the order of the rows, whole or not at all, and go on where they stopped."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from hub_mim import embed, embedding, features, loading, sharing
from hub_mim.parts import remove_parts

toy = pytest.importorskip("hub_mim_toy.modeling_toy", reason="the toy plugin (tests/toy) is not installed")


@pytest.fixture(scope="module")
def rows():
    from hub_mim_toy.example import sample

    return [row | {"name": f"row {number}"} for number, row in enumerate(sample(50, seed=1))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(11)
    return sharing.save(
        tmp_path_factory.mktemp("toy") / "out", toy.ToyMimForPreTraining(toy.ToyMimConfig()), ToyMimProcessor()
    )


@pytest.fixture(scope="module")
def expected(folder, rows):
    return features.features(loading.load(folder), loading.load_processor(folder), rows)


def test_parquet_reads_back_with_datasets(folder, rows, expected, tmp_path):
    done = embed(folder, rows, tmp_path / "x.parquet", id="name", batch_size=7)
    assert (done.rows, done.width, done.resumed) == (50, 16, 0)
    read = Dataset.from_parquet(str(tmp_path / "x.parquet"), cache_dir=str(tmp_path / "cache")).with_format("numpy")
    assert np.allclose(read["embedding"][:], expected, atol=1e-5)
    assert list(read["id"][:]) == [row["name"] for row in rows]
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["x.parquet"]


def test_npy_and_streams(folder, rows, expected, tmp_path):
    embed(folder, rows, tmp_path / "x.npy")
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)
    with (tmp_path / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    embed(folder, tmp_path / "rows.jsonl", tmp_path / "y.npy", streaming=True, dtype="bf16")
    assert np.allclose(np.load(tmp_path / "y.npy"), expected, atol=0.1)


def test_an_interrupted_call_goes_on(folder, rows, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "_PART_ROWS", 8)
    usual, calls = features.batch_features, []

    def failing(*arguments, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return usual(*arguments, **options)

    monkeypatch.setattr(features, "batch_features", failing)
    with pytest.raises(KeyboardInterrupt):
        embed(folder, rows, tmp_path / "x.npy", batch_size=4)
    assert not (tmp_path / "x.npy").exists()
    calls.extend([1] * 10)
    done = embed(folder, rows, tmp_path / "x.npy", batch_size=4)
    assert done.resumed == 16
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def interrupt_the_end(folder, rows, out, monkeypatch):
    """Embed all rows, in parts, and stop before they are joined; returns the parts."""

    def interrupted(self, path):
        raise KeyboardInterrupt

    monkeypatch.setattr(embedding, "_PART_ROWS", 10)
    with monkeypatch.context() as patch:
        patch.setattr(embedding.Parts, "join", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(folder, rows, out, batch_size=10)
    return sorted((out.parent / f".{out.name}.parts").glob("*.parquet"))


def test_a_call_that_had_embedded_everything_goes_on(folder, rows, expected, tmp_path, monkeypatch):
    """Nothing is left to embed then, of which datasets' own `skip` makes an error."""
    assert len(interrupt_the_end(folder, rows, tmp_path / "x.npy", monkeypatch)) == 5
    assert embed(folder, rows, tmp_path / "x.npy", batch_size=10).resumed == 50
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


@pytest.mark.parametrize("place", [0, 200, -1])
def test_a_damaged_part_is_made_again(folder, rows, expected, tmp_path, monkeypatch, capsys, place):
    parts = interrupt_the_end(folder, rows, tmp_path / "x.npy", monkeypatch)
    content = bytearray(parts[2].read_bytes())
    content[place] ^= 1
    parts[2].write_bytes(content)
    assert embed(folder, rows, tmp_path / "x.npy", batch_size=10).resumed == 20
    assert f"{parts[2]} is damaged" in capsys.readouterr().err
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


def test_parts_that_were_being_removed_are_not_gone_on_from(folder, rows, expected, tmp_path, monkeypatch):
    """A process that is killed while it removes them leaves some of them."""
    parts = interrupt_the_end(folder, rows, tmp_path / "x.npy", monkeypatch)

    def killed(folder, ignore_errors):
        parts[0].unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hub_mim.parts.shutil.rmtree", killed)
        remove_parts(parts[0].parent)
    assert embed(folder, rows, tmp_path / "x.npy", batch_size=10).resumed == 0
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


def test_parts_of_other_settings_are_not_mixed_in(folder, rows, expected, tmp_path, monkeypatch):
    parts = embedding.Parts(tmp_path / ".x.npy.parts", {"pooling": "other"})
    parts.add(list(range(50)), [], np.zeros((50, 16), dtype=np.float32), 50)
    assert embed(folder, rows, tmp_path / "x.npy").resumed == 0
    assert np.allclose(np.load(tmp_path / "x.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("x.csv", {}, r"x\.csv must end in \.parquet or \.npy"),
        ("x.npy", {"dtype": "bf"}, "no dtype 'bf'; did you mean 'bf16'"),
        ("x.npy", {"id": "names"}, "no column 'names'; did you mean 'name'"),
        ("x.npy", {"pooling": "pooled"}, "no pooling 'pooled'"),
    ],
)
def test_bad_input_is_told_and_nothing_is_left(folder, rows, tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        embed(folder, rows, tmp_path / name, **options)
    assert not (tmp_path / name).exists()


def test_nothing_is_overwritten_unasked(folder, rows, tmp_path):
    (tmp_path / "x.npy").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite"):
        embed(folder, rows, tmp_path / "x.npy")
    assert (tmp_path / "x.npy").read_text() == "mine"
    embed(folder, rows, tmp_path / "x.npy", overwrite=True)
