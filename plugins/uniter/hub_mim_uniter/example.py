"""Generated pairs for the checks and to try out: coloured shapes as regions, and what a sentence says of them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_uniter.configuration_uniter import UniterConfig
from hub_mim_uniter.processing_uniter import UniterProcessor

SHAPES = ("cube", "sphere", "cone", "cylinder")
COLOURS = ("red", "green", "blue", "yellow")


def sample(count: int = 256, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of two to four regions with boxes and noisy one-hot features, and a sentence that names them by place."""
    source = np.random.default_rng(seed)
    return [_row(source) for _ in range(count)]


def _row(source: np.random.Generator) -> dict[str, Any]:
    number = int(source.integers(2, 5))
    kinds, colours = source.integers(0, 4, number), source.integers(0, 4, number)
    left = np.sort(source.choice(np.arange(8), number, replace=False)) / 8
    boxes = np.stack([left, source.uniform(0, 0.5, number), left + 0.12, source.uniform(0.6, 1, number)], 1)
    features = np.concatenate([np.eye(4)[kinds], np.eye(4)[colours]], 1) + source.normal(0, 0.1, (number, 8))
    soft = 0.9 * np.eye(5)[kinds + 1] + 0.02
    words = [f"a {COLOURS[colour]} {SHAPES[kind]}" for kind, colour in zip(kinds, colours, strict=True)]
    return {
        "text": " left of ".join(words),
        "boxes": boxes.round(4).tolist(),
        "features": features.round(4).tolist(),
        "soft_labels": soft.tolist(),
        "object_labels": kinds.tolist(),
        "object_confidence": [0.9] * number,
        "attribute_labels": colours.tolist(),
        "attribute_confidence": [0.8] * number,
        "answer": COLOURS[int(colours[0])],
        "label": int(kinds[0]),
    }


def example() -> Example:
    """Return the example of the plugin's checks."""
    rows = [
        {name: value for name, value in row.items() if name not in ("answer", "label")} | {"matched_label": number % 2}
        for number, row in enumerate(sample(6))
    ]
    processor = UniterProcessor(box_unit="share", lower=False).fit(sample(40))
    told = processor.config_arguments()
    config = UniterConfig(
        **told | {"num_answers": 5},
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        hidden_act="gelu_pytorch_tanh",
        hidden_dropout_prob=0.05,
        attention_probs_dropout_prob=0.06,
        max_position_embeddings=60,
        type_vocab_size=3,
        layer_norm_eps=1e-6,
        initializer_range=0.03,
        tasks={"mlm": 1.0, "mrfr": 1.0, "mrc": 1.0, "mrckl": 1.0, "itm": 1.0},
        task_draw="row",
        masking="joint",
        mask_ratio=0.4,
        negative_ratio=0.4,
        kl_reduction="sum",
        ot_beta=0.6,
        ot_steps=20,
        loss_weights={"ot": 0.2},
        nlvr2_variant="paired",
        region_mlp=False,
        classifier_act="relu",
    )
    fixed = ("pad_token_id", "chunk_size_feed_forward", "is_decoder", "add_cross_attention", "tie_word_embeddings")
    return Example(
        config=config,
        rows=rows,
        processor=processor,
        corrupt=corrupt,
        fixed=(*fixed, "visual_pos_dim"),
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
        "words that were never seen": [row | {"text": "zebra Ünïcode 猫"}],
        "one region": [{name: value[:1] if isinstance(value, list) else value for name, value in row.items()}],
        "no text": [{name: value for name, value in row.items() if name != "text"}],
        "no regions": [{"text": "a red cube"}],
        "a box beyond the picture": [row | {"boxes": [[0, 0, 3, 1]] * len(row["boxes"])}],
        "other features": [row | {"features": [[1.0] * 5] * len(row["boxes"])}],
    }
