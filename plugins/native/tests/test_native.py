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
    assert sorted(NAMES) == ["beit", "hiera", "mae", "simmim-swin", "simmim-vit", "videomae"]


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


def test_a_model_can_be_trained_after_its_features_were_made():
    """BEiT keeps the places of a window for all models of a process; kept from inference mode, none could be trained."""
    from hub_mim_native.example import sample_pictures

    subject = Subject("beit")
    model = AutoModel.from_config(subject.model().config)
    side = 3 * model.config.patch_size  # a window that no other test has
    processor = subject.example.processor.__class__(size={"height": side, "width": side})
    model.config.image_size = side
    assert features(model.eval(), processor, [dict(row) for row in sample_pictures(2)]).shape[0] == 2
    loss = model.train()(torch.rand(2, 3, side, side)).last_hidden_state.square().mean()
    loss.backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in model.parameters())


def test_masks_follow_from_the_seeds(trained):
    from hub_mim.method import resolve

    name, *_ = trained
    subject = Subject(name)
    model, batch = subject.model().eval(), subject.batch()
    draw = resolve(subject.method.draws)
    first, again, other = (draw(model, batch, subject.seeds(seed)) for seed in (0, 0, 1))
    key = next(iter(first))
    assert torch.equal(first[key], again[key])
    assert not torch.equal(first[key], other[key])
    alone = draw(model, {name: value[2:3] for name, value in batch.items()}, subject.seeds(0)[2:3])
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


def test_masks_of_beit_are_rectangles_over_two_fifths():
    from hub_mim_native.codes import blockwise

    for side in (8, 14):
        masks = [blockwise(seed, side) for seed in range(20)]
        counts = [int(mask.sum()) for mask in masks]
        assert min(counts) >= round(0.4 * side * side)
        assert max(counts) <= round(0.4 * side * side) + 2
        neighbours = torch.stack(masks).view(-1, side, side)
        joined = (neighbours[:, 1:] & neighbours[:, :-1]).sum() / (neighbours.sum())
        assert joined > 0.6  # alone, two fifths would be joined
    assert torch.equal(blockwise(5, 14), blockwise(5, 14))


def test_beit_takes_the_codes_of_a_trained_tokenizer(tmp_path):
    from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

    from hub_mim_native.codes import codes

    torch.manual_seed(0)
    tokenizer = FlavaImageCodebook(FlavaImageCodebookConfig(hidden_size=4, vocab_size=32)).eval()
    tokenizer.save_pretrained(tmp_path / "codebook")
    subject = Subject("beit")
    model, batch = subject.model(), subject.batch()
    model.config.codebook = str(tmp_path / "codebook")
    drawn = codes(model, batch, subject.seeds(0))
    colours = torch.nn.functional.interpolate(batch["pixel_values"], size=(64, 64), mode="bicubic", antialias=True)
    expected = tokenizer.get_codebook_indices(0.8 * (colours / 2 + 0.5).clamp(0, 1) + 0.1).flatten(1)
    assert torch.equal(drawn["labels"], expected[drawn["bool_masked_pos"]])
    assert expected.shape == (4, 64)
    model.config.vocab_size = 16
    with pytest.raises(ValueError, match="has 32 codes, the model predicts 16"):
        codes(model, batch, subject.seeds(0))


def test_random_codes_do_not_depend_on_the_batch():
    from hub_mim_native.codes import _random_codes

    pixels = Subject("beit").batch()["pixel_values"]
    together = _random_codes(pixels, 4, 512)
    assert torch.equal(_random_codes(pixels[1:2], 4, 512)[0], together[1])
    assert len(together.unique()) > 20


def authors_mae(model):
    """Return weights of ours under the names of the authors' MAE."""
    import re

    found = {}
    for name, tensor in model.state_dict().items():
        for old, new in (
            (r"^vit\.embeddings\.position_embeddings$", "pos_embed"),
            (r"^vit\.embeddings\.cls_token$", "cls_token"),
            (r"^vit\.embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
            (r"^vit\.layers", "blocks"),
            (r"^decoder\.decoder_layers", "decoder_blocks"),
            (r"^vit\.layernorm", "norm"),
            (r"^decoder\.", ""),
            (r"layernorm_before", "norm1"),
            (r"layernorm_after", "norm2"),
            (r"attention\.o_proj", "attn.proj"),
        ):
            name = re.sub(old, new, name)
        found[name] = tensor
    fused = {}
    for name in [name for name in found if ".attention.q_proj." in name]:
        parts = [found.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        fused[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
    return found | fused


@pytest.mark.parametrize("whole", [True, False])
def test_released_weights_of_mae_become_ours(tmp_path, whole):
    from hub_mim import loading
    from hub_mim.conversion import convert

    subject = Subject("mae")
    model = subject.model()
    model.config.decoder_num_attention_heads = 4
    weights = authors_mae(model)
    assert "blocks.0.attn.qkv.weight" in weights
    if not whole:
        weights = {name: value for name, value in weights.items() if "decoder" not in name and name != "mask_token"}
    torch.save({"model": weights}, tmp_path / "mae.pth")
    fields = {"num_attention_heads": 4, "decoder_num_attention_heads": 4} if whole else {"num_attention_heads": 4}
    convert("mae", tmp_path / "mae.pth", tmp_path / "out", config=fields)
    pixels = subject.batch()["pixel_values"]
    if whole:
        ours = loading.load(tmp_path / "out", auto="AutoModelForPreTraining")
        drawn = draws.noise(model, {}, subject.seeds(0))
        with torch.no_grad():
            assert torch.equal(ours.eval()(pixels, **drawn).logits, model.eval()(pixels, **drawn).logits)
    else:
        ours = AutoModel.from_pretrained(tmp_path / "out", mask_ratio=0.0).eval()
        noise = torch.arange(64.0).expand(len(pixels), -1)
        model.vit.embeddings.config.mask_ratio = 0.0
        with torch.no_grad():
            expected = model.vit.eval()(pixels, noise=noise).last_hidden_state
            assert torch.equal(ours(pixels, noise=noise).last_hidden_state, expected)
    processor = loading.load_processor(tmp_path / "out")
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert processor.size["height"] == 32
    assert "cc-by-nc-4.0" in (tmp_path / "out" / "README.md").read_text()


def predicting_its_targets(model):
    """Let a model with a mean squared loss L and its gradient g predict p - 2 L g / |g|^2, which is the target."""
    usual = model.forward

    def forward(**batch):
        with torch.enable_grad():
            output = usual(**batch)
            (slope,) = torch.autograd.grad(output.loss, output.logits)
        output.logits = (output.logits - 2 * output.loss * slope / slope.square().sum()).detach()
        return output

    model.forward = forward
    return model


@pytest.mark.parametrize("name", ["mae", "hiera", "videomae"])
def test_a_perfect_prediction_draws_the_picture_itself(name, tmp_path, monkeypatch):
    """The drawing undoes exactly what the loss does: the targets, drawn as predictions, are the original."""
    from hub_mim import pictures
    from hub_mim.method import resolve

    subject = Subject(name)
    seen = {}

    def kept(images, mask, predicted, path, **options):
        seen.update(images=images, predicted=predicted, mask=mask)
        return path

    monkeypatch.setattr(pictures, "masked_images", kept)
    model = predicting_its_targets(subject.model().eval())
    draw = resolve(subject.method.picture)
    draw(model, subject.example.processor, subject.rows, tmp_path / "x.png", start=0, seed=0, overwrite=False)
    assert seen["mask"].any()
    assert seen["images"].shape == seen["predicted"].shape
    assert np.abs(seen["images"] - seen["predicted"]).max() < 2e-3


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_quick_steps_of_mae_have_the_loss_and_gradients_of_plain_ones(norm, attention):
    from hub_mim_native.quick_mae import quicken

    torch.manual_seed(0)
    given = dict(plugins.get_method("mae").presets["tiny"]) | {"norm_pix_loss": norm, "mask_ratio": 0.6}
    plain = ViTMAEForPreTraining(ViTMAEConfig(**given)).train()
    quick = ViTMAEForPreTraining(ViTMAEConfig(**given)).train()
    quick.load_state_dict(plain.state_dict())
    quicken(quick)
    pixels, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 64)
    found = []
    for model in (plain, quick):
        model.set_attn_implementation(attention)
        out = model(pixels, noise=noise)
        out.loss.backward()
        found.append(out)
    assert quick.training
    assert found[1].logits is None
    torch.testing.assert_close(found[0].loss, found[1].loss, rtol=1e-6, atol=0)
    assert torch.equal(found[0].mask, found[1].mask)
    assert torch.equal(found[0].ids_restore, found[1].ids_restore)
    for (name, one), other in zip(plain.named_parameters(), quick.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert quick.eval()(pixels, noise=noise).logits is not None
    with pytest.raises(ValueError, match="doesn't match model"):
        quick.train()(torch.randn(3, 3, 48, 48))


def test_quick_steps_with_checkpointed_layers_are_plain_ones():
    from hub_mim_native.quick_mae import quicken

    model = ViTMAEForPreTraining(ViTMAEConfig(**plugins.get_method("mae").presets["tiny"])).train()
    quicken(model)
    model.gradient_checkpointing_enable()
    assert model(torch.randn(2, 3, 32, 32)).logits is not None


def test_plain_steps_on_demand(tmp_path):
    from hub_mim_native.example import sample_pictures

    rows = sample_pictures(40)
    quick = hub_mim.pretrain("mae", rows, tmp_path / "quick", **FAST)
    plain = hub_mim.pretrain("mae", rows, tmp_path / "plain", plain_steps=True, **FAST)
    assert plain.plain_steps
    assert not quick.plain_steps
    assert quick.losses["eval_loss"] == pytest.approx(plain.losses["eval_loss"], rel=1e-4)
