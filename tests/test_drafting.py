"""JPEG files decoded smaller."""

from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset, Features, Image, Value
from PIL import ExifTags
from PIL import Image as Pictures

from hub_mim.data import load_rows, split_rows
from hub_mim.drafting import WHOLE, with_drafts
from hub_mim.picture_cache import cached


def picture(size=(160, 120)):
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Pictures.fromarray(small).resize(size, Pictures.Resampling.BICUBIC)


def stored(made, kind="JPEG", orientation=None):
    exif = Pictures.Exif()
    if orientation:
        exif[ExifTags.Base.Orientation] = orientation
    file = BytesIO()
    made.save(file, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="module")
def rows():
    made = picture()
    files = [stored(made), stored(made, orientation=6), stored(made, "PNG"), stored(picture((60, 50)))]
    kinds = Features({"image": Image(), "label": Value("int64")})
    return Dataset.from_dict({"image": files, "label": list(range(4))}, features=kinds)


@pytest.mark.parametrize(("side", "wanted"), [(30, (40, 30)), (31, (80, 60)), (61, (160, 120)), (1, (20, 15))])
def test_no_side_becomes_shorter(rows, side, wanted):
    assert with_drafts(rows, side)[0]["image"].size == wanted


def test_pictures_are_near_to_whole_ones_made_smaller(rows):
    found = [each["image"] for each in with_drafts(rows, 60)]
    assert [each.size for each in found] == [(80, 60), (60, 80), (160, 120), (60, 50)]
    for here, there in zip(found, rows["image"], strict=True):
        smaller = np.asarray(there.resize(here.size, Pictures.Resampling.BOX)).astype(int)
        assert np.abs(np.asarray(here) - smaller).mean() < 2
    assert [each.info.get(WHOLE) for each in found] == [(160, 120), (120, 160), None, None]


def test_boxes_in_pixels_are_of_the_whole_picture(rows):
    pytest.importorskip("hub_mim_siglip2", reason="plugins/siglip2 is not installed")
    from hub_mim_siglip2.region_texts import regions_of

    objects = [{"text": "all", "bbox": [0, 0, 160, 120]}]
    row = with_drafts(rows, 60)[0] | {"objects": objects}
    assert regions_of(row, {})[0].box == (0, 0, 1, 1)


def test_rows_stay_rows(rows):
    made = with_drafts(rows, 60)
    train, held_out = split_rows(made.remove_columns(["label"]), 0.25)
    assert [row["image"].size for row in (*train, *held_out)].count((80, 60)) == 1
    assert made.select([0])[:]["image"][0].size == (80, 60)
    assert made.rename_column("image", "rgb")[0]["rgb"].size == (80, 60)


def test_streams_are_decoded_smaller(tmp_path):
    from hub_mim.stream_rows import OnePass

    for number in range(3):
        picture().save(tmp_path / f"{number}.jpg", quality=95)
    rows = with_drafts(load_rows(tmp_path, streaming=True), 60)
    train, held_out = split_rows(rows, 0.5)
    found = [row for part in (train, held_out) for row in OnePass(part)]
    assert [row["image"].size for row in found] == [(80, 60)] * 3


def test_what_cannot_be_decoded_smaller(rows, tmp_path):
    from hub_mim.training import pretrain

    with pytest.raises(ValueError, match="no column of pictures to decode smaller"):
        with_drafts(rows.remove_columns(["image"]), 60)
    pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")
    with pytest.raises(ValueError, match="cached pictures are decoded once"):
        pretrain("mae", rows, tmp_path / "out", cache=tmp_path / "cache", draft_side=60)


def test_a_run_with_smaller_pictures(tmp_path):
    pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")
    from hub_mim.training import pretrain

    data = tmp_path / "pictures"
    data.mkdir()
    for number in range(6):
        picture((160 + number, 120)).save(data / f"{number}.jpg", quality=95)
    options = {"preset": "tiny", "steps": 1, "batch_size": 4, "validation": 0.25, "arguments": {"use_cpu": True}}
    plain = pretrain("mae", data, tmp_path / "plain", **options)
    made = pretrain("mae", data, tmp_path / "made", draft_side=32, **options)
    assert made.draft_side == 32
    assert made.fingerprint == plain.fingerprint
    assert made.losses["loss"] == pytest.approx(plain.losses["loss"], rel=0.05)
    assert made.losses["loss"] != plain.losses["loss"]


def test_cached_pictures_are_upright(rows, tmp_path):
    found = cached(rows, tmp_path / "cache")
    assert all(np.array_equal(np.asarray(found[n]["image"]), np.asarray(rows[n]["image"])) for n in range(4))
    assert cached(rows, tmp_path / "small", 30)[1]["image"].size == (30, 40)
