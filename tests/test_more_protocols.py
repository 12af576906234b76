"""Protocols that look at more than one vector a row: every token, names of classes, a model that is trained further."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_mim import dense, probes, sharing
from hub_mim.data import load_rows
from hub_mim.evaluation import evaluate

native = pytest.importorskip("hub_mim_native.example", reason="plugins/native is not installed")


@pytest.fixture(scope="module")
def pictures():
    """Discs, with where each disc is and how large it is in words."""
    rows = []
    for row in native.sample_pictures(40, seed=3):
        bright = np.asarray(row["images"]).astype(int).sum(2)
        ground = np.median(bright)
        rows.append(
            {
                "images": row["images"],
                "label": ["small", "large"][row["label"]],
                "segments": (np.abs(bright - ground) > 150).astype(int).tolist(),
            }
        )
    return rows


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    from hub_mim.method import resolve
    from hub_mim.plugins import get_method

    method = get_method("mae")
    torch.manual_seed(0)
    model = resolve(method.auto["AutoModelForPreTraining"])(resolve(method.config)(**method.presets["tiny"]))
    resolve(method.on_create)(model)
    return sharing.save(tmp_path_factory.mktemp("mae") / "out", model, native.pictures_of_mae().processor)


def test_each_token_gets_the_class_of_most_of_its_points():
    upper = np.zeros((6, 8), int)
    upper[:3, :4] = 2
    upper[3:, 4:] = 255
    assert dense.token_classes(upper, (2, 2)).tolist() == [2, 0, 0, -1]
    assert dense.token_classes([1, 1, 0, 0, 0, 0], (1, 3)).tolist() == [1, 0, 0]
    assert dense.token_classes([4, 5], (1, 4)).tolist() == [4, 4, 5, 5]
    assert dense.token_classes(Image.fromarray(upper.astype(np.uint8)), (2, 2)).tolist() == [2, 0, 0, -1]
    with pytest.raises(ValueError, match="'segments' are float64 of shape"):
        dense.token_classes(np.zeros((2, 2)), (1, 1), "segments")


def test_tokens_of_an_encoder_that_shuffles_them_stand_at_their_places(encoder, pictures):
    from hub_mim import loading

    model, processor = loading.load(encoder), loading.load_processor(encoder)
    twice = [dense.labelled_tokens(model, processor, pictures[:4], "segments") for _ in range(2)]
    for (values, classes), (again, same) in zip(*twice, strict=True):
        assert values.shape == (64, 96)
        assert classes.tolist() == same.tolist()
        torch.testing.assert_close(torch.from_numpy(values), torch.from_numpy(again), rtol=1e-4, atol=1e-4)


def test_dense_probes_stand_beside_a_random_model_and_the_input(encoder, pictures):
    rows = [{name: row[name] for name in ("images", "segments")} for row in pictures]
    results = evaluate(encoder, rows, protocol="dense", label="segments", repeats=2, options={"epochs": 5})
    figures = {result.metric_type: result.metric_value for result in results}
    beside = ("", " (untrained)", " (raw input)", " (most frequent class)")
    assert set(figures) == {f"{metric}{what}" for metric in ("accuracy", "miou") for what in beside}
    assert figures["accuracy (raw input)"] > figures["accuracy (most frequent class)"]
    with pytest.raises(ValueError, match="no column 'segment'; did you mean 'segments'"):
        evaluate(encoder, rows, protocol="dense", label="segment")


def test_zero_shot_names_pictures_by_the_nearest_sentence(clip, pictures, encoder):
    rows = [{name: row[name] for name in ("images", "label")} for row in pictures]
    results = evaluate(clip, rows, protocol="zero-shot", repeats=2)
    figures = {result.metric_type: result.metric_value for result in results}
    assert set(figures) == {"accuracy", "accuracy (untrained)", "accuracy (most frequent class)"}
    assert results[0].split == "all rows"
    with pytest.raises(ValueError, match="no {} where the name"):
        evaluate(clip, rows, protocol="zero-shot", options={"template": "a photo"})
    with pytest.raises(ValueError, match="numbers without names"):
        evaluate(clip, [row | {"label": number % 2} for number, row in enumerate(rows)], protocol="zero-shot")
    with pytest.raises(ValueError, match="has no get_image_features"):
        evaluate(encoder, rows, protocol="zero-shot")


def test_zero_shot_is_transformers_own_contrast(clip, pictures):
    from transformers import CLIPModel, CLIPProcessor

    from hub_mim.zero_shot import _accuracy

    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    names = ["small", "large"]
    batch = processor(
        text=[f"a photo of a {name}." for name in names],
        images=[row["images"] for row in pictures],
        padding="max_length",
        return_tensors="pt",
    )
    with torch.no_grad():
        chosen = model(**batch).logits_per_image.argmax(1)
    assert _accuracy(model, processor, pictures, names, ["a photo of a {}."], chosen.numpy(), 16) == 1.0


def test_fine_tuning_from_few_labels_stands_beside_the_same_from_scratch(encoder, pictures):
    rows = load_rows([{name: row[name] for name in ("images", "label")} for row in pictures])
    options = {"steps": 2, "labels_per_class": 5}
    results = evaluate(encoder, rows, protocol="finetune", repeats=2, options=options)
    figures = {result.metric_type: result.metric_value for result in results}
    assert set(figures) == {"accuracy", "accuracy (from scratch)", "accuracy (most frequent class)"}
    given = evaluate(encoder, rows.select(range(8)), train=rows, protocol="finetune", repeats=1, options=options)
    assert given[0].split.startswith("all rows, learnt from")


def test_a_hidden_layer_learns_what_a_line_cannot():
    source = np.random.default_rng(0)
    values = source.normal(size=(400, 2)).astype(np.float32)
    crossed = (values[:, 0] * values[:, 1] > 0).astype(int)
    guess = probes.hidden_layer(values[:300], crossed[:300], values[300:], batch_size=64)
    assert (guess == crossed[300:]).mean() > 0.85
    assert (probes.small_linear(values[:300], crossed[:300], values[300:]) == crossed[300:]).mean() < 0.75
    length = values[:, 0] ** 2
    assert (
        probes.score(length[300:], probes.hidden_layer(values[:300], length[:300], values[300:], batch_size=64)) > 0.5
    )


def test_links_are_told_from_pairs_that_are_none():
    values = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    joined, apart = np.array([[0, 1], [2, 3]]), np.array([[0, 2], [1, 3]])
    assert probes.links(values, joined, apart) == {"auc": 1.0, "ap": 1.0}
    assert probes.links(values, apart, joined)["auc"] == 0.0
