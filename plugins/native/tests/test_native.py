"""transformers' own methods through the same verbs, and what they need to be right."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

import hub_mim
from hub_mim import plugins
from hub_mim.evaluation import evaluate
from hub_mim.features import features
from hub_mim.testing.subject import Subject
from hub_mim_native import draws

NAMES = [name for name, method in plugins.methods().items() if method.native]
FAST = {"steps": 6, "batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="module", params=NAMES)
def trained(request, tmp_path_factory):
    from hub_mim_native.example import sample_clips, sample_pictures

    rows = sample_clips(20) if request.param == "videomae" else sample_pictures(40)
    out = tmp_path_factory.mktemp(request.param) / "out"
    return request.param, rows, hub_mim.pretrain(request.param, rows, out, **FAST), out


def test_every_method_is_here():
    assert sorted(NAMES) == ["mae", "simmim-swin", "simmim-vit", "videomae"]


@pytest.mark.parametrize("name", NAMES)
def test_checks(name):
    results = hub_mim.check_plugin(name, fast=True)
    assert sum(result.status == "passed" for result in results) >= 6


def test_the_saved_model_is_the_best_step(trained):
    """Weights that kept their first values, because their names were not found, would have another loss."""
    _, rows, run, out = trained
    (loss,) = [result for result in evaluate(out, rows) if result.metric_type == "loss"]
    assert loss.metric_value == pytest.approx(run.losses["eval_loss"], rel=1e-4)
    assert run.losses["eval_loss"] < max(line["eval_loss"] for line in run.history if "eval_loss" in line)


def test_transformers_loads_it_by_itself(trained):
    name, _, _, out = trained
    model = AutoModel.from_pretrained(out)
    assert type(model).__module__.startswith("transformers.")
    assert "AutoModel.from_pretrained" in (out / "README.md").read_text()
    assert plugins.get_method(name).title.split(":")[0] in (out / "README.md").read_text()


def test_features_see_everything_and_do_not_change(trained):
    _, rows, _, out = trained
    from hub_mim import loading

    model, processor = loading.load(out), loading.load_processor(out)
    first, second = (features(model, processor, rows[:6]) for _ in range(2))
    assert np.allclose(first, second, atol=1e-4)
    assert first.shape[0] == 6


def test_masks_follow_from_the_seeds(trained):
    from hub_mim.method import resolve

    name, *_ = trained
    subject = Subject(name)
    model, batch = subject.model(), subject.batch()
    draw = resolve(subject.method.draws)
    first, again, other = (draw(model, batch, subject.seeds(seed)) for seed in (0, 0, 1))
    (key,) = first
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])
    alone = draw(model, batch, subject.seeds(0)[2:3])
    assert torch.equal(alone[key][0], first[key][2])
    with torch.no_grad():
        losses = [model(**batch, **first).loss.item() for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_shares_hidden():
    mae, simmim, video = (Subject(name).model() for name in ("mae", "simmim-vit", "videomae"))
    seeds = torch.arange(5)
    assert draws.noise(mae, {}, seeds)["noise"].shape == (5, 64)
    blocks = draws.block_mask(simmim, {}, seeds)["bool_masked_pos"].view(5, 4, 2, 4, 2)
    assert bool((blocks == blocks[:, :, :1, :, :1]).all())  # units are whole
    assert (blocks[:, :, 0, :, 0].flatten(1).sum(1) == round(0.6 * 16)).all()
    tubes = draws.tube_mask(video, {}, seeds)["bool_masked_pos"].view(5, 4, 64)
    assert bool((tubes == tubes[:, :1]).all())
    assert (tubes[:, 0].sum(1) == round(0.9 * 64)).all()


def test_position_tables_are_zero_without_the_repair_and_right_with_it():
    """The encoder of an unrepaired model gives the same vectors for patches in any order."""
    from hub_mim_native.repairs import fill_position_tables

    subject = Subject("mae")
    config = ViTMAEConfig(**dict(subject.method.presets["tiny"]) | {"mask_ratio": 0.0})
    torch.manual_seed(0)
    model = ViTMAEForPreTraining(config).eval()
    pixels = subject.batch()["pixel_values"][:1]
    shuffled = model.unpatchify(
        model.patchify(pixels)[:, torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    )

    def tokens(values):
        with torch.no_grad():
            return model.vit(values, noise=torch.arange(64.0)[None]).last_hidden_state[0, 1:]

    def same():
        first, second = (tokens(part).sort(0).values for part in (pixels, shuffled))
        return torch.allclose(first, second, atol=1e-4)

    if not bool(model.vit.embeddings.position_embeddings.eq(0).all()):
        pytest.skip("this transformers fills the tables by itself; the repair may go")
    assert same()
    fill_position_tables(model)
    assert not same()
    assert not bool(model.decoder.decoder_pos_embed.eq(0).all())


@pytest.mark.parametrize("name", ["mae", "simmim-swin"])
def test_an_interrupted_run_ends_as_a_whole_one(name, tmp_path, monkeypatch):
    from hub_mim import training
    from hub_mim_native.example import sample_pictures

    rows = sample_pictures(24)
    options = FAST | {"arguments": {"save_steps": 2, "eval_steps": 2}}
    whole = hub_mim.pretrain(name, rows, tmp_path / "whole", **options)
    usual, count = training.MaskedTrainer.training_step, []

    def failing(self, *arguments):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return usual(self, *arguments)

    monkeypatch.setattr(training.MaskedTrainer, "training_step", failing)
    with pytest.raises(KeyboardInterrupt):
        hub_mim.pretrain(name, rows, tmp_path / "broken", **options)
    monkeypatch.undo()
    assert hub_mim.pretrain(name, rows, tmp_path / "broken", **options).losses == whole.losses
    first, second = (AutoModel.from_pretrained(tmp_path / place).state_dict() for place in ("whole", "broken"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_from_mae_to_a_named_class(tmp_path):
    from hub_mim_native.example import sample_pictures

    rows = sample_pictures(60)
    hub_mim.pretrain("mae", rows, tmp_path / "mae", **FAST)
    encoder = AutoModel.from_pretrained(tmp_path / "mae").state_dict()
    hub_mim.finetune(tmp_path / "mae", rows, tmp_path / "same", steps=1, learning_rate=1e-9)
    started = ViTForImageClassification.from_pretrained(tmp_path / "same").vit.state_dict()
    shared = [key for key in encoder if key in started]
    assert len(shared) > 0.9 * len(encoder)
    assert all(torch.allclose(encoder[key], started[key], atol=1e-6) for key in shared)
    run = hub_mim.finetune(
        tmp_path / "mae", rows, tmp_path / "out", steps=60, batch_size=16, learning_rate=2e-3, layer_decay=0.75
    )
    assert run.losses["accuracy"] > 0.9
    more = hub_mim.pretrain(
        "mae", rows, tmp_path / "more", init_from=str(tmp_path / "mae"), steps=1, learning_rate=1e-9
    )
    assert more.losses["eval_loss"] == pytest.approx(
        next(r.metric_value for r in evaluate(tmp_path / "mae", rows) if r.metric_type == "loss"), rel=1e-3
    )


@pytest.mark.parametrize("name", ["mae", "simmim-vit"])
def test_pictures_are_drawn(name, tmp_path):
    from PIL import Image

    from hub_mim_native.example import sample_pictures

    rows = sample_pictures(24)
    hub_mim.pretrain(name, rows, tmp_path / "out", **FAST)
    picture = np.asarray(Image.open(hub_mim.show(tmp_path / "out", rows, tmp_path / "x.png", count=2)))
    assert picture.std() > 20


def test_there_and_back_over_a_hub(trained, tmp_path):
    testing = pytest.importorskip("hub_mim_localhub.testing", reason="hub-mim-localhub is not installed")
    name, _, _, out = trained
    with testing.running_hub(tmp_path / "hub") as hub, testing.connected(hub, tmp_path / "cache"):
        pushed = hub_mim.push(out, "model")
        again = hub_mim.load(pushed.repository, auto="AutoModelForPreTraining", revision=pushed.commit).state_dict()
        (row,) = hub_mim.listed()
    assert (row["method"], row["installed"]) == (name, True)
    own = hub_mim.load(out, auto="AutoModelForPreTraining").state_dict()
    assert all(torch.equal(own[key], again[key]) for key in own)
