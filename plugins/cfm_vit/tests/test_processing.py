"""What the processor makes of pictures and texts, and what it says of those it cannot read."""

import numpy as np
import pytest
import torch
from PIL import Image

from hub_mim.testing.subject import Subject
from hub_mim_cfm_vit.drawing import draw
from hub_mim_cfm_vit.example import example, sample, squares
from hub_mim_cfm_vit.processing_cfm_vit import CfmVitProcessor


@pytest.fixture(scope="module")
def processor():
    return CfmVitProcessor(image_size=24, text_length=12).fit(squares(40))


def test_rows_pictures_and_texts_give_the_same(processor):
    rows = squares(3)
    whole = processor(rows=rows)
    pictures = processor(images=[row["image"] for row in rows], return_tensors="pt")
    texts = processor(text=[row["text"] for row in rows], return_tensors="pt")
    assert set(whole) == set(processor.model_input_names)
    for name, value in (pictures | texts).items():
        assert torch.equal(whole[name], value)
    assert torch.equal(
        processor(images=rows[0]["image"], text=rows[0]["text"])["pixel_values"], whole["pixel_values"][:1]
    )
    assert set(processor(rows=[{"caption": "a red square"}])) == {"input_ids", "attention_mask"}


def test_colours_come_back(processor):
    rows = squares(2)
    pictures = processor.as_pictures(processor(rows=rows)["pixel_values"])
    assert np.allclose(pictures[0].numpy() * 255, np.asarray(rows[0]["image"]), atol=0.01)


def test_words_of_all_captions_are_learnt():
    rows = [{"image": None, "captions": ["a red cube", "one cube", "the cube is leftmost"]}] * 3
    made = CfmVitProcessor(image_size=24).fit(rows)
    ids = made(text=["leftmost"])["input_ids"]
    assert made.tokenizer.unk_token_id not in ids
    assert made.config_arguments() == {
        "vocab_size": len(made.tokenizer),
        "pad_token_id": 0,
        "max_position_embeddings": 64,
        "image_size": 24,
    }
    again = made.fit(squares(4))
    assert again.tokenizer is made.tokenizer


def test_long_texts_are_cut_by_the_tokenizer_too(processor):
    long = "a red square " * 20
    assert processor(text=[long])["input_ids"].shape == (1, 12)
    assert len(processor.tokenizer(long, truncation=True)["input_ids"]) == 12


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([{"image": Image.new("RGB", (4, 4)), "text": " "}], "row 0 has an empty text"),
        ([*squares(2), {"image": Image.new("RGB", (4, 4))}], "row 2 has no text"),
        ([*squares(1), {"text": "a"}], "row 1 has no picture"),
        ([{"image": np.zeros((3, 3)), "text": "a"}], "picture of row 0 cannot be read: it is float64"),
        ([{"image": "missing.png", "text": "a"}], "picture of row 0 cannot be read"),
        ([], "nothing to encode"),
    ],
)
def test_rows_that_cannot_be_read_are_named(processor, rows, told):
    with pytest.raises(ValueError, match=told):
        processor(rows=rows)


def test_a_broken_file_is_named(processor, tmp_path):
    good, broken = tmp_path / "good.png", tmp_path / "broken.png"
    squares(1)[0]["image"].save(good)
    broken.write_bytes(good.read_bytes()[:100])
    with pytest.raises(ValueError, match="picture of row 1 cannot be read"):
        processor(images=[good, broken])


def test_no_text_at_all_is_said_once():
    with pytest.raises(ValueError, match="no row has a text among text, caption"):
        CfmVitProcessor().fit([{"image": 1}])


def test_the_usual_processor_fits_a_preset():
    subject = Subject("cfm_vit")
    made = CfmVitProcessor.for_config(subject.method.presets["nano"])
    assert made.image_size == 96


def test_a_picture_is_drawn(tmp_path):
    subject = Subject("cfm_vit")
    for fields in ({}, {"reconstruction_target": "pixels"}):
        out = tmp_path / f"shown{len(fields)}.png"
        draw(subject.model(**fields), example().processor, subject.rows[:2], out, start=3, seed=0, overwrite=False)
        assert Image.open(out).size[0] > 400


def test_sample_scenes_name_their_objects():
    (row,) = sample(1, 3)
    assert row["text"].count(",") + 1 == len(row["objects"])
    assert all(each["shape"] in row["text"] for each in row["objects"])
