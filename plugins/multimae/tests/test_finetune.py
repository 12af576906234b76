"""A checkpoint is fine-tuned to name the class of every pixel, by the general verb."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSemanticSegmentation

from hub_mim import sharing
from hub_mim.data import load_rows
from hub_mim.finetuning import finetune
from hub_mim.samples import sample_rows
from hub_mim_multimae.configuration_multimae import MultiMAEConfig
from hub_mim_multimae.modeling_multimae import MultiMAEForPreTraining
from hub_mim_multimae.plugin import TINY
from hub_mim_multimae.processing_multimae import MultiMAEProcessor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    config = MultiMAEConfig(**TINY | {"num_hidden_layers": 2, "dpt_hooks": [0, 0, 1, 1]})
    place = tmp_path_factory.mktemp("multimae") / "out"
    return sharing.save(place, MultiMAEForPreTraining(config), MultiMAEProcessor.for_config(config.to_dict()))


@pytest.fixture(scope="module")
def rows():
    return sample_rows("scenes", num_rows=10)


def test_pixels_are_named_from_colours_and_depth(folder, rows, tmp_path):
    run = finetune(folder, rows, tmp_path / "out", task="segmentation", label="semseg", steps=6, batch_size=4)
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "out")
    assert model.config.num_labels == 6
    figures = {result.metric_type: result.metric_value for result in sharing.read_results(tmp_path / "out")}
    assert set(figures) == {"miou", "accuracy", "accuracy (most frequent class)"}
    assert run.losses["miou"] == figures["miou"]
    assert 0 <= figures["miou"] <= 1


def test_class_maps_that_are_none_are_told(folder, rows, tmp_path):
    with pytest.raises(ValueError, match="no column of class maps 'sem'"):
        finetune(folder, rows, tmp_path / "a", task="segmentation", label="sem", steps=1)
    with pytest.raises(ValueError, match="one class a row"):
        finetune(folder, rows, tmp_path / "b", task="segmentation", label="semseg", labels_per_class=3, steps=1)
    same = load_rows([{"image": row["image"], "labels": np.zeros((96, 96), int).tolist()} for row in rows])
    with pytest.raises(ValueError, match="hold 1 classes"):
        finetune(folder, same, tmp_path / "c", task="segmentation", steps=1)


def test_rows_that_lack_a_modality_have_their_tokens_at_the_right_places(folder):
    torch.manual_seed(0)
    config = MultiMAEConfig(**TINY | {"num_hidden_layers": 2, "dpt_hooks": [0, 0, 1, 1], "main_modalities": ["semseg"]})
    from hub_mim_multimae.modeling_multimae_heads import MultiMAEForSemanticSegmentation

    model = MultiMAEForSemanticSegmentation(config).eval()
    maps = {
        "rgb": torch.randn(2, 3, 96, 96),
        "depth": torch.randn(2, 1, 96, 96),
        "semseg": torch.randint(0, 6, (2, 24, 24)),
    }
    present = torch.tensor([[True, True, True], [False, True, True]])
    both = model(**maps, present=present).logits
    alone = model(depth=maps["depth"][1:], semseg=maps["semseg"][1:]).logits
    torch.testing.assert_close(both[1:], alone, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="tokens of semseg, which some rows lack"):
        model(**maps, present=torch.tensor([[True, True, True], [True, True, False]]))


def test_general_protocols_and_maps_read_the_patches_of_one_modality(rows, tmp_path):
    from hub_mim.evaluation import evaluate
    from hub_mim.showing import show

    torch.manual_seed(0)
    only = [each for each in TINY["modalities"] if each["name"] == "rgb"]
    config = MultiMAEConfig(**TINY | {"modalities": only, "normalized_targets": []})
    place = sharing.save(
        tmp_path / "out", MultiMAEForPreTraining(config), MultiMAEProcessor.for_config(config.to_dict())
    )
    results = evaluate(place, rows, protocol="dense", label="semseg", repeats=1, options={"epochs": 2})
    figures = {result.metric_type: result.metric_value for result in results}
    assert figures["accuracy (raw input)"] > 0.5  # wall above, floor below
    assert show(place, rows, tmp_path / "attention.png", what="attention", count=2).is_file()
    figures = {r.metric_type for r in evaluate(place, rows, protocol="rankme", repeats=1)}
    assert figures == {"rankme", "rankme (untrained)", "rankme (raw input)"}
