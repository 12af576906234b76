"""MW-MAE (Yadav et al., ICLR 2024, arXiv:2306.00561): hide four fifths of a spectrogram's patches and predict them.

Only visible patches enter the encoder; the decoder's heads attend within windows of different sizes, from two patches to
all of them.

Shapes: B rows, T frames, F bins, U units of `spectrogram_size` in the longest row, N patches of a unit (time by time,
index t * F' + f), V visible ones, D channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hub_mim.blocks import Attention, attention_only, init_linear_norm
from hub_mim.checking import takes
from hub_mim.losses import masked_mean, token_mse, weighted_sum
from hub_mim.masking import Kept, hide_highest, keep_visible, noise, restore
from hub_mim.patches import patchify, sincos_1d, sincos_2d
from hub_mim_mwmae.configuration_mwmae import MwMaeConfig
from hub_mim_mwmae.windows import BiasTables, WindowBlock

CROP = 107  # stream of the row's noise that says where training cuts a unit out of a longer clip


@dataclass
class MwMaeModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: (B, U * N, D), or of one masked unit the class token, if any, and the visible patches (B, 1 + V, D).
    pooler_output: (B, F' * D), the scene: the mean over time of the patches of a time step side by side.
    frame_embeddings: (B, U * T', F' * D), one for each time step (40 ms in the release).
    places, valid: int64, bool (B, V), of one masked unit: which patches are visible; without a mask valid is bool (B, U * N),
        False at patches behind the end of a row.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    frame_embeddings: Tensor | None = None
    places: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MwMaeForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: named unweighted scalars. mask, scored: bool (B, N), hidden. predictions: (B, N, values of a patch).
    last_hidden_state: of the encoder.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: Tensor | None = None
    scored: Tensor | None = None
    predictions: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MwMaeLayer(WindowBlock):
    """A block of the encoder."""


class MwMaeDecoderLayer(WindowBlock):
    """A block of the decoder."""


class MwMaeEmbeddings(nn.Module):
    """Cut a unit into patches, project them, add learned positions (sines and cosines at first)."""

    def __init__(self, config: MwMaeConfig):
        super().__init__()
        self.config = config
        self.patch_projection = nn.Conv2d(1, config.hidden_size, tuple(config.patch_size), tuple(config.patch_size))
        self.positions = nn.Parameter(torch.empty(config.num_patches + config.num_extra, config.hidden_size))
        if config.use_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.hidden_size))

    def reset(self, spread: float) -> None:
        """Fill parameters."""
        weight, config = self.patch_projection.weight, self.config
        # flax counts the receptive field for both fans of a convolution
        bound = (6 / (weight[0, 0].numel() * (1 + weight.shape[0]))) ** 0.5
        init.uniform_(weight, -bound, bound)
        if self.patch_projection.bias is not None:
            init.zeros_(self.patch_projection.bias)
        # the first half of the channels tells the frequency
        table = sincos_2d(config.grid, config.hidden_size, first="column")
        init.copy_(self.positions, pad(table, (0, 0, config.num_extra, 0)).to(self.positions))
        if config.use_cls_token:
            init.normal_(self.cls_token, std=spread)

    def forward(self, units: Tensor) -> Tensor:
        """Map units (B, T, F) to tokens with positions (B, N, D)."""
        tokens = self.patch_projection(units[:, None].to(self.patch_projection.weight.dtype)).flatten(2).transpose(1, 2)
        return tokens + self.positions[self.config.num_extra :]

    def first(self, rows: int) -> Tensor:
        """Return the tokens before the patches (B, 1 or 0, D)."""
        if not self.config.use_cls_token:
            return self.positions.new_zeros(rows, 0, self.positions.shape[1])
        return (self.cls_token + self.positions[:1]).expand(rows, -1, -1)


class MwMaePreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, what transformers may do with them."""

    config: MwMaeConfig
    base_model_prefix = "mwmae"
    model_tags = ["hub-mim", "mwmae"]
    main_input_name = "input_values"
    input_modalities = "audio"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MwMaeLayer", "MwMaeDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MwMaeLayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_linear_norm(module)
        if isinstance(module, MwMaeEmbeddings | MwMaeDecoder):
            module.reset(self.config.initializer_range)
        elif isinstance(module, BiasTables):
            module.reset()


class MwMaeModel(MwMaePreTrainedModel):
    """The encoder: everything is visible unless a mask says otherwise."""

    def __init__(self, config: MwMaeConfig):
        super().__init__(config)
        self.embeddings = MwMaeEmbeddings(config)
        self.layers = nn.ModuleList(
            MwMaeLayer(
                config,
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                windows=config.window_sizes,
                shifted=config.shift_windows and number % 2 == 1,
                layer_norm_eps=config.layer_norm_eps,
                act=config.hidden_act,
                dropout=config.hidden_dropout_prob,
            )
            for number in range(config.num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of the patches."""
        return self.embeddings.patch_projection

    @takes(input_values="float B ...", num_frames="int >=0 B", mask="bool B num_patches")
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self, input_values: Tensor, num_frames: Tensor | None = None, mask: Tensor | None = None, **kwargs: Any
    ) -> MwMaeModelOutput:
        """Encode spectrograms.

        Args:
            input_values: float (B, T, F), T a multiple of a unit's frames; longer ones are encoded unit by unit.
            num_frames: int64 (B,), frames of each row that are no padding; default all.
            mask: bool (B, N), True = hidden; for single units, which hide equally many patches. Default nothing.
            kwargs: passed to the attention.
        Returns:
            `MwMaeModelOutput`.
        Raises:
            ValueError: a length or a number of bins that does not fit.
        """
        units, count = as_units(self.config, input_values)
        tokens, width = self.embeddings(units), self.config.num_patches
        if mask is not None:
            if count > 1:
                raise ValueError(
                    f"a mask is for single units of {self.config.spectrogram_size[0]} frames; {count} were given"
                )
            kept = keep_visible(tokens, mask, num_visible=visible_of(self.config, mask))
            tokens = kept.tokens
        x = torch.cat([self.embeddings.first(len(units)).to(tokens.dtype), tokens], 1)
        for layer in self.layers:
            x = layer(x, None, **kwargs)
        x = self.layernorm(x)
        if mask is not None:
            return MwMaeModelOutput(last_hidden_state=x, pooler_output=x.mean(1), places=kept.places, valid=kept.valid)
        patches = x[:, self.config.num_extra :].reshape(len(input_values), count * width, -1)
        valid = self._valid(input_values, num_frames)
        frames = patches.unflatten(1, (-1, self.config.grid[1])).flatten(2)
        steps = valid[:, :: self.config.grid[1], None].to(frames.dtype)
        return MwMaeModelOutput(
            last_hidden_state=patches,
            pooler_output=(frames * steps).sum(1) / steps.sum(1).clamp(min=1),
            frame_embeddings=frames,
            valid=valid,
        )

    def _valid(self, input_values: Tensor, num_frames: Tensor | None) -> Tensor:
        """Return which patches are no padding (B, U * N); the last time step counts by the authors' rule, rounded up."""
        high, wide = self.config.patch_size[0], self.config.grid[1]
        rows, frames = input_values.shape[:2]
        steps = torch.full((rows,), frames // high, device=input_values.device)
        if num_frames is not None:
            steps = steps - ((frames - num_frames) // high)
        inside = torch.arange(frames // high, device=input_values.device) < steps[:, None]
        return inside.repeat_interleave(wide, 1)


def as_units(config: MwMaeConfig, input_values: Tensor) -> tuple[Tensor, int]:
    """Cut spectrograms (B, U * T, F) into units (B * U, T, F); returns them and U.

    Raises:
        ValueError: the shape does not fit.
    """
    frames, bins = config.spectrogram_size
    if (
        input_values.dim() != 3
        or input_values.shape[2] != bins
        or not input_values.shape[1]
        or input_values.shape[1] % frames
    ):
        raise ValueError(
            f"input_values has the shape {tuple(input_values.shape)}; it must be (rows, a multiple of {frames} frames, "
            f"{bins} bins)"
        )
    count = input_values.shape[1] // frames
    return input_values.reshape(-1, frames, bins), count


def visible_of(config: MwMaeConfig, mask: Tensor) -> int:
    """Return how many patches stay visible in each row, one at least (where all are hidden it holds nothing).

    Raises:
        ValueError: rows hide different numbers of patches, which windows do not allow.
    """
    if torch.compiler.is_compiling():
        return config.num_visible
    fewest, most = (int(each) for each in (~mask).sum(1).aminmax())
    if fewest != most:
        raise ValueError(
            f"the rows of a mask leave {fewest} to {most} patches visible; each must leave the same number"
        )
    return max(1, most)


class MwMaeDecoder(nn.Module):
    """Put mask tokens where nothing was visible and predict every patch."""

    def __init__(self, config: MwMaeConfig):
        super().__init__()
        self.config = config
        width, rows = config.decoder_hidden_size, config.num_patches + config.num_extra
        self.embed = nn.Linear(config.hidden_size, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(rows, width))
        self.layers = nn.ModuleList(
            MwMaeDecoderLayer(
                config,
                width,
                config.decoder_num_attention_heads,
                config.decoder_intermediate_size,
                windows=config.decoder_window_sizes,
                shifted=config.shift_windows and number % 2 == 1,
                layer_norm_eps=config.layer_norm_eps,
                act=config.hidden_act,
                dropout=config.hidden_dropout_prob,
            )
            for number in range(config.decoder_num_hidden_layers)
        )
        self.layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.prediction = nn.Linear(width, config.patch_size[0] * config.patch_size[1])

    def reset(self, spread: float) -> None:
        """Fill parameters; the two linear layers beside the blocks as flax fills a layer (LeCun normal)."""
        init.normal_(self.mask_token, std=spread)
        table = sincos_1d(torch.arange(self.config.num_patches), self.config.decoder_hidden_size)
        init.copy_(self.positions, pad(table, (0, 0, self.config.num_extra, 0)).to(self.positions))
        for layer in (self.embed, self.prediction):
            init.trunc_normal_(layer.weight, std=layer.in_features**-0.5 / 0.87962566103423978)

    def forward(self, hidden: Tensor, places: Tensor, valid: Tensor, **kwargs: Any) -> Tensor:
        """Map the encoder's tokens (B, 1 + V, D), whose patches are at `places`, to predictions (B, N, values)."""
        x, extra = self.embed(hidden), self.config.num_extra
        cells = restore(Kept(x[:, extra:], places, valid), self.mask_token, self.config.num_patches)
        x = torch.cat([x[:, :extra], cells], 1) + self.positions
        for layer in self.layers:
            x = layer(x, None, **kwargs)
        return self.prediction(self.layernorm(x)[:, extra:])


class MwMaeForPreTraining(MwMaePreTrainedModel):
    """Encoder, decoder and the loss on hidden patches."""

    joint_loss = True

    def __init__(self, config: MwMaeConfig):
        super().__init__(config)
        self.mwmae = MwMaeModel(config)
        self.decoder = MwMaeDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of the patches."""
        return self.mwmae.embeddings.patch_projection

    @takes(input_values="float B ...", num_frames="int >=0 B", mask="bool B num_patches", row_seed="int B")
    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        num_frames: Tensor | None = None,
        mask: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MwMaeForPreTrainingOutput:
        """Hide patches of a unit, encode the others, predict all, take the loss on the hidden ones.

        Args:
            input_values: float (B, T, F), see `MwMaeModel.forward`; of longer rows a unit is cut out, where by `row_seed`.
            num_frames: int64 (B,), frames of each row that are no padding.
            mask: bool (B, N), True = hidden, equally many in each row; drawn when absent.
            row_seed: int64 (B,), decides each row's mask. generator: decides where there is no `row_seed`.
            return_loss: whether to compute the loss.
            kwargs: passed to the attention.
        Returns:
            `MwMaeForPreTrainingOutput`; the loss is the mean over all hidden patches of the batch.
        Source: section 3.2 of the paper.
        """
        source: dict[str, Any] = {"row_seed": row_seed, "generator": generator}
        units = self._cut(input_values, num_frames, source)
        config = self.config
        if mask is None:
            scores = noise((len(units), config.num_patches), device=units.device, **source)
            mask = hide_highest(scores, config.num_patches - config.num_visible)
        encoded = self.mwmae(units, mask=mask, return_dict=True, **kwargs)
        options = attention_only(kwargs)
        predictions = self.decoder(encoded.last_hidden_state, encoded.places, encoded.valid, **options)
        losses = None
        if return_loss:
            error = token_mse(predictions.float(), target_patches(config, units).float())
            losses = {"spectrogram": masked_mean(error, mask)}
        return MwMaeForPreTrainingOutput(
            loss=None if losses is None else weighted_sum(losses, config.loss_weights),
            losses=losses,
            mask=mask,
            scored=mask,
            predictions=predictions,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _cut(self, input_values: Tensor, num_frames: Tensor | None, source: dict[str, Any]) -> Tensor:
        """Return one unit of each row (B, T, F), at a random place of its own frames where it is longer."""
        _, count = as_units(self.config, input_values)
        if count == 1:
            return input_values
        frames, rows = self.config.spectrogram_size[0], len(input_values)
        own = (
            torch.full((rows,), input_values.shape[1], device=input_values.device) if num_frames is None else num_frames
        )
        draw = noise((rows, 1), stream=CROP, device=input_values.device, **source)[:, 0]
        start = (draw * (own - frames).clamp(min=0)).long()
        places = start[:, None] + torch.arange(frames, device=input_values.device)
        return input_values.gather(1, places[..., None].expand(-1, -1, input_values.shape[2]))


def target_patches(config: MwMaeConfig, units: Tensor) -> Tensor:
    """Return the patches of units (B, T, F) as (B, N, values), frame by frame within a patch.

    With `norm_patch_loss` each is standardised by its mean and population variance, as the authors do.
    """
    patches = patchify(units[:, None], (config.patch_size[0], config.patch_size[1]))
    if not config.norm_patch_loss:
        return patches
    variance, mean = torch.var_mean(patches, dim=-1, correction=0, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class MwMaeForAudioClassification(MwMaePreTrainedModel):
    """Name the class of a clip from its scene embedding."""

    def __init__(self, config: MwMaeConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.mwmae = MwMaeModel(config)
        self.norm = nn.LayerNorm(config.hidden_size * config.grid[1], eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size * config.grid[1], config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projection of the patches."""
        return self.mwmae.embeddings.patch_projection

    @can_return_tuple
    def forward(
        self,
        input_values: Tensor,
        num_frames: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (B, labels), and the loss where there are labels int64 (B,), or float (B, labels) of several classes.

        Args:
            input_values, num_frames: see `MwMaeModel.forward`.
        """
        out = self.mwmae(input_values, num_frames=num_frames, return_dict=True, **kwargs)
        logits = self.classifier(self.norm(out.pooler_output))
        loss = None
        if labels is not None and labels.is_floating_point():
            loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
        elif labels is not None:
            loss = cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=out.hidden_states, attentions=out.attentions
        )
