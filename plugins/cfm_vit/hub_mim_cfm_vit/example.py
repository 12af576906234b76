"""Pairs for the checks: a coloured square somewhere, and a sentence that says so; rendered scenes as sample data."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hub_mim.method import Example
from hub_mim.texts import word_pieces
from hub_mim_cfm_vit.configuration_cfm_vit import CfmVitConfig
from hub_mim_cfm_vit.processing_cfm_vit import CfmVitProcessor

COLOURS = {"red": (200, 45, 40), "green": (40, 150, 60), "blue": (45, 80, 205), "yellow": (230, 205, 40)}
SIDE, PATCH = 24, 6


def squares(count: int = 6, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows with `image`, `text`, and `objects`: one square's label and box in pixels."""
    source = np.random.default_rng(seed)
    return [_square(source) for _ in range(count)]


def _square(source: np.random.Generator) -> dict[str, Any]:
    colour = str(source.choice(list(COLOURS)))
    table = source.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8)
    side = int(source.integers(6, 13))
    x, y = (int(each) for each in source.integers(0, SIDE - side, 2))
    table[y : y + side, x : x + side] = COLOURS[colour]
    where = ("top" if y + side / 2 < SIDE / 2 else "bottom", "left" if x + side / 2 < SIDE / 2 else "right")
    return {
        "image": Image.fromarray(table),
        "text": f"a {'large' if side > 9 else 'small'} {colour} square at the {where[0]} {where[1]}",
        "objects": [{"label": colour, "box": [x, y, x + side, y + side]}],
    }


def sample(count: int = 256, seed: int = 0) -> list[dict[str, Any]]:
    """Return rendered scenes, each with a sentence that names its objects from left to right."""
    from hub_mim.scenes import scenes

    return [{"image": row["image"], "text": sentence(row), "objects": row["objects"]} for row in scenes(count, seed)]


def sentence(row: dict[str, Any]) -> str:
    """Return what the objects of a scene are, from left to right."""
    told = [
        f"a {each['size']} {each['colour']} {each['material']} {each['shape']}"
        for each in sorted(row["objects"], key=lambda each: each["box"][0])
    ]
    return ", ".join(told)


def words() -> Any:
    """Return a tokenizer that knows the words of the squares, the same in every process."""
    made = word_pieces([], lower=False)
    made.add_tokens(sorted({word for row in squares(40) for word in row["text"].split()}))
    return made


def example() -> Example:
    """Return the example of the plugin's checks."""
    processor = CfmVitProcessor(words(), image_size=SIDE, pixel_mean=(0.4, 0.5, 0.6), text_length=20, lower=False)
    config = CfmVitConfig(
        **processor.config_arguments(),
        patch_size=PATCH,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        text_hidden_size=12,
        text_num_hidden_layers=2,
        text_num_attention_heads=3,
        text_intermediate_size=20,
        joint_dim=10,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=12,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.05,
        drop_path_rate=0.05,
        initializer_range=0.03,
        mask_ratio=0.6,
        pe_drop=0.3,
        cropped_positions=True,
        crop_scale=[0.2, 0.9],
        crop_ratio=[0.8, 1.25],
        crop_grid=12,
        stop_gradient_target=False,
        contrastive_loss="focal",
        focal_alpha=0.6,
        focal_gamma=0.5,
        init_temperature=0.1,
        loss_weights={"reconstruction": 1.5},
        vlm_temperature=0.05,
        ensemble_alpha=0.6,
        ensemble_beta=0.4,
        roi_size=3,
        roi_samples=1,
        freeze_backbone=False,
    )
    return Example(
        config=config,
        rows=[{name: row[name] for name in ("image", "text")} for row in squares()],
        processor=processor,
        corrupt=corrupt,
        # the processor makes pictures in colour and a vocabulary whose padding comes first; the others are tested apart
        fixed=("num_channels", "pad_token_id", "contrastive_on", "reconstruction_target"),
        hidden=hidden,
        odd_rows=odd_rows(),
        suite_overrides={
            "test_get_text_features_output": "the suite reads config.text_config; this configuration is flat"
        },
    )


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return how many patches of each row are hidden: round(16 * 0.6)."""
    count = torch.full((len(batch["pixel_values"]),), 10)
    return count, count


def corrupt(batch: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Replace hidden patches by noise."""
    values = batch["pixel_values"]
    side = SIDE // PATCH
    where = mask.view(-1, 1, side, side).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    return batch | {"pixel_values": torch.where(where, noise.to(values), values)}


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return pairs at the edge of what users have."""
    row = squares(1)[0]
    picture, text = row["image"], row["text"]
    return {
        "one pixel": [{"image": Image.new("RGB", (1, 1)), "text": text}],
        "a long strip": [{"image": Image.new("RGB", (900, 3)), "text": text}],
        "a grey picture": [{"image": picture.convert("L"), "text": text}],
        "a picture with transparency": [{"image": picture.convert("RGBA"), "text": text}],
        "an array": [{"image": np.asarray(picture), "text": text}],
        "a picture that is none": [{"image": np.zeros((4, 4)), "text": text}],
        "words that were never seen": [{"image": picture, "text": "zebra Ünïcode 猫"}],
        "a long text": [{"image": picture, "text": "long " * 50}],
        "an empty text": [{"image": picture, "text": " "}],
        "no text": [{"image": picture}],
        "no picture": [{"text": text}],
        "one row lacks its text": [{"image": picture, "text": text}, {"image": picture}],
    }
