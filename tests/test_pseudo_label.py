"""Depth and class maps for any folder of pictures, made by any models of transformers: here tiny random ones."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

SCRIPT = Path(__file__).parent.parent / "scripts" / "pseudo_label.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("pseudo_label", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from transformers import (
        DPTConfig,
        DPTForDepthEstimation,
        DPTImageProcessorPil,
        SegformerConfig,
        SegformerForSemanticSegmentation,
        SegformerImageProcessorPil,
    )

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    depth = DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=8,
        is_hybrid=False,
    )
    DPTForDepthEstimation(depth).save_pretrained(folder / "depth")
    DPTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "depth")
    classes = SegformerConfig(
        hidden_sizes=[4, 4, 8, 8],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 1, 1, 1],
        decoder_hidden_size=8,
        num_labels=5,
    )
    SegformerForSemanticSegmentation(classes).save_pretrained(folder / "semseg")
    SegformerImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder / "semseg")
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    source = np.random.default_rng(0)
    for name, size in (("a.jpg", (40, 30)), ("deep/b.png", (24, 32))):
        Image.fromarray(source.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.jpg").write_text("no picture")
    return folder


def test_a_folder_of_pictures_becomes_rows_of_aligned_maps(script, models, photos, tmp_path):
    from hub_mim.data import as_records, load_rows

    out = tmp_path / "labelled"
    told = script.label(photos, out, str(models / "depth"), str(models / "semseg"))
    assert told == {"pictures": 3, "done": 2, "unreadable": ["broken.jpg"]}
    assert len(json.loads((out / "labels.json").read_text())["classes"]) == 6
    again = script.label(photos, out, str(models / "depth"), str(models / "semseg"))
    assert again["done"] == 0
    rows = as_records(load_rows(out))
    assert [row["rgb"].size for row in rows] == [(40, 30), (24, 32)]
    depth = np.asarray(rows[0]["depth"])
    assert depth.shape == (30, 40)
    assert depth.max() == 65535
    assert np.asarray(rows[1]["semseg"]).max() <= 5


def test_the_rows_train_multimae(script, models, photos, tmp_path):
    pytest.importorskip("hub_mim_multimae", reason="plugins/multimae is not installed")
    import hub_mim

    out = tmp_path / "labelled"
    script.label(photos, out, str(models / "depth"), str(models / "semseg"))
    run = hub_mim.pretrain("multimae", out, tmp_path / "run", preset="tiny", steps=2, batch_size=2, validation=0)
    assert run.status == "finished"


def test_bad_calls_are_told(script, photos, tmp_path):
    with pytest.raises(ValueError, match="no picture under"):
        script.label(tmp_path / "photos" / "nowhere", tmp_path / "out", "x", None)
    with pytest.raises(ValueError, match="give a model"):
        script.label(photos, tmp_path / "out", None, None)
