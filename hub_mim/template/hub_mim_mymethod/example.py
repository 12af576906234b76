"""What MyMethod's checks run on, and rows for a first run without any data."""

import torch
from torch import Tensor

from hub_mim.method import Example
from hub_mim_mymethod.configuration_mymethod import MyMethodConfig
from hub_mim_mymethod.processing_mymethod import EXAMPLE, FIXED, MyMethodProcessor, odd_rows, sample


def example() -> Example:
    """Return a small configuration with no field at its default, rows, and what the checks ask of them."""
    processor = MyMethodProcessor(**EXAMPLE)
    batch = processor(rows=sample(1))
    config = MyMethodConfig(
        num_channels=batch["values"].shape[2],
        num_coordinates=batch["coordinates"].shape[2],
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        decoder_num_hidden_layers=2,
        hidden_dropout_prob=0.1,
        layer_norm_eps=1e-5,
        initializer_range=0.03,
        mask_ratio=0.4,
        loss_weights={"hidden": 2.0},
    )
    return Example(
        config=config,
        rows=sample(6),
        processor=processor,
        corrupt=corrupt,
        fixed=FIXED,
        hidden=hidden,
        odd_rows=odd_rows(),
    )


def hidden(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return how many tokens of each row are hidden: the share, rounded, at least one staying."""
    count = batch["attention_mask"].sum(1)
    number = torch.minimum((count * 0.4).round().long(), (count - 1).clamp(min=0))
    return number, number


def corrupt(batch: dict[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """Replace hidden values by noise."""
    noise = torch.randn(batch["values"].shape, generator=torch.Generator().manual_seed(5))
    return batch | {"values": torch.where(mask[:, :, None], noise.to(batch["values"]), batch["values"])}
