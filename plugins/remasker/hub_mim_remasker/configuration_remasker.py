"""Configuration of ReMasker (Du, Melis, Wang, ICLR 2024): a masked autoencoder over the cells of a table."""

from dataclasses import field
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hub_mim.fields import between


@strict
class ReMaskerConfig(PreTrainedConfig):
    """Describe a ReMasker model for one table layout.

    Args:
        cardinalities: one number per column: 0 = numeric, k >= 2 = categorical with k levels.
        hidden_size: width of the encoder, even.
        num_hidden_layers: encoder blocks.
        num_attention_heads: heads of the encoder.
        intermediate_size: width of the encoder's MLPs.
        decoder_hidden_size: width of the decoder, even.
        decoder_num_hidden_layers: decoder blocks.
        decoder_num_attention_heads: heads of the decoder.
        decoder_intermediate_size: width of the decoder's MLPs.
        hidden_act: activation of the MLPs.
        layer_norm_eps: of every norm; the authors use 1e-8.
        hidden_dropout_prob: after attention and MLP, in training; 0 in the paper.
        initializer_range: standard deviation of learned tokens and embeddings.
        mask_ratio: share of a row's observed cells to hide in training, in [0, 1); section 4.1.
        mask_ratio_max: where given, each row's share is drawn between `mask_ratio` and this.
        masking: "uniform" hides any observed cell alike (the paper); "observed" copies the gaps of other rows of the
            table (`patterns`) in half of the rows, so that training meets the gaps that imputation will meet; without
            `patterns` it is uniform.
        patterns: rows of the table to copy gaps from: for each, the columns that it lacks.
        value_embedding: "shared" = one weight and bias for all columns, told apart by fixed positions (the authors);
            "column" = weight, bias and a learned position per column.
        value_function: "linear" or "sin" (the authors' "active") of the embedded value.
        output: "sigmoid" = tanh(x) / 2 + 0.5, bounded by the observed range (the authors); "linear" = unbounded.
        linear_skip: what is added to the numeric predictions, so that the Transformer learns what is left over: "none",
            "fixed" (one learned linear map of the visible cells), or "gaussian" (the conditional mean of a normal
            distribution given the visible cells, the best linear predictor for each set of them; see `gaussian.py`).
            With "blend" nothing is added; the normal model is averaged with the Transformer's prediction afterwards.
        blend: weight in [0, 1] of the Transformer's prediction beside the normal model's with `linear_skip="blend"`;
            1 in training, then chosen on held-out cells by `ReMaskerImputer`.
        gaussian_mean: mean of each column, 0 for categorical ones; empty stands for 0.5.
        gaussian_covariance: covariance of the columns; empty stands for uncorrelated columns.
        loss_weights: of the terms "remasked", "visible" (numeric cells, squared error) and "remasked_category",
            "visible_category" (cross-entropy as a share of the log of the number of levels).
        legacy: reproduce the authors' masks: the same number of visible cells in every row, so that a row with fewer
            observed cells feeds missing ones as visible zeros (specs: "starved rows").
    Raises:
        ValueError: a value is out of range; the message names it.
    """

    model_type = "remasker"

    cardinalities: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    hidden_size: int = 32
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int = between(1)(128)
    decoder_hidden_size: int = 32
    decoder_num_hidden_layers: int = 4
    decoder_num_attention_heads: int = 4
    decoder_intermediate_size: int = between(1)(128)
    hidden_act: str = "gelu"
    layer_norm_eps: float = between(0)(1e-8)
    hidden_dropout_prob: float = 0.0
    initializer_range: float = between(0)(0.02)
    mask_ratio: float = 0.5
    mask_ratio_max: float | None = None
    masking: str = "uniform"
    patterns: list[list[int]] = field(default_factory=list)
    value_embedding: str = "shared"
    value_function: str = "linear"
    output: str = "sigmoid"
    linear_skip: str = "none"
    blend: float = 1.0
    gaussian_mean: list[float] = field(default_factory=list)
    gaussian_covariance: list[list[float]] = field(default_factory=list)
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {"remasked": 1.0, "visible": 1.0, "remasked_category": 0.1, "visible_category": 0.1}
    )
    legacy: bool = False

    @property
    def num_columns(self) -> int:
        """Number of columns of the table."""
        return len(self.cardinalities)

    @property
    def categorical(self) -> list[int]:
        """Positions of the categorical columns."""
        return [column for column, levels in enumerate(self.cardinalities) if levels]

    def validate_columns(self) -> None:
        """Check the columns and the patterns."""
        if not self.cardinalities:
            raise ValueError("cardinalities is empty; a table has at least one column")
        for column, levels in enumerate(self.cardinalities):
            if levels < 0 or levels == 1:
                raise ValueError(
                    f"cardinalities[{column}] is {levels}; a numeric column has 0, a categorical one 2 or more"
                )
        for pattern in self.patterns:
            if any(not 0 <= column < len(self.cardinalities) for column in pattern):
                raise ValueError(
                    f"patterns names column {max(pattern)} of a table with {len(self.cardinalities)} columns"
                )

        for name in ("gaussian_mean", "gaussian_covariance"):
            if getattr(self, name) and len(getattr(self, name)) != len(self.cardinalities):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {len(self.cardinalities)} columns")

    def validate_sizes(self) -> None:
        """Check widths, heads, counts and shares."""
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, f"{prefix}hidden_size"), getattr(self, f"{prefix}num_attention_heads")
            if width < 2 or width % 2 or heads < 1 or width % heads:
                raise ValueError(
                    f"{prefix}hidden_size {width} must be even and a multiple of {prefix}num_attention_heads {heads}"
                )
        for name in ("num_hidden_layers", "decoder_num_hidden_layers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if not 0 <= self.mask_ratio < 1:
            raise ValueError(f"mask_ratio is {self.mask_ratio}; it must be at least 0 and less than 1")
        if self.mask_ratio_max is not None and not self.mask_ratio <= self.mask_ratio_max < 1:
            raise ValueError(
                f"mask_ratio_max is {self.mask_ratio_max}; it must lie between mask_ratio {self.mask_ratio} and 1"
            )
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(f"hidden_dropout_prob is {self.hidden_dropout_prob}; it must lie in [0, 1)")

    def validate_choices(self) -> None:
        """Check the named options and the names of the losses."""
        choices: dict[str, tuple[Any, ...]] = {
            "masking": ("uniform", "observed"),
            "value_embedding": ("shared", "column"),
            "value_function": ("linear", "sin"),
            "output": ("sigmoid", "linear"),
            "linear_skip": ("none", "fixed", "gaussian", "blend"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {allowed}")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend is {self.blend}; it must be in [0, 1]")
        known = {"remasked", "visible", "remasked_category", "visible_category"}
        if set(self.loss_weights) - known:
            raise ValueError(
                f"loss_weights names {sorted(set(self.loss_weights) - known)}; the losses are {sorted(known)}"
            )
