"""Configuration of MyMethod."""

from dataclasses import field

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between


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

    num_channels: int = between(1)(CHANNELS)
    num_coordinates: int = between(1)(COORDINATES)
    hidden_size: int = between(1)(64)
    num_hidden_layers: int = between(1)(3)
    num_attention_heads: int = between(1)(4)
    intermediate_size: int = between(1)(256)
    decoder_num_hidden_layers: int = between(0)(1)
    hidden_dropout_prob: float = between(0, 1)(0.0)
    layer_norm_eps: float = between(0)(1e-6)
    initializer_range: float = between(0)(0.02)
    mask_ratio: float = between(0, 1, below=True)(0.5)
    loss_weights: dict[str, float] = field(default_factory=lambda: {"hidden": 1.0})

    def validate_heads(self) -> None:
        """Check that the heads share the width."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} must be a multiple of num_attention_heads {self.num_attention_heads}"
            )
