"""Rows for the toy: points on a circle, so that hidden vectors follow from visible ones."""

import math
import random
from typing import Any

import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_toy.configuration_toy import ToyMimConfig
from hub_mim_toy.processing_toy import ToyMimProcessor


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of six points with three coordinates."""
    source = random.Random(seed)
    rows = []
    for _ in range(count):
        phase, size = source.random() * 6.28, 0.5 + source.random()
        points = [phase + 0.7 * step for step in range(6)]
        rows.append({"values": [[size * math.cos(a), size * math.sin(a), size] for a in points]})
    return rows


def example() -> Example:
    """Return the example of the plugin's checks."""
    config = ToyMimConfig(
        num_tokens=5,
        num_channels=2,
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=3,
        intermediate_size=20,
        dropout=0.1,
        layer_norm_eps=1e-5,
        initializer_range=0.03,
        mask_ratio=0.4,
        loss_weights={"hidden": 2.0, "absolute": 0.5},
    )
    rows = [{"values": [point[:2] for point in row["values"][:5]]} for row in sample(6, seed=3)]
    odd = {"four points": [{"values": rows[0]["values"][:4]}], "no points": [{"values": []}]}
    processor = ToyMimProcessor(factor=0.5)
    return Example(config=config, rows=rows, processor=processor, corrupt=corrupt, hidden=hidden, odd_rows=odd)


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return how many vectors are hidden: two of five."""
    count = torch.full((len(batch["values"]),), 2)
    return count, count


def corrupt(batch: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Replace hidden vectors by noise."""
    noise = torch.randn(batch["values"].shape, generator=torch.Generator().manual_seed(5))
    return batch | {"values": torch.where(mask[:, :, None], noise.to(batch["values"]), batch["values"])}


def mean_error(model: Any, processor: Any, rows: list[dict[str, Any]], *, seed: int = 0) -> list[Any]:
    """Measure how far the predicted mean of a row is from its own."""
    from hub_mim.results import Result

    values = processor(values=[row["values"] for row in rows])["values"]
    with torch.no_grad():
        predictions = model(values, generator=torch.Generator().manual_seed(seed)).predictions
    error = (predictions.mean(1) - values.mean(1)).abs().mean().item()
    return [Result(metric_type="mae", metric_value=error, dataset_name="rows")]
