"""Towers that are transformers' own, a teacher that follows, texts that are drawn, captions that are written."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from hub_mim_siglip2.configuration_siglip2_mim import Siglip2MimConfig
from hub_mim_siglip2.draws import draw_texts
from hub_mim_siglip2.example import example, sample
from hub_mim_siglip2.flops import forward_flops
from hub_mim_siglip2.modeling_siglip2_mim import Siglip2MimForPreTraining, Siglip2MimModel, on_step
from hub_mim_siglip2.processing_siglip2_mim import Siglip2MimProcessor
from hub_mim_siglip2.views import crop, crop_boxes

TOWER = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
TEXT = {
    **TOWER,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def given():
    found = example()
    return found, dict(found.processor(rows=found.rows))


def make(given, **fields):
    torch.manual_seed(0)
    config = copy.deepcopy(given[0].config)
    return Siglip2MimForPreTraining(Siglip2MimConfig(**{**config.to_dict(), **fields}))


def seeds(rows=6):
    return torch.arange(rows)


def plain(naflex):
    torch.manual_seed(3)
    if naflex:
        return Siglip2Model(
            Siglip2Config(text_config=TEXT, vision_config={**TOWER, "patch_size": 4, "num_patches": 16})
        ).eval()
    return SiglipModel(
        SiglipConfig(text_config=TEXT, vision_config={**TOWER, "patch_size": 4, "image_size": 16})
    ).eval()


def inputs(naflex):
    source = torch.Generator().manual_seed(5)
    ids = torch.randint(2, 50, (3, 8), generator=source)
    if not naflex:
        return {"pixel_values": torch.randn(3, 3, 16, 16, generator=source), "input_ids": ids}
    shapes = torch.tensor([[2, 5], [3, 4], [2, 5]])
    valid = torch.arange(12) < shapes.prod(1)[:, None]
    return {
        "pixel_values": torch.randn(3, 12, 48, generator=source) * valid[..., None],
        "pixel_attention_mask": valid,
        "spatial_shapes": shapes,
        "input_ids": ids,
    }


@pytest.mark.parametrize("naflex", [False, True])
def test_released_folders_load_as_they_are_and_export_gives_them_back(tmp_path, naflex):
    theirs, batch = plain(naflex), inputs(naflex)
    theirs.save_pretrained(tmp_path / "released")
    ours, told = Siglip2MimModel.from_pretrained(tmp_path / "released", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert ours.config.naflex == naflex
    whole_model = Siglip2MimForPreTraining.from_pretrained(tmp_path / "released").eval()
    whole_model.export_towers(tmp_path / "exported")
    again = AutoModel.from_pretrained(tmp_path / "exported").eval()
    assert type(again) is type(theirs)
    with torch.no_grad():
        wanted = theirs(**batch)
        for model in (ours.eval(), whole_model.siglip, again):
            out = model(**batch)
            torch.testing.assert_close(out.logits_per_image, wanted.logits_per_image, rtol=1e-5, atol=1e-6)
    assert hasattr(whole_model, "teacher") != naflex


def test_a_process_without_the_plugin_loads_exported_towers(tmp_path, given):
    model = make(given).eval()
    folder = model.export_towers(tmp_path / "plain", given[0].processor)
    code = f"""
import sys, torch
from PIL import Image
from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained({str(folder)!r}), AutoProcessor.from_pretrained({str(folder)!r})
options = {{"padding": "max_length", "return_tensors": "pt"}}
batch = processor(images=[Image.new("RGB", (50, 40), (9, 200, 30))], text=["a red cube"], **options)
assert not any(name.startswith("hub_mim") for name in sys.modules)
print(type(model).__name__, type(processor).__name__, model.eval()(**batch).logits_per_image.item())
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr[-2000:]
    kind, other, logit = told.stdout.split()
    assert (kind, other) == ("SiglipModel", "SiglipProcessor")
    from PIL import Image

    batch = given[0].processor(images=[Image.new("RGB", (50, 40), (9, 200, 30))], text=["a red cube"])
    assert model.siglip(**batch).logits_per_image.item() == pytest.approx(float(logit), abs=1e-5)


def test_temperature_and_bias_start_as_the_paper_says():
    towers = Siglip2MimModel(Siglip2MimConfig(vision_config=TOWER, text_config={**TOWER, "vocab_size": 9}))
    assert towers.logit_scale.item() == pytest.approx(2.302585)
    assert towers.logit_bias.item() == -10


def test_sizes_of_the_released_towers():
    from hub_mim.plugins import get_method

    wanted = {
        "base": (92.93, 282.30),
        "large": (315.96, 565.57),
        "so400m": (427.9, 707.8),
        "giant-opt": (1163.2, 708.2),
    }
    for name, sizes in wanted.items():
        with torch.device("meta"):
            towers = Siglip2MimModel(Siglip2MimConfig(**get_method("siglip2").presets[name]))
        for part, millions in zip((towers.vision_model, towers.text_model), sizes, strict=True):
            assert sum(weight.numel() for weight in part.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_padding_of_texts_is_read_and_a_mask_is_not(given):
    model, batch = make(given).eval(), given[1]
    mask = (batch["input_ids"] != 0).long()
    with torch.no_grad():
        first, masked = (
            model.siglip(input_ids=batch["input_ids"], **extra) for extra in ({}, {"attention_mask": mask})
        )
    assert torch.equal(first.text_embeds, masked.text_embeds)
    last = model.siglip.text_model.head(first.text_hidden[:, -1])
    torch.testing.assert_close(model.get_text_features(batch["input_ids"], attention_mask=mask).pooler_output, last)


def test_pairs_and_patches_lie_in_one_space(given):
    model, batch = make(given).eval(), given[1]
    with torch.no_grad():
        images = model.get_image_features(batch["pixel_values"])
        vectors, valid, shapes = model.patch_features(batch["pixel_values"])
        alone = model.siglip.vision_model.head(images.last_hidden_state[:, 3:4])
    torch.testing.assert_close(vectors[:, 3], alone)
    assert vectors.shape == (6, 16, 24)
    assert valid.all()
    assert shapes.tolist() == [[4, 4]] * 6


def test_pictures_of_other_sizes_are_taken(given):
    model = make(given).eval()
    assert model.get_image_features(torch.randn(2, 3, 16, 48)).last_hidden_state.shape == (2, 12, 24)
    with pytest.raises(ValueError, match="30x32 pixels; sides must be multiples of the patch size 8"):
        model.get_image_features(torch.randn(2, 3, 30, 32))


@pytest.mark.parametrize("missing", ["pixel_values", "input_ids"])
def test_pre_training_needs_pairs(given, missing):
    batch = {name: value for name, value in given[1].items() if name != missing}
    with pytest.raises(ValueError, match="needs a text with each picture"):
        make(given)(**batch)


# --- the teacher ---


def test_the_teacher_begins_when_the_losses_do_and_then_follows(given):
    model, batch = make(given, self_distillation_start=0.5, teacher_momentum=0.9).train(), given[1]
    student = model.siglip.vision_model.post_layernorm.weight
    teacher = model.teacher.vision_model.post_layernorm.weight
    assert set(model(**batch, row_seed=seeds()).losses) == {"sigmoid", "caption"}
    student.data.fill_(2.0)
    on_step(model, 4, 10)
    assert (teacher == 1).all()
    model.teacher.global_center.fill_(1.0)
    on_step(model, 5, 10)
    assert (teacher == 2).all()
    assert not model.teacher.global_center.any()
    assert set(model(**batch, row_seed=seeds()).losses) == {"sigmoid", "caption", "distillation", "masked"}
    assert model.teacher.global_center.any()
    assert model.teacher.patch_center.any()
    student.data.fill_(3.0)
    on_step(model, 6, 10)
    torch.testing.assert_close(teacher, torch.full_like(teacher, 2.1))


def test_before_the_start_every_parameter_has_a_gradient_of_zero_at_least(given):
    model = make(given, self_distillation_start=0.5).train()
    model(**given[1], row_seed=seeds()).loss.backward()
    assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)


def test_a_resumed_training_knows_where_it_stands(given):
    model = make(given, self_distillation_start=0.5)
    on_step(model, 7, 10)
    again = make(given, self_distillation_start=0.5)
    again.load_state_dict(model.state_dict())
    assert float(again.progress) == pytest.approx(0.7)
    kept = {name for name in model.state_dict() if name not in model._keys_to_ignore_on_save}
    assert not any(name.startswith("teacher.") or name == "progress" for name in kept)


def test_a_teacher_that_a_checkpoint_lacks_begins_from_the_loaded_student(given):
    model, other = make(given), make(given)
    other.siglip.vision_model.post_layernorm.weight.data.fill_(5.0)
    shared = {name: value for name, value in other.state_dict().items() if not name.startswith("teacher.")}
    model.load_state_dict(shared, strict=False)
    assert (model.teacher.vision_model.post_layernorm.weight == 5).all()


def test_evaluation_leaves_the_centres_alone(given):
    model = make(given).eval()
    model(**given[1], row_seed=seeds())
    assert not model.teacher.global_center.any()


def test_crops_are_where_their_boxes_say():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.allclose(crop(image, torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]), (8, 8)), image, atol=1e-4)
    box = torch.tensor([[[0.25, 0.5, 0.75, 1.0]]])
    assert torch.allclose(crop(image, box, (4, 4))[0, 0], image[0, 0, 2:6, 4:8], atol=1e-4)
    boxes = crop_boxes(torch.rand(500, 4), (0.05, 0.4))
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    assert 0.05 - 1e-4 <= area.min() <= area.max() <= 0.4 + 1e-4


def test_views_are_drawn_by_row_and_can_be_given(given):
    model, batch = make(given).eval(), given[1]
    mask = model(**batch, row_seed=seeds()).mask
    small = torch.tensor([0.0, 0.0, 0.5, 0.5]).expand(6, 2, 4)
    with torch.no_grad():
        one = model(**batch, mask=mask, local_boxes=small).losses
        other = model(**batch, mask=mask, local_boxes=small + 0.5).losses
    assert one["distillation"] != other["distillation"]
    assert one["masked"] == other["masked"]


# --- texts ---


def test_kinds_of_texts_are_drawn_by_their_chances(given):
    config = copy.deepcopy(given[0].config)
    config.kind_weights, config.parallel_ratio = {"caption": 2.0, "refer": 1.0, "ground": 1.0}, 0.25
    rows = 4000
    ids = torch.full((rows, 3), 9)
    regions = {
        "ids": torch.arange(12).view(1, 2, 2, 3).expand(rows, -1, -1, -1) + 20,
        "starts": torch.ones(rows, 2, 2).long(),
    }
    regions["valid"] = torch.tensor([[True, True]]).expand(rows, -1)
    texts = draw_texts(config, ids, None, regions, {}, {"row_seed": torch.arange(rows), "device": None})
    caption = (texts.labels == 9).all(1)
    assert caption.float().mean() == pytest.approx(0.5, abs=0.04)
    for first in (20, 23, 26, 29):  # two regions, two ways
        assert (texts.labels[:, 0] == first).float().mean() == pytest.approx(0.125, abs=0.03)
    assert not texts.parallel[~caption].any()
    assert texts.parallel[caption].float().mean() == pytest.approx(0.25, abs=0.04)
    assert (texts.scored[~caption].sum(1) == 2).all()  # score_prompt is off: the first token is a prompt
    none = {**regions, "valid": torch.zeros(rows, 2, dtype=torch.bool)}
    assert (draw_texts(config, ids, None, none, {}, {"row_seed": torch.arange(rows), "device": None}).labels == 9).all()


def test_the_decoder_sees_no_word_to_come_and_in_parallel_none(given):
    model, ids = make(given).eval(), given[1]["caption_ids"]
    features, no, yes = torch.randn(6, 16, 24), torch.zeros(6).bool(), torch.ones(6).bool()
    other = ids.clone()
    other[:, 5:] = 7
    with torch.no_grad():
        first, second = model.decoder(ids, features, no), model.decoder(other, features, no)
        assert torch.allclose(first[:, :6], second[:, :6], atol=1e-6)  # a place reads the words before it
        assert not torch.allclose(first[:, 6], second[:, 6], atol=1e-4)
        assert torch.equal(model.decoder(ids, features, yes), model.decoder(other, features, yes))


def test_batches_of_other_processors_are_captioned_by_their_text(given):
    batch = {name: given[1][name] for name in ("pixel_values", "input_ids")}
    out = make(given, score_prompt=True).eval()(**batch, row_seed=seeds(), return_pairs=True)
    assert torch.equal(out.caption_labels, batch["input_ids"])
    assert out.logits_per_image.shape == (6, 6)
    assert out.losses["caption"].isfinite()


def test_a_learnt_pair_is_written(given):
    """One picture learnt by heart: its caption, the box of its object, the object of its box."""
    torch.manual_seed(0)
    rows = sample(2, side=48)
    processor = Siglip2MimProcessor(
        image_size=32, patch_size=8, text_length=40, decoder_length=48, box_bins=10, max_regions=1
    )
    processor.fit(rows)
    config = Siglip2MimConfig(
        vision_config={**TOWER, "hidden_size": 32}, text_config={**TOWER, "hidden_size": 32}, losses=["sigmoid", "caption"],
        parallel_ratio=0.0, **processor.config_arguments(),
    )  # fmt: skip
    model, batch = Siglip2MimForPreTraining(config), dict(processor(rows=rows))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        kind = torch.tensor([step % 3, (step + 1) % 3])
        optimizer.zero_grad()
        model(**batch, kind=kind, region=torch.zeros(2).long()).loss.backward()
        optimizer.step()
    model.eval()
    pixels = batch["pixel_values"]
    written = processor.decode_texts(model.generate_captions(pixels, processor.prompt("caption")))
    assert [text.replace(" ,", ",") for text in written] == [row["caption"] for row in rows]
    from hub_mim_siglip2.region_texts import read_box, write_box

    asked = [row["objects"][0] for row in rows]
    names = [f"{each['size']} {each['colour']} {each['material']} {each['shape']}" for each in asked]
    boxes = [tuple(each["box"][place] / 48 for place in (1, 0, 3, 2)) for each in asked]
    found = processor.decode_boxes(
        model.generate_captions(pixels, [processor.prompt("refer", text=name) for name in names])
    )
    assert found == [read_box(write_box(box, 10), 10) for box in boxes]
    told = model.generate_captions(pixels, [processor.prompt("ground", box=box) for box in boxes])
    assert processor.decode_texts(told) == names


def test_prompts_that_do_not_fit_are_refused(given):
    model, pixels = make(given).eval(), given[1]["pixel_values"]
    with pytest.raises(ValueError, match="2 prompts for 6 pictures"):
        model.generate_captions(pixels, [[3], [4]])
    with pytest.raises(ValueError, match="at most 29 leave room"):
        model.generate_captions(pixels, list(range(5, 35)))
    with pytest.raises(ValueError, match="no decoder"):
        make(given, losses=["sigmoid"]).generate_captions(pixels)


# --- cost ---


def test_operations_of_a_training_step_are_those_that_torch_counts(given):
    model, batch = make(given).eval(), given[1]
    model.set_attn_implementation("eager")
    none = torch.zeros(6, dtype=torch.int64)
    mask = model(**batch, row_seed=seeds()).mask
    model.config.score_prompt = True
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch, mask=mask, kind=none)
    assert forward_flops(model.config, batch, mask, training=True) == counter.get_total_flops()


def test_every_loss_can_be_left_out(given):
    for losses in (["sigmoid"], ["sigmoid", "masked"], ["sigmoid", "distillation"], ["sigmoid", "caption"]):
        model = make(given, losses=losses, self_distillation_start=0.0).train()
        out = model(**given[1], row_seed=seeds())
        assert set(out.losses) == set(losses)
        out.loss.backward()
        assert all(weight.grad is not None for weight in model.parameters() if weight.requires_grad)
