"""From rows with `values` to a tensor."""

from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin


class ToyMimProcessor(ProcessorMixin):
    """Scale values by a factor."""

    def __init__(self, factor: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.factor = factor

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors made."""
        return ["values"]

    def __call__(self, values: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Encode rows of T x C numbers; returns values float32 (B, T, C)."""
        table = torch.as_tensor(values, dtype=torch.float32) * self.factor
        return BatchFeature({"values": table}, tensor_type=return_tensors)
