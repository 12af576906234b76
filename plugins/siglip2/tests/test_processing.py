"""Rows to tensors: texts that end and are cut as SigLIP's, regions as text, any tokenizer, rows that cannot be used."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from hub_mim.data import encode
from hub_mim.texts import word_pieces
from hub_mim_siglip2.example import sample
from hub_mim_siglip2.processing_siglip2_mim import Siglip2MimProcessor
from hub_mim_siglip2.region_texts import parts, read_box, regions_of, write_box


@pytest.fixture(scope="module")
def rows():
    return sample(6, side=48)


@pytest.fixture(scope="module")
def processor(rows):
    return Siglip2MimProcessor(image_size=32, patch_size=8, text_length=12, decoder_length=40, box_bins=100).fit(rows)


def test_texts_are_in_lower_case_end_and_are_padded_to_the_full_length(processor):
    made = processor(text=["A RED cube", "a red cube", "large " * 50])["input_ids"]
    assert made.shape == (3, 12)
    assert torch.equal(made[0], made[1])
    end = processor.tokenizer.sep_token_id
    assert made[0].tolist()[3:] == [end] + [0] * 8
    assert int(made[2, -1]) == end  # kept when a text is cut
    assert (made[2] == end).sum() == 1


def test_the_tokenizer_alone_gives_the_same(processor):
    told = processor.tokenizer(["a red cube"], padding="max_length", truncation=True, return_tensors="pt")
    assert set(told) == {"input_ids"}
    assert torch.equal(told["input_ids"], processor(text="a red cube")["input_ids"])


def test_pictures_are_squares_from_minus_one_to_one(processor):
    made = processor(images=[Image.new("RGB", (50, 20), (255, 0, 127)), Image.new("L", (3, 90), 255)])["pixel_values"]
    assert made.shape == (2, 3, 32, 32)
    assert made[0, :, 0, 0].tolist() == pytest.approx([1.0, -1.0, 127 / 127.5 - 1], abs=1e-3)
    assert made[1].min() == pytest.approx(1.0)


def test_any_tokenizer_ends_its_texts(rows, tmp_path):
    other = word_pieces(["une bille rouge", "un dé bleu"], 100)
    other.save_pretrained(tmp_path / "words")
    processor = Siglip2MimProcessor(tokenizer=str(tmp_path / "words"), image_size=32, patch_size=8, text_length=10)
    processor.fit([{"image": rows[0]["image"], "caption": "une bille rouge"}])
    ids = processor(text="Une bille Rouge")["input_ids"][0]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "une bille rouge"
    assert int(ids[4]) == processor.tokenizer.sep_token_id
    assert processor.config_arguments()["vocab_size"] == len(other)
    assert processor.max_regions == 0


def test_regions_are_written_both_ways(processor, rows):
    made = processor(rows=rows)
    first = rows[0]["objects"][0]
    name = f"{first['size']} {first['colour']} {first['material']} {first['shape']}"
    left, top, right, bottom = (value / 48 for value in first["box"])
    box = write_box((top, left, bottom, right), 100)
    refer, ground = processor.decode_texts(made["region_ids"][0, 0].tolist())
    assert refer == f"refer : {name} : {box}"
    assert ground == f"ground : {box} : {name}"
    start = int(made["region_starts"][0, 0, 0])
    assert processor.decode_boxes([made["region_ids"][0, 0, 0, start:].tolist()])[0] == read_box(box, 100)
    assert made["region_ids"][0, 0, 0, :start].tolist() == processor.prompt("refer", text=name)
    assert made["region_valid"].sum(1).tolist() == [min(8, len(row["objects"])) for row in rows]
    assert made["caption_ids"][0, : int(made["caption_starts"][0])].tolist() == processor.prompt("caption")


def test_boxes_are_numbers_and_back():
    assert write_box((0.0, 0.5, 1.0, 0.999), 1024) == "0 512 1023 1022"
    assert read_box("0 512 1023 1022", 1024) == pytest.approx((0.0, 0.5, 1.0, 0.999), abs=1e-3)
    assert read_box("a red cube", 1024) is None
    assert read_box("1 2 3 5000", 1024) is None
    assert parts("see {box} : {text}", "text", "a cube", "1 2 3 4") == ("see 1 2 3 4 : ", "a cube")
    with pytest.raises(ValueError, match=r"must end with \{box\}"):
        parts("{box} : {text}", "box")


def test_objects_may_tell_numbers_of_classes_or_their_own_text():
    row = {"image": Image.new("RGB", (10, 20))}
    row["objects"] = {
        "bbox": [[0, 0, 5, 10], [5, 10, 10, 20], [0, 0, 1, 1]],
        "category": [1, 0, None],
        "color": [0, 1, 1],
    }
    names = {"category": ["cube", "traffic_light"], "color": ["red", "blue"]}
    found = regions_of(row, names)
    assert [each.text for each in found] == ["red traffic light", "blue cube"]
    assert found[1].box == (0.5, 0.5, 1.0, 1.0)
    own = {"image": row["image"], "objects": [{"box": [0, 0, 10, 20], "phrase": "the whole", "category": 1}]}
    assert regions_of(own, names)[0].text == "the whole"


def test_names_of_classes_are_learnt_from_the_rows_features(rows):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features(
        {
            "captions": List(Value("string")),
            "objects": List({"bbox": List(Value("int32")), "category": ClassLabel(names=["cone", "cube"])}),
        }
    )
    told = [{"captions": ["a cube", "one cube"], "objects": [{"bbox": [0, 0, 4, 4], "category": 1}]}]
    processor = Siglip2MimProcessor(image_size=32, patch_size=8).fit(Dataset.from_list(told, features=features))
    assert processor.names == {"category": ["cone", "cube"]}
    made = processor(rows=[{"image": Image.new("RGB", (8, 8)), **told[0]}])
    assert "cube" in processor.decode_texts(made["region_ids"][0, 0].tolist())[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"caption": None}, "row 1 has no text among"),
        ({"image": None}, "row 1 has no picture"),
        (
            {"objects": [{"box": [0, 0, 99, 9], "shape": "cube"}]},
            "row 1: the box .* does not lie in the picture of 48x48",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_named(processor, rows, change, message):
    with pytest.raises(ValueError, match=message):
        encode(processor, [rows[0], {**rows[1], **change}])


def test_a_picture_that_cannot_be_read_is_named(processor, rows, tmp_path):
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match="row 1: the picture cannot be read"):
        encode(processor, [rows[0], {**rows[1], "image": Image.open(path)}])


def test_pictures_alone_and_an_empty_text(processor, rows):
    assert set(encode(processor, [{"image": rows[0]["image"], "label": 3}])) == {"pixel_values"}
    made = encode(processor, [{**rows[0], "caption": ""}])
    assert made["input_ids"][0].tolist() == [processor.tokenizer.sep_token_id] + [0] * 11
    with pytest.raises(ValueError, match="nothing to encode"):
        processor()


def test_a_saved_processor_is_found_by_transformers(processor, rows, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is Siglip2MimProcessor
    for name, value in processor(rows=rows).items():
        assert torch.equal(value, again(rows=rows)[name]), name


LEARN = """
import hashlib, json
from hub_mim_siglip2.vocabularies import learnt
words = "a small red cube, a large shiny blue sphere, two cones and a cylinder: 12 305 7 from left to right".split()
pieces = learnt([" ".join(words[start:] + words[:start]) for start in range(len(words))], 90, True)
print(hashlib.sha256(json.dumps(sorted(pieces.get_vocab().items())).encode()).hexdigest())
"""


def test_every_process_learns_the_same_vocabulary():
    """A resumed training, and each of several processes, learns it anew."""
    told = {subprocess.run([sys.executable, "-c", LEARN], capture_output=True, text=True).stdout for _ in range(2)}
    assert len(told) == 1
    assert told != {""}


def test_a_checkpoints_processor_is_taken_whole_for_a_later_stage(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = Siglip2MimProcessor.for_config({"processor_name": str(tmp_path)})
    assert (again.image_size, again.patch_size, again.text_length) == (32, 8, 12)
    assert again.tokenizer.get_vocab() == processor.tokenizer.get_vocab()
    larger = Siglip2MimProcessor.for_config({"processor_name": str(tmp_path), "image_size": 48})
    assert larger(images=[Image.new("RGB", (9, 9))])["pixel_values"].shape == (1, 3, 48, 48)
    assert larger.config_arguments()["image_size"] == 48


def test_a_released_checkpoints_tokenizer_and_sizes_are_taken(rows, tmp_path):
    from transformers import SiglipConfig

    word_pieces(["a red cube"], 100).save_pretrained(tmp_path)
    vision = {"hidden_size": 8, "num_attention_heads": 2, "image_size": 40, "patch_size": 10}
    text = {"hidden_size": 8, "num_attention_heads": 2, "max_position_embeddings": 16}
    SiglipConfig(text_config=text, vision_config=vision).save_pretrained(tmp_path)
    made = Siglip2MimProcessor.for_config({"processor_name": str(tmp_path)}).fit(rows)
    told = made.config_arguments()
    assert (told["image_size"], told["patch_size"], told["text_length"]) == (40, 10, 16)
    assert told["vocab_size"] == len(made.tokenizer)
