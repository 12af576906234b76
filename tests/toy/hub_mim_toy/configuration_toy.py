"""Configuration of the toy."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between


@strict
class ToyMimConfig(PreTrainedConfig):
    """Sizes of the toy; `mask_ratio` is the share of tokens hidden in pre-training."""

    model_type = "toy_mim"

    num_tokens: int = between(1)(6)
    num_channels: int = between(1)(3)
    hidden_size: int = between(1)(16)
    num_hidden_layers: int = between(1)(2)
    num_attention_heads: int = between(1)(2)
    intermediate_size: int = between(1)(32)
    dropout: float = between(0, 1)(0.0)
    layer_norm_eps: float = between(0)(1e-6)
    initializer_range: float = between(0)(0.02)
    mask_ratio: float = 0.5
    loss_weights: dict[str, float] = field(default_factory=lambda: {"hidden": 1.0, "absolute": 0.1})

    def validate_ratio(self) -> None:
        """Check the share."""
        if not 0 <= self.mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it must be between 0 and 1")
