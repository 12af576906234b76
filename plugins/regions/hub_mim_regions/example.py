"""Generated pairs to try methods out and to check them: coloured shapes as regions, what a sentence says of them, a question."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

SHAPES = ("cube", "sphere", "cone", "cylinder")
COLOURS = ("red", "green", "blue", "yellow")
# of transformers' own tests of processors
BARE = "the suite gives pictures without boxes and no source of regions, which regions need"
OVERRIDES = {"test_flat_kwarg_applied_when_modality_dict_lacks_it": BARE, "test_model_input_names": BARE}


def sample(count: int = 256, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of two to four regions with boxes (shares), noisy one-hot features and what a detector would say of them, a
    sentence that names them from left to right, and the colour of the first one as an answer."""
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
        "soft_labels": (0.9 * np.eye(5)[kinds + 1] + 0.02).tolist(),
        "object_labels": kinds.tolist(),
        "object_confidence": source.uniform(0.5, 1, number).round(3).tolist(),
        "attribute_labels": colours.tolist(),
        "attribute_confidence": source.uniform(0.5, 1, number).round(3).tolist(),
        "answer": COLOURS[int(colours[0])],
        "label": int(kinds[0]),
    }


def corrupt(batch: dict[str, Tensor], mask: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace hidden words by others and features of hidden regions by noise."""
    noise = torch.randn(batch["visual_feats"].shape, generator=torch.Generator().manual_seed(1))
    features = torch.where(mask["regions"][..., None], noise.to(batch["visual_feats"]), batch["visual_feats"])
    other = torch.where(batch["input_ids"] > 6, batch["input_ids"] - 1, batch["input_ids"] + 1)
    return batch | {"visual_feats": features, "input_ids": torch.where(mask["text"], other, batch["input_ids"])}


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge of what users have."""
    row = sample(1)[0]
    count = len(row["boxes"])
    return {
        "an empty text": [row | {"text": ""}],
        "words that were never seen": [row | {"text": "zebra Ünïcode 猫"}],
        "an unknown answer": [row | {"answer": "violet"}],
        "one region": [{name: value[:1] if isinstance(value, list) else value for name, value in row.items()}],
        "no text": [{name: value for name, value in row.items() if name != "text"}],
        "no regions": [{"text": "a red cube"}],
        "a box beyond the picture": [row | {"boxes": [[0, 0, 3, 1]] * count}],
        "a box that ends before it begins": [row | {"boxes": [[0.5, 0, 0.1, 1]] * count}],
        "other features": [row | {"features": [[1.0] * 5] * count}],
    }
