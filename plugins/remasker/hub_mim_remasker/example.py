"""A small table for the conformance checks: numbers, whole numbers, categories and gaps."""

from typing import Any

import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_remasker.configuration_remasker import ReMaskerConfig
from hub_mim_remasker.processing_remasker import ReMaskerProcessor


def rows() -> list[dict[str, Any]]:
    """Return eight rows; the columns depend on each other, and some cells are missing."""
    table = []
    for i in range(8):
        row = {
            "width": 0.5 * i,
            "height": 10.0 - i * 0.7,
            "count": i % 5,
            "colour": "red" if i % 3 else "blue",
            "grade": "abc"[i % 3],
        }
        table.append(row | {name: None for place, name in enumerate(row) if (i * 5 + place) % 11 == 3})
    return table


def example() -> Example:
    """Return the example of the plugin's checks."""
    processor = ReMaskerProcessor().fit(rows())
    config = ReMaskerConfig(
        **processor.config_arguments(),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        decoder_hidden_size=12,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=3,
        decoder_intermediate_size=20,
        hidden_act="gelu_pytorch_tanh",
        layer_norm_eps=1e-6,
        hidden_dropout_prob=0.1,
        initializer_range=0.03,
        mask_ratio=0.4,
        mask_ratio_max=0.6,
        masking="observed",
        value_embedding="column",
        value_function="sin",
        output="linear",
        linear_skip="blend",
        blend=0.6,
        loss_weights={"remasked": 1.0, "visible": 0.5, "remasked_category": 0.2},
    )
    return Example(
        config=config,
        rows=rows(),
        processor=processor,
        corrupt=corrupt,
        hidden=hidden,
        odd_rows=odd_rows(),
        suite_overrides={"test_batching_equivalence": "logits beyond a column's number of levels are -inf by design"},
    )


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the least and most cells hidden: at least one, and at least one observed cell stays visible."""
    count = batch["observed"].sum(1)
    return (count > 1).long(), (count - 1).clamp(min=0)


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows at the edge: nothing observed, a level that was not there, one observed cell, a missing column."""
    row = rows()[0]
    nothing = dict.fromkeys(row)
    return {
        "nothing observed": [nothing],
        "an unseen level": [row | {"colour": "violet"}],
        "one cell": [nothing | {"count": 3}],
        "no such column": [{"height": 1.0}],
    }


def corrupt(batch: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Replace what is hidden by noise: other values, other levels."""
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(batch["values"].shape, generator=generator)
    numeric = mask & (batch["codes"] == 0)
    return batch | {
        "values": torch.where(numeric, values.to(batch["values"]), batch["values"]),
        "codes": torch.where(mask & (batch["codes"] > 0), batch["codes"] - 1, batch["codes"]),
    }
