"""MyMethod: hide tokens, encode the visible ones, predict the hidden ones (He et al. 2022, arXiv:2111.06377).

Shapes: B rows, T tokens, C channels, P coordinates, V visible tokens, D width.
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

from hub_mim.blocks import Attention, Block, init_linear_norm
from hub_mim.checking import takes
from hub_mim.losses import masked_mean, token_mse, weighted_sum
from hub_mim.masking import Kept, keep_visible, random_mask, restore
from hub_mim_mymethod.configuration_mymethod import MyMethodConfig


@dataclass
class MyMethodModelOutput(ModelOutput):
    """last_hidden_state (B, V, D), pooler_output (B, D), places int64 (B, V), valid bool (B, V)."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    places: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MyMethodForPreTrainingOutput(ModelOutput):
    """loss, losses by name; mask, scored bool (B, T); predictions (B, T, C); last_hidden_state of the encoder."""

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    predictions: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MyMethodEncoderLayer(Block):
    """A block of the encoder; a class of its own, so that recorded hidden states are the encoder's."""


class MyMethodDecoderLayer(Block):
    """A block of the decoder."""


class MyMethodPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config: MyMethodConfig
    base_model_prefix = "mymethod"
    model_tags = ["hub-mim", "mymethod"]
    main_input_name = "values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MyMethodEncoderLayer", "MyMethodDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MyMethodEncoderLayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^mask_token", r"^where\.", r"^norm\.", r"^head\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_linear_norm(module)
        if isinstance(module, MyMethodForPreTraining):
            init.normal_(module.mask_token, std=self.config.initializer_range)


def layers(kind: type[Block], config: MyMethodConfig, number: int) -> nn.ModuleList:
    """Return so many blocks of one kind."""
    return nn.ModuleList(
        kind(
            config,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            dropout=config.hidden_dropout_prob,
        )
        for _ in range(number)
    )


class MyMethodModel(MyMethodPreTrainedModel):
    """The encoder: sees the tokens that are there and not hidden."""

    def __init__(self, config: MyMethodConfig):
        super().__init__(config)
        self.embed = nn.Linear(config.num_channels, config.hidden_size)
        self.place = nn.Linear(config.num_coordinates, config.hidden_size)
        self.layers = layers(MyMethodEncoderLayer, config, config.num_hidden_layers)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @takes(
        values="float B T num_channels",
        coordinates="float B T num_coordinates",
        attention_mask="mask B T",
        mask="bool B T",
    )
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        values: Tensor,
        coordinates: Tensor,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        **kwargs: Any,
    ) -> MyMethodModelOutput:
        """Encode the visible tokens.

        Args:
            values: float (B, T, C). coordinates: float (B, T, P). attention_mask: bool (B, T), False at padding.
            mask: bool (B, T), True = hidden; default nothing.
            kwargs: passed to the attention.
        """
        valid = there(values, attention_mask)
        values, coordinates = (each.to(self.embed.weight.dtype) for each in (values, coordinates))
        mask = torch.zeros_like(valid) if mask is None else mask
        width = values.shape[1] if torch.compiler.is_compiling() else None
        kept = keep_visible(self.embed(values) + self.place(coordinates), mask, valid, num_visible=width)
        x = kept.tokens
        allowed: Any = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=kept.valid)
        for layer in self.layers:
            x = layer(x, allowed, **kwargs)
        x = self.layernorm(x)
        weights = kept.valid[:, :, None].to(x.dtype)
        pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        return MyMethodModelOutput(last_hidden_state=x, pooler_output=pooled, places=kept.places, valid=kept.valid)


class MyMethodForPreTraining(MyMethodPreTrainedModel):
    """Encoder, decoder and loss."""

    joint_loss = True

    def __init__(self, config: MyMethodConfig):
        super().__init__(config)
        self.mymethod = MyMethodModel(config)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.where = nn.Linear(config.num_coordinates, config.hidden_size)
        self.decoder = layers(MyMethodDecoderLayer, config, config.decoder_num_hidden_layers)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.num_channels)
        self.post_init()

    @takes(
        values="float B T num_channels",
        coordinates="float B T num_coordinates",
        attention_mask="mask B T",
        mask="bool B T",
        row_seed="int B",
    )
    @can_return_tuple
    def forward(
        self,
        values: Tensor,
        coordinates: Tensor,
        attention_mask: Tensor | None = None,
        mask: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MyMethodForPreTrainingOutput:
        """Hide tokens, predict them, take the loss on them.

        Args:
            values: float (B, T, C). coordinates: float (B, T, P). attention_mask: bool (B, T), False at padding.
            mask: bool (B, T), True = hidden; drawn when absent: from `row_seed` int64 (B,), else from `generator`.
            return_loss: whether to compute the loss.
            kwargs: passed to the attention.
        """
        valid = there(values, attention_mask)
        if mask is None:
            ratio = self.config.mask_ratio
            source: dict[str, Any] = {"row_seed": row_seed, "generator": generator}
            mask = random_mask(valid.shape, ratio, valid=valid, min_visible=1, **source)
        mask = mask & valid
        encoded = self.mymethod(values, coordinates, valid, mask, return_dict=True, **kwargs)
        predictions = self._decode(encoded, coordinates, valid)
        losses = {"hidden": masked_mean(token_mse(predictions, values), mask)} if return_loss else None
        return MyMethodForPreTrainingOutput(
            loss=weighted_sum(losses, self.config.loss_weights) if losses is not None else None,
            losses=losses,
            mask=mask,
            scored=mask,
            predictions=predictions,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _decode(self, encoded: MyMethodModelOutput, coordinates: Tensor, valid: Tensor) -> Tensor:
        kept = Kept(encoded.last_hidden_state, encoded.places, encoded.valid)
        x = restore(kept, self.mask_token, valid.shape[1]) + self.where(coordinates.to(self.where.weight.dtype))
        allowed: Any = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=valid)
        for layer in self.decoder:
            x = layer(x, allowed)
        return self.head(self.norm(x)).masked_fill(~valid[:, :, None], 0)


def there(values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return which tokens exist, bool (B, T)."""
    if attention_mask is None:
        return torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return attention_mask.bool()
