"""The example of the checks, and sample data: scenes of `hub_mim.scenes` with a caption made of what stands in them."""

from typing import Any

import numpy as np
import torch
from PIL import Image

from hub_mim.method import Example
from hub_mim.scenes import scenes
from hub_mim_siglip2.configuration_siglip2_mim import KINDS, Siglip2MimConfig
from hub_mim_siglip2.processing_siglip2_mim import Siglip2MimProcessor

FIXED = "texts have one length and pictures one size or number of patches, those of training; the suite gives others at a call"
NESTED = "the suite gives a list of pictures for each row; a row has one"
# of transformers' own tests of processors
PROCESSOR_OVERRIDES = {
    "test_doubly_passed_kwargs": FIXED,
    "test_kwargs_overrides_default_subprocessor_kwargs": FIXED,
    "test_overlapping_text_image_kwargs_handling": FIXED,
    "test_structured_kwargs_nested_from_dict": FIXED,
    "test_subprocessor_defaults": FIXED,
    "test_unstructured_kwargs": FIXED,
    "test_processor_text_has_no_visual": NESTED,
    "test_model_input_names": "the suite gives no rows, which alone bring texts for the decoder",
    "test_processor_to_json_string": "the suite compares tuples with what JSON makes of them",
}


def sample(count: int = 64, seed: int = 0, side: int = 96) -> list[dict[str, Any]]:
    """Return rows with `image`, `caption` and `objects` (box, size, colour, material, shape)."""
    return [
        {"image": row["image"], "caption": caption(row["objects"]), "objects": row["objects"]}
        for row in scenes(count, seed, side)
    ]


def caption(objects: list[dict[str, Any]]) -> str:
    """Name the solids of a scene from left to right."""
    ordered = sorted(objects, key=lambda each: each["box"][0] + each["box"][2])
    named = [" ".join(["a", each["size"], each["colour"], each["material"], each["shape"]]) for each in ordered]
    return f"{', '.join(named)}, from left to right"


def corrupt(batch: dict[str, Any], mask: torch.Tensor) -> dict[str, Any]:
    """Replace the pixels of hidden patches by noise."""
    pixels = batch["pixel_values"].clone()
    side = round(mask.shape[1] ** 0.5)
    patch = pixels.shape[-1] // side
    hidden = mask.view(-1, 1, side, side).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    return batch | {"pixel_values": torch.where(hidden, torch.randn_like(pixels), pixels)}


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge of what users have."""
    plain = {"image": Image.new("RGB", (40, 30), (200, 40, 40)), "text": "a red wall"}
    broken = Image.fromarray(np.zeros((8, 8), np.uint8))
    return {
        "an empty text": [plain, {**plain, "text": ""}],
        "one row": [plain],
        "one pixel": [plain, {**plain, "image": Image.new("RGB", (1, 1))}],
        "one channel": [plain, {**plain, "image": broken}],
        "a long and narrow picture": [plain, {**plain, "image": Image.new("RGB", (600, 2))}],
        "a long text": [plain, {**plain, "text": "large " * 200}],
        "no text": [plain, {"image": plain["image"]}],
        "no text at all": [{"image": plain["image"], "label": 1}],
        "no picture": [plain, {"text": "a red wall"}],
        "a box outside of the picture": [{**plain, "objects": [{"box": [0, 0, 90, 10], "shape": "wall"}]}],
    }


def example() -> Example:
    """Return the example of the plugin's checks."""
    rows = sample(6, side=48)
    rows[3] = {name: value for name, value in rows[3].items() if name != "objects"}
    templates = {"caption": "say: {text}", "refer": "find: {text} : {box}", "ground": "name: {box} : {text}"}
    processor = Siglip2MimProcessor(
        image_size=32,
        patch_size=8,
        text_length=28,
        decoder_length=30,
        max_regions=4,
        templates=templates,
        box_bins=20,
        vocabulary=300,
    ).fit(sample(8, seed=1, side=24))
    tower = {"num_attention_heads": 2, "intermediate_size": 32, "layer_norm_eps": 1e-5}
    config = Siglip2MimConfig(
        vision_config={**tower, "hidden_size": 24, "num_hidden_layers": 2},
        text_config={**tower, "hidden_size": 16, "num_hidden_layers": 2, "projection_size": 24},
        **processor.config_arguments() | {"decoder_start_token_id": 4},
        losses=["caption", "sigmoid", "masked", "distillation"],
        loss_weights={"sigmoid": 1.0, "caption": 0.9, "distillation": 0.3, "masked": 0.2},
        logit_scale_init=2.0,
        logit_bias_init=-8.0,
        sigmoid_chunk=4,
        vocabulary_chunk=50,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=20,
        decoder_bias=True,
        parallel_ratio=0.4,
        kind_weights=dict(zip(KINDS, (1.0, 0.8, 0.6), strict=True)),
        score_prompt=False,
        processor_name="none",
        mask_ratio=0.4,
        num_local_views=2,
        local_crop_size=16,
        local_crop_scale=[0.1, 0.3],
        global_crop_scale=[0.5, 0.9],
        teacher_momentum=0.9,
        center_momentum=0.8,
        student_temperature=0.2,
        teacher_temperature=0.08,
        head_hidden_size=20,
        head_bottleneck_size=12,
        num_prototypes=24,
        self_distillation_start=0.0,
        sequence_lengths=[4, 9],
        pack=False,
        curation_chunks=2,
    )

    def hidden(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        count = torch.full((len(batch["pixel_values"]),), round(16 * 0.4))
        return count, count

    return Example(
        config=config,
        rows=rows,
        processor=processor,
        corrupt=corrupt,
        hidden=hidden,
        # NaFlex and curation have tests of their own; padding is the tokenizer's
        fixed=("naflex", "pad_token_id", "curation_ratio", "curation_reference"),
        odd_rows=odd_rows(),
        processor_overrides=PROCESSOR_OVERRIDES,
        suite_overrides={
            "test_config": "of which class a tower's configuration is depends on naflex, so none is declared",
            "test_attention_outputs": "pre-training returns the student's view alone; test_modeling.py looks at the towers'",
            "test_hidden_states_output": "pre-training returns the student's view alone; test_modeling.py looks at the towers'",
            "test_model_weights_reload_no_missing_tied_weights": "the teacher is left out of files, its table of numbers too",
        },
    )
