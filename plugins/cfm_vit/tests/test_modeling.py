"""What CFM-ViT promises beyond the general checks: two passes that share no patch, positions, losses over processes, heads."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, AutoModelForImageClassification

from hub_mim.testing.subject import without_dropout
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig
from hub_mim_cfm_vit.flops import forward_flops
from hub_mim_cfm_vit.losses import contrast, focal, unit
from hub_mim_cfm_vit.modeling_cfm_vit import (
    CfmVitForPreTraining,
    CfmVitModel,
    CfmVitTextModel,
    CfmVitVisionModel,
)
from hub_mim_cfm_vit.modeling_cfm_vit_heads import CfmVitForImageClassification, CfmVitForRegionClassification
from hub_mim_cfm_vit.positions import Positions, draw_crops

SMALL = {
    "image_size": 24,
    "patch_size": 6,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 20,
    "max_position_embeddings": 8,
    "text_hidden_size": 12,
    "text_num_hidden_layers": 1,
    "text_num_attention_heads": 2,
    "text_intermediate_size": 20,
    "joint_dim": 12,
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 12,
}
SEEDS = torch.arange(4)


def config(**fields):
    return CfmVitConfig(**SMALL | fields)


def make(kind=CfmVitForPreTraining, seed=0, **fields):
    torch.manual_seed(seed)
    return kind(config(**fields)).eval()


@pytest.fixture(scope="module")
def batch():
    source = torch.Generator().manual_seed(3)
    ids = torch.randint(1, 20, (4, 7), generator=source)
    ids[1, 4:] = 0
    return {"pixel_values": torch.randn(4, 3, 24, 24, generator=source), "input_ids": ids}


def noisy(pixels, where):
    """Return pictures with noise in some patches, bool (B, 16)."""
    grid = where.view(-1, 1, 4, 4).repeat_interleave(6, 2).repeat_interleave(6, 3)
    return torch.where(grid, torch.randn(pixels.shape, generator=torch.Generator().manual_seed(9)), pixels)


@pytest.mark.parametrize("on", ["masked", "full"])
def test_what_is_contrasted_sees_hidden_patches_alone(batch, on):
    model = make(contrastive_on=on)
    with torch.no_grad():
        out = model(**batch, row_seed=SEEDS, output_targets=True)
        other = dict(batch) | {"pixel_values": noisy(batch["pixel_values"], ~out.mask)}
        changed = model(**other, mask=out.mask, output_targets=True)
    assert torch.allclose(out.image_embeds, changed.image_embeds, atol=1e-6) == (on == "masked")
    assert torch.allclose(out.targets, changed.targets, atol=1e-6) == (on == "masked")
    assert not torch.allclose(out.predictions, changed.predictions, atol=1e-6)


def test_each_patch_is_encoded_once_in_a_step(batch):
    model = make()
    seen = []
    model.cfm_vit.vision.patch_embed.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[1]))
    model(**batch, row_seed=SEEDS)
    assert seen == [4, 12]


def test_masks_by_hand_may_hide_another_number_in_each_row(batch):
    """Each row gives what it gives alone; one that hides nothing is contrasted whole, one that hides all is predicted blind."""
    model = make()
    mask = torch.arange(16) < torch.tensor([0, 3, 16, 9])[:, None]
    with torch.no_grad():
        out = model(**batch, mask=mask, output_targets=True)
        for row in range(4):
            one = {name: value[row : row + 1] for name, value in batch.items()}
            alone = model(**one, mask=mask[row : row + 1], output_targets=True)
            for name in ("predictions", "image_embeds", "targets"):
                torch.testing.assert_close(out[name][row], alone[name][0], rtol=0, atol=1e-5)
        whole = model.cfm_vit(pixel_values=batch["pixel_values"]).image_embeds
    assert out.loss.isfinite()
    torch.testing.assert_close(out.image_embeds[0], whole[0], rtol=0, atol=1e-6)


def test_a_ratio_of_nothing_is_plain_contrast(batch):
    model = make(mask_ratio=0.0)
    with torch.no_grad():
        out = model(**batch, row_seed=SEEDS, output_targets=True)
        whole = model.cfm_vit(**batch)
    assert out.losses["reconstruction"] == 0
    torch.testing.assert_close(out.image_embeds, whole.image_embeds)
    torch.testing.assert_close(out.logits_per_image, whole.logits_per_image)


def test_a_picture_without_positions_is_a_bag_of_patches(batch):
    model = make(CfmVitModel)
    turned = batch["pixel_values"].unflatten(2, (4, 6)).flip(2).flatten(2, 3)
    keep = torch.tensor([True, False, True, False])
    with torch.no_grad():
        first, second = (
            model(pixel_values=each, pe_keep=keep).image_embeds for each in (batch["pixel_values"], turned)
        )
    same = (first - second).abs().amax(1) < 1e-5
    assert same.tolist() == [False, True, False, True]


def test_positions_are_dropped_in_training_alone_by_the_rows_seed(batch):
    model = without_dropout(make(pe_drop=0.5))
    seeds = torch.arange(400)
    kept = model.train()._draw_positions(400, None, None, {"row_seed": seeds})[0]
    assert abs(kept.float().mean() - 0.5) < 0.08
    source = {"row_seed": seeds[7:9]}
    assert torch.equal(model._draw_positions(2, None, None, source)[0], kept[7:9])
    assert model.eval()._draw_positions(2, None, None, source) == (None, None)
    always, never = make(pe_drop=1.0), make(pe_drop=0.0)
    with torch.no_grad():
        mask = model(**batch, row_seed=SEEDS).mask
        without = never(**batch, mask=mask, pe_keep=torch.zeros(4)).losses["contrastive"]
        drawn = without_dropout(always.train())(**batch, row_seed=SEEDS).losses["contrastive"]
    torch.testing.assert_close(without, drawn)


def test_the_whole_table_cropped_is_the_table(batch):
    table = Positions(config(crop_grid=64), 16)
    table.reset()
    whole = table.cropped(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 1.0]]), (4, 4))
    torch.testing.assert_close(whole[0], table((4, 4)), rtol=0, atol=0.02)
    assert not torch.allclose(whole[1], whole[0], atol=0.1)
    crops = draw_crops(200, [0.1, 0.5], [0.5, 2.0], {"row_seed": torch.arange(200)})
    size = crops[:, 2:] - crops[:, :2]
    area = size.prod(1)
    assert (crops >= 0).all()
    assert (crops <= 1 + 1e-6).all()
    assert area.min() > 0.09
    assert area.max() < 0.51
    model = make(cropped_positions=True, pe_drop=0.0).train()
    assert model(**batch, row_seed=SEEDS).loss.isfinite()
    assert not torch.equal(
        model(**batch, row_seed=SEEDS).loss, model(**batch, mask=model(**batch, row_seed=SEEDS).mask).loss
    )


def test_larger_pictures_get_resized_positions(batch):
    model = make(CfmVitModel)
    large = torch.nn.functional.interpolate(batch["pixel_values"], scale_factor=2, mode="nearest")
    with torch.no_grad():
        features, valid, grid = model.patch_features(large)
    assert features.shape == (4, 64, 12)
    assert valid.all()
    assert grid.tolist() == [[8, 8]] * 4


def test_the_reconstruction_stops_at_its_targets_unless_told(batch):
    """With the contrast switched off, the passes over hidden patches learn nothing from constants."""
    for stop in (True, False):
        model = make(stop_gradient_target=stop, loss_weights={"contrastive": 0.0})
        model(**batch, row_seed=SEEDS).loss.backward()
        assert bool(model.cfm_vit.vision.proj.weight.grad.any()) != stop


def test_pixels_are_predicted_standardised(batch):
    model = make(reconstruction_target="pixels")
    out = model(**batch, row_seed=SEEDS, output_targets=True)
    assert out.predictions.shape == (4, 16, 108)
    torch.testing.assert_close(out.targets.mean(-1), torch.zeros(4, 16), rtol=0, atol=1e-5)
    expected = (out.predictions - out.targets).square().mean(-1)[out.mask].mean()
    torch.testing.assert_close(out.losses["reconstruction"], expected)


def test_the_contrast_is_the_cross_entropy_of_both_directions():
    source = torch.Generator().manual_seed(1)
    images, texts = (unit(torch.randn(5, 6, generator=source)) for _ in range(2))
    logits = 14 * images @ texts.T
    places = torch.arange(5)
    expected = (cross_entropy(logits, places) + cross_entropy(logits.T, places)) / 2
    torch.testing.assert_close(contrast(images, texts, torch.tensor(14.0)), expected)


def test_focal_without_focus_is_twice_the_weighed_cross_entropy():
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    own = torch.eye(3)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, own, reduction="sum")
    torch.testing.assert_close(focal(logits, torch.arange(3), 0.5, 0.0), plain)
    torch.testing.assert_close(
        focal(logits[1:], torch.arange(1, 3), 0.5, 0.0) + focal(logits[:1], torch.arange(1), 0.5, 0.0), plain
    )


def test_padding_of_texts_changes_nothing(batch):
    model = make(CfmVitModel)
    ids = batch["input_ids"]
    with torch.no_grad():
        padded = model(input_ids=ids).text_embeds
        short = model(input_ids=ids[1:2, :4]).text_embeds
        masked = model(input_ids=ids + (ids == 0), attention_mask=(ids != 0).long()).text_embeds
    torch.testing.assert_close(padded[1], short[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(padded, masked, rtol=0, atol=1e-6)


def test_features_are_what_the_model_contrasts(batch):
    model = make(CfmVitModel)
    with torch.no_grad():
        out = model(**batch, output_hidden_states=True)
        images = model.get_image_features(batch["pixel_values"])
        texts = model.get_text_features(batch["input_ids"], token_type_ids=torch.zeros_like(batch["input_ids"]))
    torch.testing.assert_close(unit(images.pooler_output), out.image_embeds)
    torch.testing.assert_close(unit(texts.pooler_output), out.text_embeds)
    torch.testing.assert_close(out.logits_per_image, out.image_embeds @ out.text_embeds.T / 0.07)
    assert len(out.hidden_states) == 3
    assert images.last_hidden_state.shape == (4, 16, 16)
    assert isinstance(model.get_image_features(batch["pixel_values"], return_dict=False), tuple)


def test_outputs_come_in_the_order_that_is_declared(batch):
    model = make()
    with torch.no_grad():
        loss = model(**batch, row_seed=SEEDS).loss
        assert torch.equal(model(**batch, row_seed=SEEDS, return_dict=False)[0], loss)
        encoded = model.cfm_vit(input_ids=batch["input_ids"], return_dict=False)
        model.set_attn_implementation("eager")  # the others give no weights
        texts = model.cfm_vit.get_text_features(batch["input_ids"], output_hidden_states=True, output_attentions=True)
    assert encoded[0].shape == (4, 7, 12)
    assert [len(texts.hidden_states), len(texts.attentions)] == [2, 1]
    assert texts.hidden_states[0].shape == (4, 7, 12)


def test_a_step_costs_what_the_formula_says(batch):
    for fields in ({}, {"contrastive_on": "full", "contrastive_loss": "focal"}, {"reconstruction_target": "pixels"}):
        model = make(**fields)
        model.set_attn_implementation("eager")
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**batch, row_seed=SEEDS)
        assert forward_flops(model.config, batch) == counter.get_total_flops()


def test_towers_load_from_a_pretraining_checkpoint(batch, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    both = AutoModel.from_pretrained(tmp_path).eval()
    heads = (
        CfmVitVisionModel,
        CfmVitTextModel,
        CfmVitForImageClassification,
        CfmVitForRegionClassification,
    )
    loaded = []
    for kind in heads:
        made, told = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not told["unexpected_keys"]
        assert all(name.startswith(("classifier", "head", "class_embeddings")) for name in told["missing_keys"])
        loaded.append(made.eval())
    with torch.no_grad():
        whole = both(**batch)
        torch.testing.assert_close(loaded[0](batch["pixel_values"]).pooler_output, whole.pooler_output)
        torch.testing.assert_close(loaded[1](batch["input_ids"]).text_embeds, whole.text_embeds)


def test_pictures_are_classified(batch):
    model = AutoModelForImageClassification.from_config(config(num_labels=5))
    labels = torch.tensor([0, 4, 2, 1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(batch["pixel_values"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        assert all(weight.grad is not None for weight in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"hidden_size": 18}, "hidden_size 18"),
        ({"image_size": 25}, "image_size is 25"),
        ({"contrastive_on": "visible"}, "contrastive_on is 'visible'"),
        ({"crop_scale": [0.5]}, "crop_scale"),
        ({"loss_weights": {"mae": 1.0}}, "loss_weights names"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
    ],
)
def test_wrong_configurations_are_refused(fields, told):
    with pytest.raises(Exception, match=told.replace("[", r"\[")):
        config(**fields)


def test_wrong_input_is_named(batch):
    model = make()
    pixels, ids = batch["pixel_values"], batch["input_ids"]
    with pytest.raises(ValueError, match="no texts"):
        model(pixels)
    with pytest.raises(ValueError, match="4 pictures, 3 texts"):
        model(pixels, ids[:3])
    with pytest.raises(ValueError, match="a text has 9 tokens; the model takes 8"):
        model.cfm_vit(input_ids=torch.ones(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"the mask has the shape \(4, 9\); it must be \(4, 16\)"):
        model(pixels, ids, mask=torch.zeros(4, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match="neither pictures"):
        model.cfm_vit()
    with pytest.raises(ValueError, match=r"pixel_values has the shape \(4, 24, 24\)"):
        model.cfm_vit(pixel_values=pixels[:, 0])


def test_no_decay_where_there_is_nothing_to_decay(batch):
    decayed, other = make().parameter_groups()
    assert other["weight_decay"] == 0.0
    assert "weight_decay" not in decayed
    assert all(weight.dim() > 1 for weight in decayed["params"])
