"""Named protocols judge a checkpoint beside a random model and the input itself, and say what they judged."""

import numpy as np
import pytest
import torch

from hub_mim import sharing
from hub_mim.evaluation import evaluate
from hub_mim.features import batch_features, features, pool, raw_features, untrained
from hub_mim.protocols import PROTOCOLS, read_labels

toy = pytest.importorskip("hub_mim_toy.modeling_toy", reason="the toy plugin (tests/toy) is not installed")


@pytest.fixture(scope="module")
def rows():
    """Points on circles; the class is whether the circle is large."""
    from hub_mim_toy.example import sample

    return [row | {"label": int(row["values"][0][2] > 1.0), "size": row["values"][0][2]} for row in sample(80, seed=1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(11)
    model = toy.ToyMimForPreTraining(toy.ToyMimConfig())
    return sharing.save(tmp_path_factory.mktemp("toy") / "out", model, ToyMimProcessor())


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if protocol.predict])
def test_probes_stand_beside_a_random_model_the_input_and_the_most_frequent_class(folder, rows, name):
    results = evaluate(folder, rows, protocol=name, repeats=2)
    figures = {result.metric_type: result for result in results}
    assert set(figures) == {
        f"accuracy{what}" for what in ("", " (untrained)", " (raw input)", " (most frequent class)")
    }
    if name != "planetoid-probe":  # rows of length one do not tell how large a circle is
        assert figures["accuracy (raw input)"].metric_value > 0.6
    for result in results:
        assert (result.protocol, result.seeds, result.dataset_name) == (name, (0, 1), "in memory")
        assert result.split == "all rows, 20% of them, others for each seed"
        assert 0 <= result.metric_value <= 1
        assert result.interval is None or 0 <= result.interval[0] <= result.metric_value <= result.interval[1] <= 1


def test_rows_to_learn_from_may_be_given(folder, rows, tmp_path):
    first = evaluate(folder, rows[:20], protocol="linear", train=rows[20:], repeats=2)
    assert first[0].split == "all rows, learnt from in memory"
    assert len(first) == 4
    from datasets import DatasetDict

    from hub_mim.data import load_rows

    place = tmp_path / "both"
    DatasetDict({"train": load_rows(rows[20:]), "test": load_rows(rows[:20])}).save_to_disk(str(place))
    again = evaluate(folder, place, split="test", train_split="train", protocol="linear", repeats=2)
    assert again[0].split == "test, learnt from both, split train"
    assert [result.metric_value for result in again] == [result.metric_value for result in first]
    with pytest.raises(ValueError, match="different kinds"):
        evaluate(folder, rows[:20], protocol="linear", train=[row | {"label": "ab"[row["label"]]} for row in rows[20:]])


def test_quantities_get_r2(folder, rows):
    results = evaluate(folder, rows, protocol="linear", label="size", repeats=1)
    assert [result.metric_type for result in results] == ["r2", "r2 (untrained)", "r2 (raw input)"]
    assert results[2].metric_value > 0.9


def test_without_labels(folder, rows):
    plain = [{"values": row["values"]} for row in rows]
    results = {result.metric_type: result.metric_value for result in evaluate(folder, plain, protocol="rankme")}
    assert set(results) == {"rankme", "rankme (untrained)", "rankme (raw input)"}
    assert all(1 <= value <= 16 for value in results.values())
    retrieval = evaluate(folder, rows, protocol="retrieval", repeats=1)
    assert len(retrieval) == 9


def test_results_are_kept_and_shown(folder, rows, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "copy")
    evaluate(copy, rows, protocol="knn", repeats=2, options={"k": 3}, save=True)
    assert "| knn | 0, 1 |" in (copy / "README.md").read_text()
    assert len(sharing.read_results(copy)) == 4


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda row: {"values": row["values"]}, {}, "no column of labels among values; name it"),
        (lambda row: row, {"label": "labels_"}, "no column 'labels_'; did you mean 'label'"),
        (lambda row: row | {"label": 1}, {}, "all 80 labels in 'label' are 1; two classes at least"),
        (lambda row: row | {"label": None}, {}, "no classes and no numbers, or some are missing"),
        (lambda row: row | {"label": float("nan")}, {}, "80 labels in 'label' are missing or infinite"),
        (lambda row: row, {"protocol": "kn"}, "no protocol 'kn'; did you mean 'knn'"),
        (lambda row: row, {"protocol": "knn", "options": {"kk": 3}}, "knn has no option 'kk'; did you mean 'k'"),
        (lambda row: row, {"protocol": "knn", "options": {"k": 65}}, "k is 65, but there are 64 rows"),
        (lambda row: row, {"pooling": "men"}, "no pooling 'men'; did you mean 'mean'"),
        (lambda row: row | {"values": [[1e38] * 3] * 6}, {}, "values that are no numbers|label"),
        (lambda row: row | {"label": row["size"]}, {"protocol": "few-label"}, "these labels are quantities"),
    ],
)
def test_what_cannot_be_judged_says_so(folder, rows, change, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(folder, [change(row) for row in rows], **{"protocol": "linear", "repeats": 1} | options)


def test_labels():
    assert read_labels([{"label": 1.0}, {"label": 0.0}] * 10).dtype.kind == "i"
    assert read_labels([{"label": 1.5}, {"label": 0.0}] * 10).dtype.kind == "f"
    assert read_labels([{"class": "a"}, {"class": "b"}]).dtype.kind == "U"


# --- features ---


class Pooled(torch.nn.Module):
    device = torch.device("cpu")


def test_pooling():
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]])
    batch = {"attention_mask": torch.tensor([[1, 1, 0]])}
    plain = BaseModelOutputWithPooling(last_hidden_state=hidden)
    model = Pooled()
    assert pool(model, plain, batch, "mean").tolist() == [[2.0, 3.0]]
    assert pool(model, plain, batch, "max").tolist() == [[3.0, 4.0]]
    assert pool(model, plain, batch, "first").tolist() == [[1.0, 2.0]]
    own = BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=torch.tensor([[7.0, 7.0]]))
    assert pool(model, own, batch).tolist() == [[7.0, 7.0]]
    model.pooler = torch.nn.Linear(2, 2)  # never trained by most pre-training
    assert pool(model, own, batch).tolist() == [[2.0, 3.0]]
    with pytest.raises(ValueError, match="has no pooler_output"):
        pool(model, plain, batch, "pooler")
    grid = BaseModelOutputWithPooling(last_hidden_state=torch.ones(2, 5, 4, 4))
    assert pool(Pooled(), grid, {}).shape == (2, 5)


def test_features_do_not_depend_on_the_batch(folder, rows):
    from hub_mim import loading

    model, processor = loading.load(folder), loading.load_processor(folder)
    one, many = (features(model, processor, rows, batch_size=size) for size in (1, 80))
    assert one.shape == (80, 16)
    assert np.allclose(one, many, atol=1e-5)
    half = batch_features(model.eval(), processor, rows, dtype=torch.bfloat16)
    assert np.allclose(half, one, atol=0.1)
    assert not np.allclose(half, one, atol=1e-6)


def test_a_random_model_is_another_one_and_the_same_each_time(folder):
    from hub_mim import loading

    model = loading.load(folder)
    first, again, other = (untrained(model, seed).embed.weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, model.embed.weight)


def test_raw_input(rows):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    values = raw_features(ToyMimProcessor(), rows)
    assert values.shape == (80, 6)  # mean and spread of three channels
    assert np.isfinite(values).all()


def test_models_of_transformers_own_are_judged_as_well(tmp_path):
    """A picture's brightness is its class; the encoder is a random ViT."""
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = ViTConfig(image_size=16, patch_size=8, **sizes)
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    source = np.random.default_rng(0)
    pictures = [
        {
            "images": Image.fromarray(source.integers(100 * bright, 100 * bright + 155, (16, 16, 3), dtype=np.uint8)),
            "label": bright,
        }
        for bright in (0, 1) * 20
    ]
    results = {
        r.metric_type: r.metric_value for r in evaluate(tmp_path / "vit", pictures, protocol="linear", repeats=2)
    }
    assert results["accuracy (raw input)"] == 1.0
    assert results["accuracy"] > 0.8
