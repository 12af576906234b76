"""ReMasker (Du, Melis, Wang, ICLR 2024, arXiv:2309.13793): hide observed cells of a table once more and predict them.

Only visible cells enter the encoder; rows may have different numbers of them. `legacy=True` in the configuration
reproduces the authors' arithmetic; by default rows with many gaps are not starved, missing cells never enter the
encoder, and the loss is taken on observed cells alone.

Shapes: B rows, L columns, V visible cells, D channels, C categorical columns, K levels (of the richest column).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hub_mim.blocks import Attention, Block, attention_only, build_blocks, init_linear_norm
from hub_mim.checking import takes
from hub_mim.losses import masked_mean, weighted_sum
from hub_mim.masking import Kept, hide_highest, keep_visible, noise, pattern_mask, restore
from hub_mim.patches import sincos_1d
from hub_mim_remasker.configuration_remasker import ReMaskerConfig


@dataclass
class ReMaskerModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: (B, 1 + V, D), class token first, then the visible cells packed to the left.
    pooler_output: (B, D), the class token.
    places: int64 (B, V), the column of each packed cell. valid: bool (B, V), False at padding.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    places: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class ReMaskerForPreTrainingOutput(ModelOutput):
    """What pre-training and imputation return.

    loss: scalar. losses: named unweighted scalars.
    mask, scored, valid: bool (B, L): hidden, where the loss is taken, observed.
    predictions: (B, L) on the processor's scale, for numeric columns. logits: (B, C, K), -inf beyond a column's levels.
    last_hidden_state: of the encoder.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    valid: Tensor | None = None
    predictions: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ReMaskerEncoderLayer(Block):
    """A block of the encoder; a class of its own, so that recorded hidden states are the encoder's."""


class ReMaskerDecoderLayer(Block):
    """A block of the decoder."""


class ReMaskerEmbeddings(nn.Module):
    """Embed each cell: its value (or level) and its column."""

    def __init__(self, config: ReMaskerConfig):
        super().__init__()
        self.config = config
        width, columns = config.hidden_size, config.num_columns
        shape = (1, width) if config.value_embedding == "shared" else (columns, width)
        if len(config.categorical) < columns:
            self.value_weight = nn.Parameter(torch.empty(shape))
            self.value_bias = nn.Parameter(torch.empty(shape))
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        if config.categorical:
            self.levels = nn.Embedding(sum(config.cardinalities), width)
            starts = torch.tensor([0, *config.cardinalities[:-1]]).cumsum(0)
            self.register_buffer("level_starts", torch.empty_like(starts), persistent=False)
            self.register_buffer("is_category", torch.empty(columns, dtype=torch.bool), persistent=False)
        if config.value_embedding == "column":
            self.positions = nn.Parameter(torch.empty(columns, width))
        else:
            self.register_buffer("positions", torch.empty(columns, width), persistent=False)

    def forward(self, values: Tensor, codes: Tensor | None) -> Tensor:
        """Map values (B, L) and codes (B, L) to tokens (B, L, D)."""
        if not self.config.categorical:
            return self._numbers(values) + self.positions
        if codes is None:
            raise ValueError("codes is missing, but the table has categorical columns; use the checkpoint's processor")
        self._check_levels(codes)
        levels = self.levels(torch.where(self.is_category, codes + self.level_starts, 0))
        if len(self.config.categorical) == self.config.num_columns:
            return levels + self.positions
        return torch.where(self.is_category[:, None], levels, self._numbers(values)) + self.positions

    def _check_levels(self, codes: Tensor) -> None:
        """Raise ValueError where a code is another column's level; a GPU would have to be waited for."""
        if codes.device.type != "cpu" or torch.compiler.is_compiling():
            return
        beyond = self.is_category & (codes >= torch.tensor(self.config.cardinalities))
        if bool(beyond.any()):
            row, column = beyond.nonzero()[0].tolist()
            raise ValueError(
                f"codes holds {int(codes[row, column])} in column {column}, which has {self.config.cardinalities[column]} "
                "levels; use the checkpoint's processor"
            )

    def _numbers(self, values: Tensor) -> Tensor:
        tokens = torch.addcmul(self.value_bias, values[:, :, None].to(self.value_weight.dtype), self.value_weight)
        return tokens.sin() if self.config.value_function == "sin" else tokens

    def reset(self, spread: float) -> None:
        """Fill parameters and tables; `init` leaves alone what a checkpoint brought."""
        config = self.config
        init.normal_(self.cls_token, std=spread)
        if len(config.categorical) < config.num_columns:
            bound = (6 / (config.hidden_size + 1)) ** 0.5  # Xavier uniform of a map from 1 to D, as Conv1d(1, D, 1)
            init.uniform_(self.value_weight, -bound, bound)
            init.uniform_(self.value_bias, -1.0, 1.0)  # torch's default for that convolution
        table = sincos_1d(torch.arange(config.num_columns), config.hidden_size)
        init.copy_(self.positions, table.to(self.positions))
        if config.categorical:
            init.normal_(self.levels.weight, std=1.0 / config.hidden_size**0.5)
            starts = torch.tensor([0, *config.cardinalities[:-1]]).cumsum(0)
            init.copy_(self.level_starts, starts.to(self.level_starts))
            kinds = torch.tensor([levels > 0 for levels in config.cardinalities])
            init.copy_(self.is_category, kinds.to(self.is_category))


class ReMaskerPreTrainedModel(PreTrainedModel):
    """What both models share: the configuration class, initialisation, what transformers may do with them."""

    config: ReMaskerConfig
    base_model_prefix = "remasker"
    model_tags = ["hub-mim", "remasker"]
    main_input_name = "values"
    input_modalities = "table"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ReMaskerEncoderLayer", "ReMaskerDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ReMaskerEncoderLayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_linear_norm(module)
        if isinstance(module, ReMaskerEmbeddings | ReMaskerDecoder):
            module.reset(self.config.initializer_range)
        elif isinstance(module, GaussianSkip):
            module.reset()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that embeds the cells."""
        return self.embeddings if isinstance(self, ReMaskerModel) else self.get_submodule("remasker.embeddings")


class ReMaskerModel(ReMaskerPreTrainedModel):
    """The encoder: every observed cell is visible unless a mask says otherwise."""

    def __init__(self, config: ReMaskerConfig):
        super().__init__(config)
        self.embeddings = ReMaskerEmbeddings(config)
        self.layers = build_blocks(
            ReMaskerEncoderLayer,
            config,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            act=config.hidden_act,
            dropout=config.hidden_dropout_prob,
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @takes(values="float B *", codes="int >=0 B num_columns", observed="bool B num_columns", mask="bool B num_columns")
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        values: Tensor,
        codes: Tensor | None = None,
        observed: Tensor | None = None,
        mask: Tensor | None = None,
        **kwargs: Any,
    ) -> ReMaskerModelOutput:
        """Encode the visible cells of each row.

        Args:
            values: float (B, L), scaled by the processor; NaN counts as missing.
            codes: int64 (B, L), levels of categorical columns.
            observed: bool (B, L); default: where `values` is a number.
            mask: bool (B, L), True = hidden; default nothing. In a legacy model a missing cell that is not hidden
                enters the encoder as the value 0, as the authors' does.
            kwargs: passed to the attention.
        Returns:
            `ReMaskerModelOutput`.
        Raises:
            ValueError: the number of columns is not the configuration's.
        """
        values, observed = clean(values, observed, self.config.num_columns)
        visible = observed if mask is None else ~mask if self.config.legacy else observed & ~mask
        width = self.config.num_columns if torch.compiler.is_compiling() else None
        kept = keep_visible(self.embeddings(values, codes), ~visible, num_visible=width)
        x = torch.cat([self.embeddings.cls_token.expand(len(values), -1, -1).to(kept.tokens.dtype), kept.tokens], 1)
        attention_mask = padding_mask(self.config, x, kept.valid)
        for layer in self.layers:
            x = layer(x, attention_mask, **kwargs)
        x = self.layernorm(x)
        return ReMaskerModelOutput(last_hidden_state=x, pooler_output=x[:, 0], places=kept.places, valid=kept.valid)


class ReMaskerDecoder(nn.Module):
    """Put mask tokens where nothing was visible and predict every cell."""

    def __init__(self, config: ReMaskerConfig):
        super().__init__()
        self.config = config
        width, columns = config.decoder_hidden_size, config.num_columns
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        if config.value_embedding == "column":
            self.positions = nn.Parameter(torch.empty(columns, width))
        else:
            self.register_buffer("positions", torch.empty(columns, width), persistent=False)
        self.layers = build_blocks(
            ReMaskerDecoderLayer,
            config,
            config.decoder_num_hidden_layers,
            width,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            act=config.hidden_act,
            dropout=config.hidden_dropout_prob,
        )
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        numeric = len(config.categorical) < columns
        self.head = nn.Linear(width, 1) if numeric else None
        skips: dict[str, Any] = {"none": lambda _: None, "fixed": LinearSkip, "gaussian": GaussianSkip}
        skips["blend"] = GaussianSkip
        self.skip = skips[config.linear_skip](config) if numeric else None
        if config.categorical:
            self.category_weight = nn.Parameter(torch.empty(len(config.categorical), max(config.cardinalities), width))
            self.category_bias = nn.Parameter(torch.empty(len(config.categorical), max(config.cardinalities)))

    def forward(
        self, encoded: ReMaskerModelOutput, values: Tensor, visible: Tensor, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Return predictions (B, L) and logits (B, C, K), None without categorical columns."""
        x = self.embed(encoded.last_hidden_state)
        kept = Kept(x[:, 1:], encoded.places, encoded.valid)
        cells = restore(kept, self.mask_token, self.config.num_columns) + self.positions
        x = torch.cat([x[:, :1], cells], 1)
        for layer in self.layers:
            x = layer(x, None, **kwargs)
        x = self.layernorm(x)[:, 1:]
        return self._numbers(x, values, visible), self._logits(x)

    def _numbers(self, x: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        if self.head is None:
            return x.new_zeros(values.shape)
        predictions = self.head(x)[:, :, 0]
        if self.skip is not None and self.config.linear_skip != "blend":
            predictions = predictions + self.skip(values, visible)
        elif self.skip is not None and self.config.blend < 1:
            normal = self.skip(values, visible)  # float32 also where autocast made the Transformer's part half
            predictions = torch.lerp(normal, predictions.to(normal.dtype), self.config.blend)
        return predictions.tanh() / 2 + 0.5 if self.config.output == "sigmoid" else predictions

    def _logits(self, x: Tensor) -> Tensor | None:
        if not self.config.categorical:
            return None
        columns = torch.tensor(self.config.categorical, device=x.device)
        logits = torch.einsum("bcd,ckd->bck", x[:, columns], self.category_weight) + self.category_bias
        levels = torch.tensor(
            [self.config.cardinalities[column] for column in self.config.categorical], device=x.device
        )
        return logits.masked_fill(torch.arange(logits.shape[2], device=x.device) >= levels[:, None], -torch.inf)

    def reset(self, spread: float) -> None:
        """Fill parameters and tables; `init` leaves alone what a checkpoint brought."""
        init.normal_(self.mask_token, std=spread)
        if self.head is not None and self.config.output == "linear":
            gaussian = self.config.linear_skip == "gaussian"  # predictions start there, else at the middle of the range
            init.normal_(self.head.weight, std=spread / 10 if gaussian else spread)
            init.constant_(self.head.bias, 0.0 if gaussian else 0.5)
        table = sincos_1d(torch.arange(self.config.num_columns), self.config.decoder_hidden_size)
        init.copy_(self.positions, table.to(self.positions))
        if self.config.categorical:
            init.normal_(self.category_weight, std=spread)
            init.zeros_(self.category_bias)
        if isinstance(self.skip, LinearSkip):
            self.skip.reset()


class LinearSkip(nn.Module):
    """A linear map from the visible cells to every column: where they are and how far from the middle of the range."""

    def __init__(self, config: ReMaskerConfig):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.num_columns, config.num_columns))
        self.gate = nn.Parameter(torch.empty(config.num_columns, config.num_columns))

    def reset(self) -> None:
        """Start at nothing."""
        init.zeros_(self.weight)
        init.zeros_(self.gate)

    def forward(self, values: Tensor, visible: Tensor) -> Tensor:
        """Map values (B, L) and visible (B, L) to (B, L); a hidden cell adds nothing."""
        seen = visible.to(self.weight.dtype)
        return torch.where(visible, values - 0.5, 0.0).to(seen.dtype) @ self.weight + seen @ self.gate


class GaussianSkip(nn.Module):
    """The conditional mean of a normal distribution given the visible cells; its numbers stand in the configuration."""

    def __init__(self, config: ReMaskerConfig):
        super().__init__()
        self.config = config
        columns = config.num_columns
        self.register_buffer("mean", torch.empty(columns), persistent=False)
        self.register_buffer("covariance", torch.empty(columns, columns), persistent=False)

    def reset(self) -> None:
        """Fill the tables from the configuration."""
        config = self.config
        mean = torch.tensor(config.gaussian_mean or [0.5] * config.num_columns)
        covariance = (
            torch.tensor(config.gaussian_covariance) if config.gaussian_covariance else torch.eye(config.num_columns)
        )
        init.copy_(self.mean, mean.to(self.mean))
        init.copy_(self.covariance, covariance.to(self.covariance))

    def forward(self, values: Tensor, visible: Tensor) -> Tensor:
        """Map values (B, L) and visible (B, L) to (B, L); a hidden cell adds nothing. Solves in float32 or better."""
        kind = torch.promote_types(self.covariance.dtype, torch.float32)
        mean, covariance = self.mean.to(kind), self.covariance.to(kind)
        seen = (visible & (covariance.diagonal() > 0)).to(kind)
        # rows and columns of hidden cells become those of the identity, so that one system serves any set of them
        system = seen[:, :, None] * covariance * seen[:, None, :] + torch.diag_embed(1 - seen)
        known = torch.where(visible, values.to(kind) - mean, 0.0) * seen
        weights = torch.linalg.solve(system, known[:, :, None])[:, :, 0] * seen
        return (mean + weights @ covariance).to(self.mean.dtype)


class ReMaskerForPreTraining(ReMaskerPreTrainedModel):
    """Encoder, decoder and losses; also what imputes: `mask=~observed` predicts every missing cell."""

    joint_loss = True

    def __init__(self, config: ReMaskerConfig):
        super().__init__(config)
        self.remasker = ReMaskerModel(config)
        self.decoder = ReMaskerDecoder(config)
        self.register_buffer(
            "patterns", torch.empty(len(config.patterns), config.num_columns, dtype=torch.bool), persistent=False
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.config.patterns:
            table = torch.ones(len(self.config.patterns), self.config.num_columns, dtype=torch.bool)
            for row, missing in enumerate(self.config.patterns):
                table[row, missing] = False
            init.copy_(self.patterns, table.to(self.patterns.device))

    @takes(
        values="float B *",
        codes="int >=0 B num_columns",
        observed="bool B num_columns",
        mask="bool B num_columns",
        row_seed="int B",
    )
    @can_return_tuple
    def forward(
        self,
        values: Tensor,
        codes: Tensor | None = None,
        observed: Tensor | None = None,
        mask: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> ReMaskerForPreTrainingOutput:
        """Hide observed cells, encode the visible ones, predict all, take the loss on hidden and on visible cells.

        Args:
            values: float (B, L), scaled by the processor; NaN counts as missing.
            codes: int64 (B, L), levels of categorical columns.
            observed: bool (B, L); default: where `values` is a number.
            mask: bool (B, L), True = hidden; drawn when absent.
            row_seed: int64 (B,), decides each row's mask.
            generator: decides the masks where there is no `row_seed`.
            return_loss: whether to compute the losses.
            kwargs: passed to the attention.
        Returns:
            `ReMaskerForPreTrainingOutput`; the loss is the sum of section 3.2: re-masked plus visible cells.
        """
        values, observed = clean(values, observed, self.config.num_columns)
        if mask is None:
            mask = self.draw_mask(observed, row_seed=row_seed, generator=generator)
        visible = ~mask if self.config.legacy else observed & ~mask
        encoded = self.remasker(values, codes, observed, mask=~visible, return_dict=True, **kwargs)
        predictions, logits = self.decoder(encoded, values, visible, **attention_only(kwargs))
        losses = self._losses(predictions, logits, values, codes, observed, visible) if return_loss else None
        return ReMaskerForPreTrainingOutput(
            loss=weighted_sum(losses, self._weights(losses)) if losses is not None else None,
            losses=losses,
            mask=~visible & observed,
            scored=observed | visible,
            valid=observed,
            predictions=predictions,
            logits=logits,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def draw_mask(
        self, observed: Tensor, *, row_seed: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw which cells to hide; at least one observed cell of each row stays visible.

        Args:
            observed: bool (B, L).
            row_seed: int64 (B,), decides each row's mask.
            generator: decides the masks where there is no `row_seed`.
        Returns:
            Bool (B, L), True = hidden. In a legacy model missing cells are hidden as well, and the number of cells
            that are not is the same in every row.
        """
        source: dict[str, Any] = {"row_seed": row_seed, "generator": generator}
        scores = noise(observed.shape, device=observed.device, **source)
        if self.config.legacy:
            num_visible = int(self.config.num_columns * (1 - self.config.mask_ratio))
            return hide_highest(scores.masked_fill(~observed, 1.0), self.config.num_columns - num_visible)
        count = observed.sum(1)
        keep = torch.floor(count * (1 - self._ratio(observed, source))).long().clamp(min=1)
        mask = hide_highest(scores, (count - keep).clamp(min=0), observed)
        if self.config.masking == "uniform" or not self.config.patterns:
            return mask
        copied = pattern_mask(observed, self.patterns, row_seed=_other(row_seed), generator=generator)
        pick = noise((len(observed), 1), device=observed.device, stream=3, **source) < 0.5
        return torch.where(pick & copied.any(1, keepdim=True), copied, mask)

    def _ratio(self, observed: Tensor, source: dict[str, Any]) -> Tensor | float:
        low, high = self.config.mask_ratio, self.config.mask_ratio_max
        if high is None:
            return low
        return low + (high - low) * noise((len(observed), 1), device=observed.device, stream=2, **source)[:, 0]

    def _losses(
        self,
        predictions: Tensor,
        logits: Tensor | None,
        values: Tensor,
        codes: Tensor | None,
        observed: Tensor,
        visible: Tensor,
    ) -> dict[str, Tensor]:
        seen = visible if self.config.legacy else visible & observed
        parts = {"remasked": observed & ~visible, "visible": seen}
        losses = {}
        if self.decoder.head is not None:
            numeric = torch.tensor([levels == 0 for levels in self.config.cardinalities], device=values.device)
            error = (predictions - values.to(predictions.dtype)).square()
            losses = {name: masked_mean(error, where & numeric) for name, where in parts.items()}
        if logits is not None and codes is not None:
            error = category_error(logits, codes[:, self.config.categorical])
            for name, where in parts.items():
                losses[f"{name}_category"] = masked_mean(error, where[:, self.config.categorical])
        return losses

    def _weights(self, losses: dict[str, Tensor]) -> dict[str, float]:
        return {name: weight for name, weight in self.config.loss_weights.items() if name in losses}


def clean(values: Tensor, observed: Tensor | None, num_columns: int) -> tuple[Tensor, Tensor]:
    """Return values with 0 at missing cells, and which are observed, both (B, L)."""
    if values.shape[1] != num_columns:
        raise ValueError(f"values has {values.shape[1]} columns, but the model was made for {num_columns}")
    if observed is None:
        observed = ~values.isnan()
    return values.masked_fill(~observed, 0.0), observed


def category_error(logits: Tensor, codes: Tensor) -> Tensor:
    """Return the cross-entropy as a share of the log of the number of levels: (B, C, K), int64 (B, C) -> (B, C)."""
    picked = logits.log_softmax(-1).gather(-1, codes[:, :, None])[:, :, 0]
    levels = logits.isfinite().sum(-1)
    return -picked / levels.log()


def padding_mask(config: ReMaskerConfig, x: Tensor, valid: Tensor) -> Any:
    """Return the attention mask for a class token and packed cells, None where no row is padded."""
    whole = torch.cat([torch.ones_like(valid[:, :1]), valid], 1)
    return create_bidirectional_mask(config=config, inputs_embeds=x, attention_mask=whole)


def _other(row_seed: Tensor | None) -> Tensor | None:
    return None if row_seed is None else row_seed ^ 0x5DEECE66D  # a second stream of the same row
