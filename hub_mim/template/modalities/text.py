"""From strings to bytes: values (B, T, 8), the bits of each byte; coordinates (B, T, P), attention_mask (B, T)."""

import random
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin

from hub_mim.patches import sincos_1d

EXAMPLE = {"max_length": 24}
FIXED = ("num_channels", "num_coordinates")  # configuration fields that follow from the processor alone


class MyMethodProcessor(ProcessorMixin):
    """Turn text into its UTF-8 bytes, each as eight bits of -1 or 1; needs no vocabulary.

    Args:
        max_length: bytes kept of a text.
    """

    def __init__(self, max_length: int = 256, **kwargs: Any):
        super().__init__(**kwargs)
        self.max_length = max_length

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values", "coordinates", "attention_mask"]

    def __call__(self, rows: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Encode rows with a `text`, or a list of texts; an empty one is a single zero byte."""
        texts = [row["text"] for row in rows] if rows is not None else text
        codes = [torch.tensor(list(each.encode()[: self.max_length] or b"\0")) for each in texts]
        padded = torch.nn.utils.rnn.pad_sequence(codes, batch_first=True)
        values = (padded[:, :, None] >> torch.arange(8) & 1).float() * 2 - 1
        there = torch.arange(padded.shape[1]) < torch.tensor([len(each) for each in codes])[:, None]
        values = values * there[:, :, None]
        coordinates = sincos_1d(torch.arange(padded.shape[1]), 32).expand(len(codes), -1, -1).clone()
        return BatchFeature({"values": values, "coordinates": coordinates, "attention_mask": there})


def sample(count: int = 64, seed: int = 0) -> list[dict[str, Any]]:
    """Return sentences of a tiny language."""
    source = random.Random(seed)
    subjects, verbs = ("a cat", "the dog", "one bird"), ("sees", "eats", "is")
    return [
        {"text": f"{source.choice(subjects)} {source.choice(verbs)} {source.choice(subjects)}"} for _ in range(count)
    ]


def odd_rows() -> dict[str, list[dict[str, Any]]]:
    """Return texts at the edge of what users have."""
    return {"no text": [{"text": ""}], "a long text": [{"text": "long " * 100}], "not Latin": [{"text": "語と言葉"}]}
