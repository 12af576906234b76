"""Configuration of the toy."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils.type_validators import interval


@strict
class ToyMimConfig(PreTrainedConfig):
    """Sizes of the toy; `mask_ratio` is the share of tokens hidden in pre-training."""

    model_type = "toy_mim"

    num_tokens: int = interval(min=1)(default=6)
    num_channels: int = interval(min=1)(default=3)
    hidden_size: int = interval(min=1)(default=16)
    num_hidden_layers: int = interval(min=1)(default=2)
    num_attention_heads: int = interval(min=1)(default=2)
    intermediate_size: int = interval(min=1)(default=32)
    dropout: float = interval(min=0, max=1)(default=0.0)
    layer_norm_eps: float = interval(min=0)(default=1e-6)
    initializer_range: float = interval(min=0)(default=0.02)
    mask_ratio: float = 0.5
    loss_weights: dict[str, float] = field(default_factory=lambda: {"hidden": 1.0, "absolute": 0.1})

    def validate_ratio(self) -> None:
        """Check the share."""
        if not 0 <= self.mask_ratio <= 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it must be between 0 and 1")
