"""Configuration of MyMethod."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class MyMethodConfig(PreTrainedConfig):
    """Sizes and options of MyMethod.

    Args:
        num_channels: numbers per token, as the processor makes them.
        num_coordinates: numbers that tell where a token is.
        hidden_size: width of the encoder; the decoder has the same.
        num_hidden_layers: blocks of the encoder.
        num_attention_heads: of every block; divides `hidden_size`.
        intermediate_size: width of the MLPs.
        decoder_num_hidden_layers: blocks of the decoder.
        hidden_dropout_prob: after attention and MLP, in training.
        layer_norm_eps: of all norms.
        initializer_range: spread of the mask token.
        mask_ratio: share of a row's tokens that is hidden, in [0, 1).
        loss_weights: of the terms, by name.
    """

    model_type = "mymethod"

    num_channels: int = CHANNELS
    num_coordinates: int = COORDINATES
    hidden_size: int = 64
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 256
    decoder_num_hidden_layers: int = 1
    hidden_dropout_prob: float = 0.0
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    mask_ratio: float = 0.5
    loss_weights: dict[str, float] = field(default_factory=lambda: {"hidden": 1.0})

    def validate_ratio(self) -> None:
        """Check the share."""
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it must be at least 0 and less than 1")
