"""Generated pairs for the checks and to try out: coloured shapes as regions, what a sentence says of them, a question."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig
from hub_mim_lxmert.processing_lxmert_mim import LxmertMimProcessor

SHAPES = ("cube", "sphere", "cone", "cylinder")
SWITCHES = tuple(f"task_{name}" for name in ("matched", "mask_lm", "obj_predict", "qa"))
SWITCHES += tuple(f"visual_{name}_loss" for name in ("obj", "attr", "feat"))
COLOURS = ("red", "green", "blue", "yellow")


def sample(count: int = 256, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of two to four regions with noisy one-hot features and a detector's labels, a sentence that names them, and
    the colour of the first one as an answer."""
    source = np.random.default_rng(seed)
    return [_row(source) for _ in range(count)]


def _row(source: np.random.Generator) -> dict[str, Any]:
    number = int(source.integers(2, 5))
    kinds, colours = source.integers(0, 4, number), source.integers(0, 4, number)
    left = np.sort(source.choice(np.arange(8), number, replace=False)) / 8
    boxes = np.stack([left, source.uniform(0, 0.5, number), left + 0.12, source.uniform(0.6, 1, number)], 1)
    features = np.concatenate([np.eye(4)[kinds], np.eye(4)[colours]], 1) + source.normal(0, 0.1, (number, 8))
    words = [f"a {COLOURS[colour]} {SHAPES[kind]}" for kind, colour in zip(kinds, colours, strict=True)]
    return {
        "text": " left of ".join(words),
        "boxes": boxes.round(4).tolist(),
        "features": features.round(4).tolist(),
        "object_labels": kinds.tolist(),
        "object_confidence": source.uniform(0.5, 1, number).round(3).tolist(),
        "attribute_labels": colours.tolist(),
        "attribute_confidence": source.uniform(0.5, 1, number).round(3).tolist(),
        "answer": COLOURS[int(colours[0])],
        "label": int(kinds[0]),
    }


def example() -> Example:
    """Return the example of the plugin's checks."""
    rows = [row | {"matched_label": int(number != 2)} for number, row in enumerate(sample(6))]
    rows = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    rows[1]["text_pair"] = "a red cube"  # [CLS]'s kind never learns: row 0 is the padding's
    processor = LxmertMimProcessor(box_unit="share", classes=SHAPES, attributes=COLOURS).fit(sample(40))
    config = LxmertMimConfig(
        **processor.config_arguments(),
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        l_layers=2,
        r_layers=1,
        x_layers=2,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.06,
        max_position_embeddings=40,
        type_vocab_size=3,
        initializer_range=0.03,
        visual_loss_normalizer=5.0,
        mask_ratio=0.4,
        negative_ratio=0.3,
        visual_losses="confidence",
        answer_loss="ce",
        loss_weights={"answers": 0.5},
    )
    return Example(
        config=config,
        rows=rows,
        processor=processor,
        corrupt=corrupt,
        # switches have tests of their own
        fixed=("pad_token_id", "tie_word_embeddings", "visual_pos_dim", *SWITCHES),
        odd_rows=odd_rows(),
    )


def corrupt(batch: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace hidden words by others and features of hidden regions by noise."""
    noise = torch.randn(batch["visual_feats"].shape, generator=torch.Generator().manual_seed(1))
    features = torch.where(mask["regions"][..., None], noise.to(batch["visual_feats"]), batch["visual_feats"])
    other = torch.where(batch["input_ids"] > 6, batch["input_ids"] - 1, batch["input_ids"] + 1)
    return batch | {"visual_feats": features, "input_ids": torch.where(mask["text"], other, batch["input_ids"])}


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge of what users have."""
    row = sample(1)[0]
    return {
        "an empty text": [row | {"text": ""}],
        "an unknown answer": [row | {"answer": "violet"}],
        "one region": [{name: value[:1] if isinstance(value, list) else value for name, value in row.items()}],
        "no text": [{name: value for name, value in row.items() if name != "text"}],
        "no regions": [{"text": "a red cube"}],
        "a box that ends before it begins": [row | {"boxes": [[0.5, 0, 0.1, 1]] * len(row["boxes"])}],
    }
