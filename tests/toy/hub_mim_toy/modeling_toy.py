"""The toy: embed visible vectors, encode them, put mask tokens in between, predict the hidden ones."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hub_mim.blocks import Attention, Block, init_linear_norm
from hub_mim.checking import takes
from hub_mim.losses import masked_mean, token_l1, token_mse, weighted_sum
from hub_mim.masking import Kept, keep_visible, random_mask, restore
from hub_mim.patches import sincos_1d
from hub_mim_toy.configuration_toy import ToyMimConfig


@dataclass
class ToyMimModelOutput(ModelOutput):
    """last_hidden_state (B, V, D), pooler_output (B, D), places int64 (B, V), valid bool (B, V)."""

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    places: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class ToyMimForPreTrainingOutput(ModelOutput):
    """See the contract of a pre-training model; predictions (B, T, C)."""

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    predictions: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class ToyMimLayer(Block):
    """A block of the encoder."""


class ToyMimPreTrainedModel(PreTrainedModel):
    """What both models share."""

    config: ToyMimConfig
    base_model_prefix = "toy"
    model_tags = ["hub-mim", "toy"]
    main_input_name = "values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ToyMimLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": ToyMimLayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^mask_token", r"^classifier\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_linear_norm(module)
        if isinstance(module, ToyMimModel):
            table = sincos_1d(torch.arange(self.config.num_tokens), self.config.hidden_size)
            init.copy_(module.positions, table.to(module.positions))
        if isinstance(module, ToyMimForPreTraining):
            init.normal_(module.mask_token, std=self.config.initializer_range)


class ToyMimModel(ToyMimPreTrainedModel):
    """The encoder."""

    def __init__(self, config: ToyMimConfig):
        super().__init__(config)
        self.embed = nn.Linear(config.num_channels, config.hidden_size)
        self.register_buffer("positions", torch.empty(config.num_tokens, config.hidden_size), persistent=False)
        self.layers = nn.ModuleList(
            ToyMimLayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                layer_norm_eps=config.layer_norm_eps,
                dropout=config.dropout,
            )
            for _ in range(config.num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that takes the vectors."""
        return self.embed

    @takes(values="float B num_tokens num_channels", mask="bool B num_tokens")
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, values: Tensor, mask: Tensor | None = None, **kwargs: Any) -> ToyMimModelOutput:
        """Encode the visible vectors: values (B, T, C), mask bool (B, T), True = hidden."""
        values = values.to(self.embed.weight.dtype)
        mask = torch.zeros(values.shape[:2], dtype=torch.bool, device=values.device) if mask is None else mask
        width = values.shape[1] if torch.compiler.is_compiling() else None
        kept = keep_visible(self.embed(values) + self.positions, mask, num_visible=width)
        x = kept.tokens
        attention_mask: Any = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=kept.valid)
        for layer in self.layers:
            x = layer(x, attention_mask, **kwargs)
        x = self.layernorm(x)
        weights = kept.valid[:, :, None].to(x.dtype)
        pooled = (x * weights).sum(1) / weights.sum(1).clamp(min=1)
        return ToyMimModelOutput(last_hidden_state=x, pooler_output=pooled, places=kept.places, valid=kept.valid)


class ToyMimForPreTraining(ToyMimPreTrainedModel):
    """Encoder, a linear decoder, two losses on the hidden vectors."""

    joint_loss = True

    def __init__(self, config: ToyMimConfig):
        super().__init__(config)
        self.toy = ToyMimModel(config)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))
        self.decoder = nn.Sequential(
            nn.Linear(2 * config.hidden_size, config.intermediate_size),
            nn.GELU(),
            nn.Linear(config.intermediate_size, config.num_channels),
        )
        self.post_init()

    @takes(values="float B num_tokens num_channels", mask="bool B num_tokens", row_seed="int B")
    @can_return_tuple
    def forward(
        self,
        values: Tensor,
        mask: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> ToyMimForPreTrainingOutput:
        """Predict the hidden vectors of values (B, T, C)."""
        if mask is None:
            mask = random_mask(
                values.shape[:2], self.config.mask_ratio, row_seed=row_seed, generator=generator, device=values.device
            )
        encoded = self.toy(values, mask, return_dict=True, **kwargs)
        kept = Kept(encoded.last_hidden_state, encoded.places, encoded.valid)
        whole = restore(kept, self.mask_token, values.shape[1]) + self.toy.positions
        pooled = encoded.pooler_output[:, None].expand_as(whole)
        predictions = self.decoder(torch.cat([whole, pooled], -1))
        losses = None
        if return_loss:
            losses = {
                "hidden": masked_mean(token_mse(predictions, values), mask),
                "absolute": masked_mean(token_l1(predictions, values), mask),
            }
        return ToyMimForPreTrainingOutput(
            loss=weighted_sum(losses, self.config.loss_weights) if losses else None,
            losses=losses,
            mask=mask,
            scored=mask,
            predictions=predictions,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )


class ToyMimForSequenceClassification(ToyMimPreTrainedModel):
    """Encoder and a linear head on its pooled output."""

    def __init__(self, config: ToyMimConfig):
        super().__init__(config)
        self.toy = ToyMimModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @takes(labels="int >=0 <num_labels B")
    @can_return_tuple
    def forward(self, values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> SequenceClassifierOutput:
        """Name the class: values (B, T, C), labels int64 (B,)."""
        logits = self.classifier(self.toy(values, **kwargs).pooler_output)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)
