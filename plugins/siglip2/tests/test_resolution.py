"""NaFlex: shapes kept, lengths drawn, the same weights; other resolutions for the last stage."""

import copy

import pytest
import torch
from PIL import Image
from torch.nn.functional import conv2d, interpolate
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings

from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.example import example, sample
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimForPreTraining
from hub_mim_siglip2.naflex import draw_length, grid_for, shrink
from hub_mim_siglip2.processing_siglip2_mim import Siglip2MimProcessor
from hub_mim_siglip2.resolution import change_resolution, resized_kernel, to_naflex
from hub_mim_siglip2.towers import positions

TOWER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def rows():
    found = sample(4, side=40)
    shapes = ((40, 40), (64, 24), (20, 60), (64, 24))
    return [{**row, "image": row["image"].resize(shape)} for row, shape in zip(found, shapes, strict=True)]


@pytest.fixture(scope="module")
def processor(rows):
    made = Siglip2MimProcessor(
        naflex=True, patch_size=4, max_num_patches=36, text_length=20, decoder_length=24, box_unit="share"
    )
    return made.fit([{**row, "objects": []} for row in rows])


@pytest.fixture(scope="module")
def batch(processor, rows):
    return dict(processor(rows=[{**row, "objects": []} for row in rows]))


def make(processor, **fields):
    torch.manual_seed(0)
    told = {"vision_config": {**TOWER, "num_patches": 16}, "text_config": TOWER, "sequence_lengths": [9, 36]}
    return Siglip2MimForPreTraining(Siglip2MimConfig(**processor.config_arguments() | told | fields))


def test_pictures_keep_their_shape(batch):
    rows, columns = batch["spatial_shapes"].unbind(1)
    assert rows[0] == columns[0]
    assert columns[1] > rows[1] * 2  # a PIL size is width, height
    assert rows[2] > columns[2] * 2
    assert (batch["pixel_attention_mask"].sum(1) == rows * columns).all()
    assert (rows * columns <= 36).all()
    assert not batch["pixel_values"][~batch["pixel_attention_mask"]].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (7, 3)])
def test_any_shape_is_taken(processor, size):
    made = processor(images=[Image.new("RGB", size)])
    assert 1 <= made["spatial_shapes"].prod() <= 36


def test_padding_changes_nothing(processor, batch):
    model = make(processor).eval()
    longer = dict(batch)
    longer["pixel_values"] = torch.nn.functional.pad(batch["pixel_values"], (0, 0, 0, 5), value=3.0)
    longer["pixel_attention_mask"] = torch.nn.functional.pad(batch["pixel_attention_mask"], (0, 5))
    with torch.no_grad():
        one, two = (model(**each, mask=None, row_seed=torch.arange(4)).losses for each in (batch, longer))
    assert set(one) == {"sigmoid", "caption"}
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-4, atol=1e-5)


def test_positions_are_transformers_own():
    table, shapes = torch.randn(4, 4, 6), torch.tensor([[3, 5], [4, 4], [3, 5], [1, 7]])
    theirs = Siglip2VisionEmbeddings.resize_positional_embeddings(table, shapes, 18)
    ours = positions(table, [tuple(each) for each in shapes.tolist()], 18)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_the_length_is_drawn_by_the_step_and_in_training_alone(processor, batch):
    lengths = [draw_length([9, 16, 36], step) for step in range(300)]
    assert {lengths.count(each) > 60 for each in (9, 16, 36)} == {True}
    assert lengths == [draw_length([9, 16, 36], step) for step in range(300)]
    model = make(processor).train()
    seen = {model(**batch, step_seed=step, row_seed=torch.arange(4)).mask.shape[1] for step in range(12)}
    assert seen == {9, 36}
    assert model.eval()(**batch, step_seed=1, row_seed=torch.arange(4)).mask.shape[1] == 36
    assert model(**batch, sequence_length=16, row_seed=torch.arange(4)).mask.shape[1] == 16


def test_fewer_patches_show_the_same_picture(batch):
    pixels, valid, shapes = shrink(batch["pixel_values"], batch["pixel_attention_mask"], batch["spatial_shapes"], 9, 4)
    assert pixels.shape == (4, 9, 48)
    for row, (high, wide) in enumerate(shapes.tolist()):
        assert (high, wide) == grid_for(*batch["spatial_shapes"][row].tolist(), 4, 9)
        assert valid[row].sum() == high * wide <= 9
        before = batch["pixel_values"][row][batch["pixel_attention_mask"][row]]
        assert pixels[row][valid[row].bool()].mean() == pytest.approx(float(before.mean()), abs=0.05)


def test_every_parameter_of_a_naflex_model_learns(processor, batch):
    model = make(processor).train()
    assert not hasattr(model, "teacher")
    model(**batch, row_seed=torch.arange(4)).loss.backward()
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert [name for name in dead if not name.endswith("k_proj.bias")] == []


def test_patch_features_and_captions_of_naflex_pictures(processor, batch):
    model = make(processor).eval()
    picture = {name: batch[name] for name in ("pixel_values", "pixel_attention_mask", "spatial_shapes")}
    vectors, valid, shapes = model.patch_features(**picture)
    assert vectors.shape == (4, 36, 16)
    assert torch.equal(valid.sum(1), shapes.prod(1))
    assert len(model.generate_captions(**picture, max_length=4)) == 4
    with pytest.raises(ValueError, match="NaFlex model takes patches"):
        model.get_image_features(torch.randn(1, 3, 16, 16))


def test_a_fixed_model_becomes_a_naflex_one_with_the_same_vectors():
    found = example()
    model = Siglip2MimForPreTraining(copy.deepcopy(found.config)).eval()
    made = to_naflex(model)
    pixels = torch.randn(2, 3, 32, 32)
    from hub_mim.patches import patchify

    patches = patchify(pixels, (8, 8))
    with torch.no_grad():
        one = model.get_image_features(pixels).pooler_output
        picture = {"pixel_attention_mask": torch.ones(2, 16).bool(), "spatial_shapes": torch.tensor([[4, 4]] * 2)}
        two = made.get_image_features(patches, **picture).pooler_output
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def test_a_larger_patch_sees_the_resized_patch_alike():
    kernel, patch = torch.randn(5, 3, 6, 6, dtype=torch.float64), torch.randn(2, 3, 6, 6, dtype=torch.float64)
    large = interpolate(patch, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(conv2d(large, resized_kernel(kernel, 8)), conv2d(patch, kernel))


@pytest.mark.parametrize(("size", "patch"), [(48, None), (24, 6), (40, 10)])
def test_another_resolution(tmp_path, size, patch):
    found = example()
    model = Siglip2MimForPreTraining(copy.deepcopy(found.config)).eval()
    assert change_resolution(model, size, patch) is model
    pixels = torch.randn(6, 3, size, size)
    batch = {**dict(found.processor(rows=found.rows)), "pixel_values": pixels}
    out = model.train()(**batch, row_seed=torch.arange(6))
    out.loss.backward()
    side = size // (patch or 8)
    assert out.mask.shape == (6, side * side)
    assert model.siglip.vision_model.embeddings.position_embedding.weight.grad is not None
    model.eval().save_pretrained(tmp_path)
    again = Siglip2MimForPreTraining.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(
        again.get_image_features(pixels).pooler_output, model.get_image_features(pixels).pooler_output
    )


def test_resolutions_that_do_not_fit_are_refused(processor):
    found = example()
    model = Siglip2MimForPreTraining(copy.deepcopy(found.config))
    with pytest.raises(ValueError, match="image size 50 is not a multiple of the patch size 8"):
        change_resolution(model, 50)
    with pytest.raises(ValueError, match="NaFlex"):
        change_resolution(make(processor), 32)
