"""Samples are the same for a seed, have the gaps that were asked for, and an unknown one names those there are."""

import sys

import numpy as np
import pytest

from hub_mim.data import load_rows
from hub_mim.samples import TABLES, sample_rows, sample_table


@pytest.mark.parametrize("name", TABLES)
def test_bundled_tables(name):
    pytest.importorskip("sklearn")
    rows = load_rows(f"sample:{name}")
    assert len(rows) >= 150
    assert all(value is not None for value in rows[0].values())


def test_gaps_are_seeded_and_near_their_share():
    pytest.importorskip("sklearn")
    whole, holed = sample_table("wine"), sample_table("wine", gaps=0.3, seed=1)
    missing = holed.isna()
    assert not whole.isna().any(axis=None)
    assert abs(missing.to_numpy().mean() - 0.3) < 0.04  # four standard deviations of 2,314 cells
    np.testing.assert_array_equal(whole.to_numpy()[~missing.to_numpy()], holed.to_numpy()[~missing.to_numpy()])
    assert holed.equals(sample_table("wine", gaps=0.3, seed=1))
    assert not missing.equals(sample_table("wine", gaps=0.3, seed=2).isna())
    assert None in load_rows("sample:wine-gaps")["ash"]


def test_rows_of_a_method():
    pytest.importorskip("hub_mim_toy", reason="the toy plugin (tests/toy) is not installed")
    rows = sample_rows("toy", num_rows=10, seed=3)
    assert len(rows) == 10
    assert rows.to_list() == sample_rows("toy", num_rows=10, seed=3).to_list()
    assert rows.to_list() != sample_rows("toy", num_rows=10, seed=4).to_list()


def test_unknown_sample_lists_those_there_are():
    with pytest.raises(ValueError, match=r"no sample called 'wines'; did you mean 'wine'\?; there are .*iris"):
        load_rows("sample:wines")


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        load_rows("sample:wine")


def test_scenes_are_aligned_and_follow_from_the_seed():
    import numpy as np

    from hub_mim.samples import scenes

    first, again, other = scenes(2, seed=5, side=48), scenes(2, seed=5, side=48), scenes(2, seed=6, side=48)
    for row, same in zip(first, again, strict=True):
        assert all(
            np.array_equal(np.asarray(row[name]), np.asarray(same[name])) for name in ("image", "depth", "semseg")
        )
        classes, things, depth = (np.asarray(row[name]) for name in ("semseg", "instance", "depth"))
        assert classes.shape == things.shape == depth.shape == (48, 48)
        assert ((classes >= 2) == (things > 0)).all()
        assert row["n_objects"] == len(row["objects"]) == things.max()
        for number, each in enumerate(row["objects"], 1):
            x0, y0, x1, y1 = each["box"]
            rows, columns = np.nonzero(things == number)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
    assert not np.array_equal(np.asarray(first[0]["image"]), np.asarray(other[0]["image"]))


def test_scenes_are_a_sample():
    from hub_mim.samples import licence_of_sample, sample_rows

    assert sample_rows("scenes", num_rows=2).column_names == [
        "image",
        "depth",
        "semseg",
        "instance",
        "n_objects",
        "objects",
    ]
    assert licence_of_sample("scenes") == "generated, no rights reserved"
