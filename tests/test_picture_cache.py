"""Pictures that are decoded once."""

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as Pictures

from hub_mim import picture_cache
from hub_mim.picture_cache import cached


@pytest.fixture(scope="module")
def rows():
    source = np.random.default_rng(0)
    made = []
    for number in range(300):
        colours = source.integers(0, 256, (20 + number % 7, 30, 3), dtype=np.uint8)
        depth = source.integers(0, 65536, (20, 30), dtype=np.uint16)
        made.append({"image": Pictures.fromarray(colours), "depth": Pictures.fromarray(depth), "label": number})
    kinds = Features({"image": Image(), "depth": Image(), "label": Value("int64")})
    return Dataset.from_list(made, features=kinds)


def same(first, second):
    return first.mode == second.mode and np.array_equal(np.asarray(first), np.asarray(second))


def test_pictures_come_back_as_they_are(rows, tmp_path):
    found = cached(rows, tmp_path / "cache")
    assert len(found) == 300
    for number in (0, 5, 299):
        assert found[number]["label"] == number
        assert same(found[number]["image"], rows[number]["image"])
        assert same(found[number]["depth"], rows[number]["depth"])
    part = found.select([7, 3])[:]
    assert [each.size for each in part["image"]] == [(30, 20), (30, 23)]


def test_a_cache_is_built_once_and_goes_on_where_it_was_interrupted(rows, tmp_path, monkeypatch):
    whole = cached(rows, tmp_path / "whole")
    usual, calls = picture_cache._add, []

    def interrupted(*given):
        calls.append(given[1])
        if len(calls) == 2:
            given[5].write(b"half a picture")
            raise KeyboardInterrupt
        return usual(*given)

    with monkeypatch.context() as patch:
        patch.setattr(picture_cache, "_add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cached(rows, tmp_path / "broken")
    again = cached(rows, tmp_path / "broken")
    for name in (picture_cache.PIXELS, picture_cache.INDEX):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert same(again[280]["image"], whole[280]["image"])
    monkeypatch.setattr(picture_cache, "_add", None)  # nothing is built a second time
    assert same(cached(rows, tmp_path / "whole")[1]["image"], rows[1]["image"])


def test_large_pictures_are_shrunk(rows, tmp_path):
    found = cached(rows.select(range(3)), tmp_path / "small", side=10)
    assert found[0]["image"].size == (15, 10)
    assert found[0]["depth"].size == (30, 20)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    rows = Dataset.from_dict({"image": [{"bytes": b"no picture", "path": None}]}, features=Features({"image": Image()}))
    with pytest.raises(ValueError, match="the picture of row 0 cannot be read: cannot identify"):
        cached(rows, tmp_path / "cache")


def test_pictures_of_other_rows_are_refused(rows, tmp_path):
    cached(rows.select(range(3)), tmp_path / "cache")
    with pytest.raises(ValueError, match="holds pictures of other rows"):
        cached(rows.select(range(4)), tmp_path / "cache")
    with pytest.raises(ValueError, match="side was None and is now 10"):
        cached(rows.select(range(3)), tmp_path / "cache", side=10)
    with pytest.raises(ValueError, match="columns of pictures can be cached"):
        cached(rows.remove_columns(["image", "depth"]), tmp_path / "none")


def test_a_run_from_the_cache_is_the_run_without(rows, tmp_path):
    pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")
    from hub_mim.training import pretrain

    pictures = rows.remove_columns(["depth", "label"]).select(range(24))
    given = {"preset": "tiny", "steps": 2, "batch_size": 4, "validation": 0.25, "arguments": {"use_cpu": True}}
    plain = pretrain("mae", pictures, tmp_path / "plain", **given)
    kept = pretrain("mae", pictures, tmp_path / "kept", cache=tmp_path / "cache", **given)
    assert kept.losses == plain.losses
    assert kept.fingerprint == plain.fingerprint
