"""Pictures travel as bytes and become on the device what the processor makes of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTConfig, ViTForMaskedImageModeling, ViTImageProcessorPil

from hub_mim import finetuning, training
from hub_mim.data import Collator
from hub_mim.files import read_json
from hub_mim.on_device import OnDevice, in_bytes, values

pytest.importorskip("hub_mim_native", reason="plugins/native is not installed")


@pytest.fixture
def pictures():
    source = np.random.default_rng(0)
    return [Image.fromarray(source.integers(0, 256, (30 + 9 * n, 50, 3), dtype=np.uint8)) for n in range(4)]


def of_method(name):
    from hub_mim import plugins
    from hub_mim.method import resolve
    from hub_mim.starting import make_processor

    try:
        method = plugins.get_method(name)
    except ValueError:
        pytest.skip(f"{name} is not installed")
    rows = resolve(method.sample_data)(4, 0)
    fields = dict(next(iter(method.presets.values())))
    return make_processor(method, rows, None, fields), [dict(rows[number]) for number in range(4)]


@pytest.mark.parametrize("name", ["mae", "simmim-swin", "beit", "hiera", "videomae", "siglip2", "cfm_vit"])
def test_bytes_become_what_the_processor_makes(name):
    processor, rows = of_method(name)
    travel = in_bytes(processor)
    whole = Collator(processor)(rows)
    made = Collator(processor, in_bytes=travel.processor)(rows)
    assert made["pixel_values"].dtype == torch.uint8
    done = OnDevice(travel.table)(made)
    assert done.keys() == whole.keys()
    assert all(torch.equal(done[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    "settings", [{"do_normalize": False}, {"image_mean": [0.1, 0.5, 0.9], "rescale_factor": 1 / 128}]
)
def test_the_processors_own_settings_count(pictures, settings):
    processor = ViTImageProcessorPil(**settings)
    travel = in_bytes(processor)
    made = travel.processor(images=pictures, return_tensors="pt")["pixel_values"]
    wanted = processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert torch.equal(values(made, travel.table), wanted)
    assert processor.do_rescale


def test_what_is_more_than_levels_travels_as_it_is():
    class Contrast(ViTImageProcessorPil):
        def __call__(self, images, **given):
            made = super().__call__(images, **given)
            made["pixel_values"] = made["pixel_values"] - made["pixel_values"].float().mean()
            return made

    assert in_bytes(Contrast()) is None
    assert in_bytes(lambda rows: rows) is None


def test_pictures_of_any_shape_travel_as_they_are():
    pytest.importorskip("hub_mim_siglip2", reason="plugins/siglip2 is not installed")
    from hub_mim_siglip2.processing_siglip2_mim import Siglip2MimProcessor

    assert in_bytes(Siglip2MimProcessor(naflex=True)) is None


def test_rows_that_are_no_bytes_are_encoded_whole(pictures):
    processor = ViTImageProcessorPil(do_rescale=False, do_resize=False)
    travel = in_bytes(processor)
    rows = [{"images": np.asarray(each.resize((32, 32)), np.float32) / 255} for each in pictures]
    made = OnDevice(travel.table)(Collator(processor, in_bytes=travel.processor)(rows))
    assert torch.equal(made["pixel_values"], Collator(processor)(rows)["pixel_values"])


@pytest.mark.parametrize(
    "given",
    [
        {"gradient_accumulation_steps": 2},
        pytest.param({"bf16": True, "dataloader_num_workers": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_the_same_to_the_last_bit(given, tmp_path, monkeypatch):
    seen = []
    usual = OnDevice.__call__
    monkeypatch.setattr(
        OnDevice, "__call__", lambda self, batch, seeds=None: (seen.append(batch), usual(self, batch, seeds))[1]
    )

    def run(name):
        options = {"steps": 3, "batch_size": 4, "validation": 0.2, "preset": "tiny"}
        arguments = {"use_cpu": True, "eval_steps": 3, "save_steps": 3, **given}
        made = training.pretrain("mae", "sample:mae", tmp_path / name, arguments=arguments, **options)
        return made.history, made.losses, (tmp_path / name / "model.safetensors").read_bytes()

    travelled = run("bytes")
    assert {batch["pixel_values"].dtype for batch in seen} == {torch.uint8}
    monkeypatch.setattr(training, "in_bytes", lambda processor: None)
    assert run("floats") == travelled
    assert seen[-1]["pixel_values"].dtype == torch.float32
    kept = read_json(tmp_path / "bytes" / "preprocessor_config.json")
    assert kept["do_rescale"]
    assert AutoImageProcessor.from_pretrained(tmp_path / "bytes").do_normalize


def test_fine_tuning_is_the_same_to_the_last_bit(pictures, tmp_path, monkeypatch):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    ViTForMaskedImageModeling(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
    rows = [{"images": picture, "label": ["a", "b"][number % 2]} for number, picture in enumerate(pictures * 5)]
    seen = []
    usual = OnDevice.__call__
    monkeypatch.setattr(
        OnDevice, "__call__", lambda self, batch, seeds=None: (seen.append(batch), usual(self, batch, seeds))[1]
    )

    def run(name):
        made = finetuning.finetune(tmp_path / "vit", rows, tmp_path / name, steps=3, batch_size=4)
        return made.history, made.losses, (tmp_path / name / "model.safetensors").read_bytes()

    travelled = run("bytes")
    assert {batch["pixel_values"].dtype for batch in seen} == {torch.uint8}
    monkeypatch.setattr(finetuning, "in_bytes", lambda processor: None)
    assert run("floats") == travelled
