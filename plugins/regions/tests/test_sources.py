"""Sources of regions: crops, transformers' detectors and backbones (random weights), stored files; the command."""

import base64
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from hub_mim.cli import main
from hub_mim.scenes import scenes
from hub_mim_regions import RegionProcessor, extraction, make_source, read_regions
from hub_mim_regions.readers import frcnn_ready, keep_confident
from hub_mim_regions.sources import Backbone, Crop, Detector, Grid, class_scores, given_boxes

ROWS = [row | {"text": f"a {row['objects'][0]['colour']} {row['objects'][0]['shape']}"} for row in scenes(4)]


def test_a_crop_is_the_picture_within_the_box():
    picture = Image.new("RGB", (40, 20), (255, 0, 0))
    picture.paste((0, 0, 255), (20, 0, 40, 20))
    (region,) = Crop(4)([picture], [np.array([[0, 0, 0.5, 1], [0.5, 0, 1, 1], [0.2, 0.2, 0.2, 0.2]], np.float32)])
    assert region["features"].shape == (3, 48)
    assert np.allclose(region["features"][0].reshape(16, 3), [1, -1, -1], atol=0.3)
    assert np.allclose(region["features"][1].reshape(16, 3), [-1, -1, 1], atol=0.3)


@pytest.fixture(scope="module")
def detector():
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor, ResNetConfig

    torch.manual_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage4"])
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=9,
        num_labels=5,
    )
    return DetrForObjectDetection(config).eval(), DetrImageProcessor(size={"height": 64, "width": 64})


def test_a_detector_gives_its_best_regions(detector):
    rows = Detector(*detector, regions=6)([row["image"] for row in ROWS])
    for row in rows:
        assert row["features"].shape == (6, 16)
        assert row["soft_labels"].shape == (6, 6)
        assert np.allclose(row["soft_labels"].sum(1), 1, atol=1e-5)
        assert (np.diff(row["confidence"]) <= 0).all()
        assert (row["boxes"] >= 0).all()
        assert (row["boxes"] <= 1).all()
        assert (row["boxes"][:, 2:] >= row["boxes"][:, :2]).all()


def test_scores_of_both_kinds_of_detectors_sum_to_one():
    logits = torch.randn(3, 7)
    for classes in (6, 7):
        shares = class_scores(logits, classes)
        assert shares.shape == (3, classes + 1)
        assert torch.allclose(shares.sum(-1), torch.ones(3), atol=1e-6)


@pytest.fixture(scope="module")
def backbone():
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=48, patch_size=8
    )
    return ViTModel(config, add_pooling_layer=False).eval(), ViTImageProcessor(size={"height": 48, "width": 48})


def test_a_grid_and_given_boxes_of_a_backbone(backbone):
    pictures = [row["image"] for row in ROWS]
    cells = Grid(*backbone, grid=3)(pictures)
    assert cells[0]["features"].shape == (9, 16)
    boxes = [np.array([[0, 0, 1, 1], [0, 0, 0.5, 0.5]], np.float32)] * 4
    found = Backbone(*backbone)(pictures, boxes)
    assert found[2]["features"].shape == (2, 16)
    with pytest.raises(ValueError, match="no backend 'detektor'; did you mean 'detector'"):
        make_source("detektor")
    with pytest.raises(ValueError, match="needs a model"):
        make_source("grid")


def tsv(path, features, count=2, columns=10):
    def packed(values, kind):
        return base64.b64encode(np.asarray(values, kind).tobytes()).decode()

    row = ["img7", "100", "200", packed([3, 4], np.int64), packed([0.9, 0.3], np.float32), packed([1, 2], np.int64)]
    row += [packed([0.5, 0.6], np.float32), str(count), packed([[0, 0, 100, 50], [20, 10, 200, 100]], np.float32)]
    row += [packed(features, np.float32)]
    path.write_text("\t".join(row[:columns]) + "\n")
    return path


def test_lxmert_s_files_are_read(tmp_path):
    (row,) = read_regions(tsv(tmp_path / "r.tsv", np.ones((2, 6))))
    assert (row["id"], row["features"].shape) == ("img7", (2, 6))
    assert np.allclose(row["boxes"], [[0, 0, 0.5, 0.5], [0.1, 0.1, 1, 1]])
    assert row["object_labels"].tolist() == [3, 4]
    assert keep_confident(row, least=1, most=1)["object_labels"].tolist() == [3]


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (np.ones((3, 5)), {}, "15 numbers, which 2 boxes do not share evenly"),
        (np.full((2, 6), np.nan), {}, "no numbers"),
        (np.ones((2, 6)), {"count": 3}, "objects_id holds 2 numbers for 3 boxes|boxes holds 8 numbers for 3 boxes"),
        (np.ones((2, 6)), {"columns": 7}, "has not the 10 columns"),
    ],
)
def test_damaged_tsv_is_told_with_its_row(tmp_path, features, options, message):
    with pytest.raises(ValueError, match=f"row 0: .*({message})"):
        list(read_regions(tsv(tmp_path / "r.tsv", features, **options)))


def test_uniter_s_files_are_read(tmp_path):
    boxes = np.array([[0, 0, 0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 1, 1, 0.9, 0.9]], np.float16)
    np.savez(
        tmp_path / "a.npz",
        features=np.ones((2, 6), np.float16),
        norm_bb=boxes,
        conf=[0.9, 0.1],
        soft_labels=np.ones((2, 4)) / 4,
    )
    (row,) = read_regions(tmp_path)
    assert row["soft_labels"].shape == (2, 4)
    assert keep_confident(row, least=1)["features"].shape == (1, 6)
    np.savez(tmp_path / "b.npz", features=np.array([object()]))
    with pytest.raises(ValueError, match="without pickles"):
        list(read_regions(tmp_path / "b.npz"))
    with pytest.raises(ValueError, match="ending must be"):
        list(read_regions(tmp_path / "c.txt"))


def test_features_of_another_network_are_told():
    frcnn_ready(np.ones((3, 2048)))
    with pytest.raises(ValueError, match="never below 0"):
        frcnn_ready(np.full((3, 2048), -1.0))
    with pytest.raises(ValueError, match="take .regions, 2048."):
        frcnn_ready(np.ones((3, 256)))


def call(*arguments):
    with pytest.raises(SystemExit) as told:
        main(list(map(str, arguments)))
    return told.value.code


def test_the_command_writes_what_the_processor_reads(tmp_path, capsys):
    rows = [{"image": row["image"], "objects": row["objects"], "caption": row["text"]} for row in ROWS]
    Dataset.from_list(rows).to_parquet(tmp_path / "scenes.parquet")
    out = tmp_path / "regions.parquet"
    options = ["--backend", "crop", "--size", 4, "--show", tmp_path / "boxes.png", "--json"]
    assert call("regions", tmp_path / "scenes.parquet", out, *options) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["width"]) == (4, 48)
    assert (tmp_path / "boxes.png").stat().st_size > 10_000
    found = [row | {"text": row["caption"]} for row in Dataset.from_parquet(str(out), cache_dir=str(tmp_path / "c"))]
    stored = RegionProcessor().fit(found)(rows=found)
    direct = RegionProcessor(crop_side=4).fit(ROWS)(rows=ROWS)
    assert torch.allclose(stored["visual_feats"], direct["visual_feats"], atol=1e-6)
    assert torch.allclose(stored["visual_pos"], direct["visual_pos"], atol=1e-6)
    assert call("regions", tmp_path / "scenes.parquet", out, *options) == 1  # not overwritten


def test_a_broken_picture_ends_the_command_or_is_left_out(tmp_path, capsys):
    from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, row in enumerate(ROWS):
        row["image"].save(pictures / f"{number}.png")
    broken = pictures / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    backbone = tmp_path / "vit"
    size = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**size, num_hidden_layers=1)).save_pretrained(backbone)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(backbone)
    options = ["--backend", "grid", "--model", backbone, "--grid", 2, "--batch-size", 3, "--json"]
    assert call("regions", pictures, tmp_path / "r.parquet", *options) == 1
    assert "row 1 cannot be read: image file is truncated" in capsys.readouterr().err
    assert call("regions", pictures, tmp_path / "r.parquet", *options, "--skip-unreadable") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["regions"]) == (3, 12)
    assert "picture 1" in told["left_out"][0]
    rows = Dataset.from_parquet(str(tmp_path / "r.parquet"), cache_dir=str(tmp_path / "c"))
    assert rows["id"][:] == [0, 2, 3]


def test_a_call_that_had_found_everything_goes_on_and_makes_a_damaged_part_again(tmp_path, monkeypatch, capsys):
    rows = Dataset.from_list([{"image": row["image"], "objects": row["objects"]} for row in ROWS])
    monkeypatch.setattr(extraction, "PART", 2)
    options = {"backend": "crop", "options": {"size": 4}}
    whole = extraction.extract(rows, tmp_path / "whole.parquet", **options)
    for spoiled in (False, True):
        out = tmp_path / f"{spoiled}.parquet"
        with monkeypatch.context() as patch:
            patch.setattr(extraction, "_join", lambda *given: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                extraction.extract(rows, out, **options)
        parts = sorted((tmp_path / f".{out.name}.parts").glob("*.parquet"))
        assert len(parts) == 2
        if spoiled:
            parts[1].write_bytes(parts[1].read_bytes()[:-20] + bytes(20))
        assert extraction.extract(rows, out, **options) == whole | {"made": str(out)}
        assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert f"{parts[1]} is damaged" in capsys.readouterr().err


def test_a_call_on_other_pictures_does_not_go_on_from_these(tmp_path, monkeypatch):
    rows = [{"image": row["image"], "objects": row["objects"]} for row in ROWS]
    out = tmp_path / "x.parquet"
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(extraction, "_join", lambda *given: 1 / 0)
        extraction.extract(rows, out, backend="crop")
    other = [row | {"image": Image.new("RGB", row["image"].size)} for row in rows]
    extraction.extract(other, out, backend="crop")
    extraction.extract(other, tmp_path / "y.parquet", backend="crop")
    assert out.read_bytes() == (tmp_path / "y.parquet").read_bytes()


def test_boxes_of_a_row_need_a_size():
    with pytest.raises(ValueError, match="need the picture, or its 'image_size'"):
        given_boxes({"boxes": [[0, 0, 5, 5]]}, "xyxy", "pixel")
    with pytest.raises(ValueError, match="'boxes' or 'objects'; this row has text"):
        given_boxes({"text": "a"}, "xyxy", "pixel")


def test_the_command_takes_what_there_is():
    from hub_mim_regions import boxes, commands, sources

    assert (*sources.KINDS, "stored") == commands.BACKENDS
    assert commands.BOX_FORMS == boxes.FORMS
