"""Fine-tuning gives a head that works, trains what it says, compares with no pre-training, and loses nothing."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from hub_mim import finetune, heads, sharing
from hub_mim.run import Run

toy = pytest.importorskip("hub_mim_toy.modeling_toy", reason="the toy plugin (tests/toy) is not installed")

FAST = {"steps": 40, "batch_size": 16, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def rows():
    """Points on circles; the class is whether the circle is large."""
    from hub_mim_toy.example import sample

    return [row | {"label": ["small", "large"][row["values"][0][2] > 1.0]} for row in sample(120, seed=1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from hub_mim_toy.processing_toy import ToyMimProcessor

    torch.manual_seed(11)
    model = toy.ToyMimForPreTraining(toy.ToyMimConfig())
    return sharing.save(tmp_path_factory.mktemp("toy") / "out", model, ToyMimProcessor())


@pytest.fixture(scope="module")
def tuned(folder, rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned") / "out"
    return finetune(folder, rows, out, **FAST), out


def test_the_result_loads_and_names_its_classes(tuned, rows):
    run, out = tuned
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert model.config.id2label == {0: "large", 1: "small"}
    assert (run.rows, run.validation_rows, run.status, run.task["label"]) == (96, 24, "finished", "label")
    values = torch.tensor([row["values"] for row in rows])
    named = [model.config.id2label[number] for number in model(values).logits.argmax(-1).tolist()]
    assert np.mean([name == row["label"] for name, row in zip(named, rows, strict=True)]) > 0.9
    results = {result.metric_type: result for result in sharing.read_results(out)}
    assert (
        results["accuracy"].metric_value
        == run.losses["accuracy"]
        > results["accuracy (most frequent class)"].metric_value
    )
    assert "on which the best step was chosen" in results["accuracy"].split
    card = (out / "README.md").read_text()
    assert "| task | classification |" in card
    assert Run.load(out) == run
    assert not (out / "checkpoints").exists()


def test_the_encoder_begins_with_the_checkpoint_unless_asked_not_to(folder, rows, tmp_path):
    start = toy.ToyMimForPreTraining.from_pretrained(folder).toy.state_dict()
    for scratch in (False, True):
        out = tmp_path / str(scratch)
        finetune(folder, rows, out, steps=1, learning_rate=1e-9, from_scratch=scratch)
        after = AutoModelForSequenceClassification.from_pretrained(out).toy.state_dict()
        same = all(torch.allclose(after[name], value, atol=1e-6) for name, value in start.items())
        assert same != scratch
    protocols = {result.protocol for result in sharing.read_results(tmp_path / "True")}
    assert protocols == {"finetune from scratch"}


def test_freeze_and_adapters_train_what_they_say(folder, rows, tmp_path):
    start = toy.ToyMimForPreTraining.from_pretrained(folder).toy.state_dict()
    finetune(folder, rows, tmp_path / "frozen", freeze=True, **FAST)
    frozen = AutoModelForSequenceClassification.from_pretrained(tmp_path / "frozen")
    assert all(torch.equal(frozen.toy.state_dict()[name], value) for name, value in start.items())
    finetune(folder, rows, tmp_path / "lora", lora=True, **FAST)
    adapted = AutoModelForSequenceClassification.from_pretrained(tmp_path / "lora")
    changed = {name for name, value in start.items() if not torch.equal(adapted.toy.state_dict()[name], value)}
    assert changed == {f"layers.{n}.attention.{part}_proj.weight" for n in (0, 1) for part in "qv"}
    assert not torch.equal(adapted.classifier.weight, frozen.classifier.weight)


def test_rates_fall_towards_the_input():
    model = toy.ToyMimForSequenceClassification(toy.ToyMimConfig())
    groups = heads.decayed_groups(model, 1.0, 0.5, 0.1)()
    rates = {id(weight): group["lr"] for group in groups for weight in group["params"]}
    named = {name: rates[id(weight)] for name, weight in model.named_parameters()}
    assert len(named) == len(rates)
    assert named["classifier.weight"] == 1.0
    assert named["toy.layernorm.weight"] == 1.0
    assert named["toy.layers.1.mlp.fc1.weight"] == 0.5
    assert named["toy.layers.0.mlp.fc1.weight"] == 0.25
    assert named["toy.embed.weight"] == 0.125
    decays = {id(weight): group["weight_decay"] for group in groups for weight in group["params"]}
    assert decays[id(model.classifier.bias)] == 0.0
    assert decays[id(model.classifier.weight)] == 0.1
    with pytest.raises(ValueError, match="layer_decay is 0"):
        heads.decayed_groups(model, 1.0, 0, 0.1)


def test_layer_decay_and_few_labels(folder, rows, tmp_path):
    run = finetune(folder, rows, tmp_path / "out", layer_decay=0.75, labels_per_class=5, **FAST)
    assert run.rows == 10
    assert run.losses["accuracy"] > 0.5


def test_an_interrupted_call_ends_as_a_whole_one(folder, rows, tuned, tmp_path, monkeypatch):
    from hub_mim import finetuning

    whole, place = tuned
    usual = finetuning._finish
    monkeypatch.setattr(finetuning, "_finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        finetune(folder, rows, tmp_path / "out", **FAST)
    assert not (tmp_path / "out" / "config.json").exists()
    with pytest.raises(ValueError, match="other settings: task.freeze was False and is now True"):
        finetune(folder, rows, tmp_path / "out", freeze=True, **FAST)
    monkeypatch.setattr(finetuning, "_finish", usual)
    assert finetune(folder, rows, tmp_path / "out", **FAST).losses == whole.losses
    first, second = (
        AutoModelForSequenceClassification.from_pretrained(at).state_dict() for at in (place, tmp_path / "out")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(FileExistsError, match="overwrite"):
        finetune(folder, rows, tmp_path / "out", **FAST)


def test_a_model_of_transformers_own(tmp_path):
    """From SimMIM-style pre-training of a ViT, whose checkpoint transformers wrote."""
    from PIL import Image
    from transformers import ViTConfig, ViTForMaskedImageModeling, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    ViTForMaskedImageModeling(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    source = np.random.default_rng(0)
    pictures = [
        {"images": Image.fromarray(source.integers(100 * bright, 100 * bright + 155, (16, 16, 3), dtype=np.uint8)),
         "label": ["dark", "bright"][bright]}
        for bright in (0, 1) * 20
    ]  # fmt: skip
    run = finetune(tmp_path / "vit", pictures, tmp_path / "out", steps=30, batch_size=8, learning_rate=5e-3, lora=True)
    assert run.losses["accuracy"] == 1.0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert model.config.id2label == {0: "bright", 1: "dark"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "library_name: transformers" in card
    assert "| most frequent class" in card or "accuracy" in card
    assert run.method in ("vit", "simmim-vit")  # as the plugin that declares the class is here or not


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda row: row, {"task": "classificatio"}, "no task 'classificatio'; did you mean 'classification'"),
        (lambda row: row, {"label": "labels_"}, "no column 'labels_'; did you mean"),
        (lambda row: row | {"label": row["values"][0][2]}, {}, "are quantities"),
        (lambda row: row | {"label": "one"}, {}, "two classes at least"),
        (lambda row: row, {"validation": 0}, "validation share is 0"),
        (lambda row: row, {"freeze": True, "lora": True}, "freeze leaves nothing for lora"),
        (lambda row: row, {"layer_decay": 2.0}, "layer_decay is 2.0"),
        (lambda row: row, {"arguments": {"learning_rat": 1}}, "no field 'learning_rat'"),
    ],
)
def test_bad_input_is_told_and_nothing_is_left(folder, rows, tmp_path, change, options, message):
    with pytest.raises(ValueError, match=message):
        finetune(folder, [change(row) for row in rows], tmp_path / "out", steps=1, **options)
    assert not (tmp_path / "out").exists()


def test_a_method_without_a_head_says_so(rows, tmp_path):
    pytest.importorskip("hub_mim_remasker", reason="hub-mim-remasker is not installed")
    from hub_mim_remasker.configuration_remasker import ReMaskerConfig
    from hub_mim_remasker.modeling_remasker import ReMaskerForPreTraining

    sharing.save(tmp_path / "in", ReMaskerForPreTraining(ReMaskerConfig(cardinalities=[0, 0])))
    with pytest.raises(ValueError, match=r"remasker has no head for classification \(it has none at all\)"):
        finetune(tmp_path / "in", rows, tmp_path / "out")


def test_the_command(folder, rows, tmp_path):
    from typer.testing import CliRunner

    from hub_mim.cli import app

    with (tmp_path / "rows.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    words = [
        "finetune",
        str(folder),
        "--data",
        str(tmp_path / "rows.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "--steps",
        "2",
        "--json",
    ]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["task"]["label"] == "label"
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"hub-mim finetune {folder} --data" in card
