"""MultiMAE (Bachmann et al., ECCV 2022, arXiv:2204.01678): one encoder for all modalities, one decoder for each task.

Only visible patches enter the encoder; a budget of them is shared between the modalities. Each decoder attends from the
patches of its own modality to all that was seen, so that any modality is predicted from any others.

Shapes: B rows, M modalities, N patches of a picture, T = N times the modalities given, V visible ones, G global tokens,
D channels. Masks, `scored`, `valid` and predictions are dicts by modality or task.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hub_mim.blocks import Attention, Block, Mlp, attention_only, build_blocks, init_linear_norm
from hub_mim.checking import check_tensors, takes
from hub_mim.losses import weighted_sum
from hub_mim.masking import Kept, dirichlet, keep_visible, noise, stream_masks, take
from hub_mim_multimae.augmentation import augment
from hub_mim_multimae.configuration_multimae import MultiMAEConfig, Schema
from hub_mim_multimae.embeddings import Grid, MultiMAEAdapter, Positions, read_maps
from hub_mim_multimae.objectives import balance, task_losses

Masks = dict[str, Tensor]


class Layout(NamedTuple):
    """Where the encoder's tokens come from.

    names: modalities, in order. grid: of patches. places: int64 (B, V), of each packed token among all T.
    valid: bool (B, V), False at padding; None where no row is padded.
    """

    names: tuple[str, ...]
    grid: Grid
    places: Tensor
    valid: Tensor | None

    @property
    def patches(self) -> int:
        """Patches of one modality."""
        return self.grid[0] * self.grid[1]


@dataclass
class MultiMAEModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: (B, V + G, D): visible patches, modality by modality, then the global tokens.
    pooler_output: (B, D), the mean over all of these.
    places: int64 (B, V), the number of each patch among all patches of all given modalities.
    valid: bool (B, V + G), False at padding.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    places: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MultiMAEForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: unweighted scalars by task; with uncertainty balancing "x_balance" beside "x".
    mask, valid: bool (B, N) by modality: hidden, there at all. scored: bool (B, N) by task.
    predictions: by task (B, N, values of a patch, channel first); for classes logits (B, N, K * p * p).
    last_hidden_state: of the encoder.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: dict[str, Tensor] | None = None
    scored: dict[str, Tensor] | None = None
    valid: dict[str, Tensor] | None = None
    predictions: dict[str, Tensor] | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class MultiMAELayer(Block):
    """A block of the encoder."""


class MultiMAEDecoderLayer(Block):
    """A block of a decoder."""


class MultiMAEPreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, what transformers may do with them."""

    config: MultiMAEConfig
    base_model_prefix = "multimae"
    model_tags = ["hub-mim", "multimae"]
    main_input_name = "rgb"
    input_modalities = "image"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MultiMAELayer", "MultiMAEDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": MultiMAELayer, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"^decoders\.", r"^log_variances"]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the maps that forward takes."""
        return tuple(self.config.names)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        init_linear_norm(module)
        spread = self.config.initializer_range
        if isinstance(module, Positions):
            module.reset()
        elif isinstance(module, MultiMAEAdapter | MultiMAEDecoder):
            module.reset(spread)
        elif isinstance(module, MultiMAEModel):
            init.trunc_normal_(module.global_tokens, std=spread)
        elif isinstance(module, MultiMAEForPreTraining) and module.log_variances is not None:
            init.zeros_(module.log_variances)


class MultiMAEModel(MultiMAEPreTrainedModel):
    """The encoder: every patch that is there is visible unless a mask says otherwise."""

    def __init__(self, config: MultiMAEConfig):
        super().__init__(config)
        self.schema = Schema(config)
        self.adapters = nn.ModuleDict({name: MultiMAEAdapter(config, name) for name in config.names})
        self.global_tokens = nn.Parameter(torch.empty(1, config.num_global_tokens, config.hidden_size))
        self.layers = build_blocks(
            MultiMAELayer,
            config,
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            layer_norm_eps=config.layer_norm_eps,
            act=config.hidden_act,
            dropout=config.hidden_dropout_prob,
            drop_path=config.drop_path_rate,
        )
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def trailing_tokens(self) -> int:
        """How many tokens come behind the patches: the global ones."""
        return self.config.num_global_tokens

    def get_input_embeddings(self) -> nn.Module:
        """Return the projections of the modalities."""
        return self.adapters

    @takes(mask="bool B N", present="any ...", num_visible=">=0")
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        rgb: Tensor | None = None,
        mask: Masks | None = None,
        present: Tensor | None = None,
        num_visible: int | None = None,
        **kwargs: Any,
    ) -> MultiMAEModelOutput:
        """Encode the visible patches of each row.

        Args:
            rgb and others: the modalities by name, any of them: float (B, C, H, W) as the processor scales them, uint8 ones
                are normalised here; class numbers int64 (B, H, W), each of them `stride` times smaller than the picture.
            mask: bool (B, N) by modality, True = hidden; default nothing.
            present: bool (B, M), which modalities of the configuration each row has; default all that are given.
            num_visible: visible patches of every row, where they are known to be so many.
            kwargs: modalities, and what is passed to the attention.
        Returns:
            `MultiMAEModelOutput`.
        Raises:
            ValueError: no or unknown modalities, wrong shapes or sizes; see `embeddings.read_maps`.
        """
        maps, grid, kwargs = self.read(rgb, kwargs)
        hidden, valid = join(maps, mask, present, grid, self.schema)
        kept = self._embed(maps, hidden, valid, num_visible)
        padded = num_visible is None and not (mask is None and present is None)
        x = torch.cat([kept.tokens, self.global_tokens.expand(len(hidden), -1, -1).to(kept.tokens.dtype)], 1)
        whole = torch.cat([kept.valid, kept.valid.new_ones(len(x), self.config.num_global_tokens)], 1)
        attention_mask = create_bidirectional_mask(self.config, x, whole) if padded else None
        for layer in self.layers:
            x = layer(x, attention_mask, **kwargs)
        weights = whole[..., None].to(x.dtype)
        pooled = (x * weights).sum(1) / weights.sum(1)
        return MultiMAEModelOutput(last_hidden_state=x, pooler_output=pooled, places=kept.places, valid=whole)

    def _embed(self, maps: Mapping[str, Tensor], hidden: Tensor, valid: Tensor | None, num_visible: int | None) -> Kept:
        """Return the visible patches of each row, packed to the left; hidden ones are not embedded at all."""
        if torch.compiler.is_compiling():
            # the widest row cannot be looked up; padding to all patches changes nothing
            tokens = torch.cat([self.adapters[name](values) for name, values in maps.items()], 1)
            return keep_visible(tokens, hidden, valid, tokens.shape[1] if num_visible is None else num_visible)
        numbers = torch.arange(hidden.shape[1], device=hidden.device)[None, :, None].expand(*hidden.shape, 1)
        kept = keep_visible(numbers, hidden, valid, num_visible)
        count, x = hidden.shape[1] // len(maps), None
        for place, (name, values) in enumerate(maps.items()):
            rows, slots = ((kept.places // count == place) & kept.valid).nonzero(as_tuple=True)
            tokens = self.adapters[name](values, (rows, kept.places[rows, slots] % count))
            x = tokens.new_zeros(*kept.places.shape, tokens.shape[-1]) if x is None else x
            x = x.index_put((rows, slots), tokens.to(x.dtype))
        return Kept(x, kept.places, kept.valid)

    def read(self, rgb: Tensor | None, kwargs: dict[str, Any]) -> tuple[dict[str, Tensor], Grid, dict[str, Any]]:
        """Part arguments into modalities, with their grid, and what is left."""
        kwargs = {
            name: value for name, value in kwargs.items() if name != "num_items_in_batch"
        }  # of transformers' Trainer
        given = {name: kwargs[name] for name in kwargs if name in self.schema.names}
        given |= {name: value for name, value in kwargs.items() if isinstance(value, Tensor) and name not in given}
        if rgb is not None:
            given["rgb"] = rgb
        kinds = {name: _words(self.schema, name, value) for name, value in given.items() if name in self.schema.names}
        check_tensors(given, self, **kinds)
        maps, grid = read_maps(self.schema, given)
        return maps, grid, {name: value for name, value in kwargs.items() if name not in given}


def _words(schema: Schema, name: str, value: Any) -> str:
    """Return what a modality must be; 8-bit pictures are taken, too. Shapes and classes are told by `read_maps`."""
    whole = schema.modality(name).categorical or getattr(value, "dtype", None) == torch.uint8
    return "number filled B ..." if whole else "float filled B ..."


def join(
    maps: Mapping[str, Tensor], mask: Masks | None, present: Tensor | None, grid: Grid, config: Schema
) -> tuple[Tensor, Tensor | None]:
    """Return which of all patches are hidden, bool (B, T), and which are there at all, None where all are.

    Raises:
        ValueError: masks that name other modalities or have another shape.
    """
    first = next(iter(maps.values()))
    shape = len(first), grid[0] * grid[1]
    for name, each in (mask or {}).items():
        if name not in maps:
            raise ValueError(f"there is a mask for {name!r}, but given are {', '.join(maps)}")
        if tuple(each.shape) != shape:
            raise ValueError(f"the mask of {name} has the shape {tuple(each.shape)}; it must be {shape}")
    nothing = torch.zeros(shape, dtype=torch.bool, device=first.device)
    hidden = torch.cat([(mask or {}).get(name, nothing) for name in maps], 1)
    if present is None:
        return hidden, None
    return hidden, torch.cat([each.expand(shape) for each in there(present, maps, config).values()], 1)


def there(present: Tensor, maps: Mapping[str, Tensor], config: Schema) -> dict[str, Tensor]:
    """Return which rows have each of the modalities given, bool (B, 1) by name.

    Raises:
        ValueError: `present` has another shape than (B, M).
    """
    wanted = (len(next(iter(maps.values()))), len(config.names))
    if tuple(present.shape) != wanted:
        raise ValueError(
            f"present has the shape {tuple(present.shape)}; it must be {wanted}: the rows of {', '.join(maps)}, a column for "
            "each modality"
        )
    order = config.names
    return {name: present[:, order.index(name), None].bool() for name in maps}


class MultiMAEDecoder(nn.Module):
    """Predict one task for all patches of its modality: cross-attention to all that was seen, then blocks."""

    def __init__(self, config: MultiMAEConfig, task: str):
        super().__init__()
        self.config, self.target = config, config.targets[task]
        width, eps = config.decoder_hidden_size, config.layer_norm_eps
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = Positions(config, width, "bilinear")
        names = config.names if config.task_embeddings else ()
        self.task_embeddings = nn.ParameterDict({name: nn.Parameter(torch.empty(1, 1, width)) for name in names})
        self.context_embed = nn.Linear(config.hidden_size, width)
        self.context_norm, self.query_norm, self.out_norm = (nn.LayerNorm(width, eps=eps) for _ in range(3))
        self.cross_attention = Attention(config, width, config.decoder_num_attention_heads)
        self.mlp = Mlp(width, config.decoder_intermediate_size, act=config.hidden_act)
        self.blocks = build_blocks(
            MultiMAEDecoderLayer,
            config,
            config.decoder_num_hidden_layers,
            width,
            config.decoder_num_attention_heads,
            config.decoder_intermediate_size,
            layer_norm_eps=eps,
            act=config.hidden_act,
            dropout=config.hidden_dropout_prob,
        )
        modality, side = config.modality(self.target), config.patch_side(self.target)
        self.prediction = nn.Linear(width, modality.outputs * side * side)

    def reset(self, spread: float) -> None:
        """Fill learned tokens; the mask token starts at nothing, as the authors' does."""
        init.zeros_(self.mask_token)
        for token in self.task_embeddings.values():
            init.trunc_normal_(token, std=spread)

    def forward(self, encoded: Tensor, layout: Layout, **kwargs: Any) -> Tensor:
        """Map the encoder's tokens (B, V + G, D) to predictions (B, N, values of a patch)."""
        seen, positions = layout.places.shape[1], self.positions(layout.grid)
        context = self.context_embed(encoded)
        table = torch.cat([positions + self.task_embeddings.get(name, 0) for name in layout.names], 1).to(context.dtype)
        patches = context[:, :seen] + take(table.expand(len(context), -1, -1), layout.places)
        queries = self._queries(patches, table, positions, layout)
        context = torch.cat([patches, context[:, seen:]], 1)
        attention_mask = self._mask(queries, context, layout)
        x, _ = self.cross_attention(self.query_norm(queries), attention_mask, self.context_norm(context), **kwargs)
        x = x + self.mlp(self.out_norm(x))
        for block in self.blocks:
            x = block(x, None, **kwargs)
        return self.prediction(x)

    def _queries(self, patches: Tensor, table: Tensor, positions: Tensor, layout: Layout) -> Tensor:
        """Return what is known of each patch of the task's own modality: what was seen there, or the mask token."""
        count = layout.patches
        if self.target not in layout.names:
            alone = self.mask_token + positions + self.task_embeddings.get(self.target, 0)
            return alone.to(patches.dtype).expand(len(patches), -1, -1)
        start = layout.names.index(self.target) * count
        own = slice(start, start + count)
        valid = layout.valid if layout.valid is not None else torch.ones_like(layout.places, dtype=torch.bool)
        inside = (layout.places >= start) & (layout.places < start + count) & valid
        # what lies elsewhere is written behind the end and cut off
        places = torch.where(inside, layout.places - start, count)
        fill = self.mask_token + table[:, own]
        source = places.new_full((len(places), count + 1), -1)
        source = source.scatter(1, places, torch.arange(places.shape[1], device=places.device).expand_as(places))[
            :, :count
        ]
        return torch.where((source >= 0)[:, :, None], take(patches, source.clamp(min=0)), fill.to(patches.dtype))

    def _mask(self, queries: Tensor, context: Tensor, layout: Layout) -> Any:
        if layout.valid is None:
            return None
        whole = torch.cat(
            [layout.valid, layout.valid.new_ones(len(context), context.shape[1] - layout.valid.shape[1])], 1
        )
        return create_bidirectional_mask(self.config, queries, whole, encoder_hidden_states=context)


class MultiMAEForPreTraining(MultiMAEPreTrainedModel):
    """Encoder, a decoder for each task, losses on hidden patches; also what predicts one modality from others."""

    joint_loss = True

    def __init__(self, config: MultiMAEConfig):
        super().__init__(config)
        self.multimae = MultiMAEModel(config)
        self.decoders = nn.ModuleDict({task: MultiMAEDecoder(config, task) for task in config.targets})
        balanced = config.task_balancer == "uncertainty"
        self.log_variances = nn.Parameter(torch.empty(len(config.targets))) if balanced else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the projections of the modalities."""
        return self.multimae.adapters

    @takes(mask="bool B N", present="any ...", shares="float >=0 B *", row_seed="int B")
    @can_return_tuple
    def forward(
        self,
        rgb: Tensor | None = None,
        mask: Masks | None = None,
        present: Tensor | None = None,
        shares: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> MultiMAEForPreTrainingOutput:
        """Hide patches of every modality, encode the others, predict every task, take the losses on what was hidden.

        Args:
            rgb and others: the modalities by name; see `MultiMAEModel.forward`. A task whose modality is not given is
                predicted as well, without a loss.
            mask: bool (B, N) by modality, True = hidden (missing: nothing hidden); drawn when absent.
            present: bool (B, M), which modalities each row has.
            shares: of the visible patches for each given modality (B, given), summing to 1; drawn when absent.
            row_seed: int64 (B,), decides each row's mask.
            generator: decides the masks where there is no `row_seed`.
            return_loss: whether to compute the losses.
            kwargs: modalities, and what is passed to the attention.
        Returns:
            `MultiMAEForPreTrainingOutput`.
        Source: section 3 of the paper.
        """
        maps, grid, kwargs = self.multimae.read(rgb, kwargs)
        known = None
        if mask is None:
            source: dict[str, Any] = {"row_seed": row_seed, "generator": generator}
            maps = self._augmented(maps, source)
            mask = self.draw_mask(maps, grid, present=present, shares=shares, **source)
            known = min(self.config.num_visible, len(maps) * grid[0] * grid[1]) if present is None else None
        empty = torch.zeros(len(next(iter(maps.values()))), grid[0] * grid[1], dtype=torch.bool, device=self.device)
        mask = {name: mask.get(name, empty) for name in maps} | {name: mask[name] for name in mask if name not in maps}
        encoded = self.multimae(mask=mask, present=present, num_visible=known, return_dict=True, **maps, **kwargs)
        places = encoded.places
        valid = None if known is not None else encoded.valid[:, : places.shape[1]]
        layout = Layout(tuple(maps), grid, places, valid)
        options = attention_only(kwargs)
        predictions = {
            task: decoder(encoded.last_hidden_state, layout, **options) for task, decoder in self.decoders.items()
        }
        here = {name: torch.ones_like(empty) for name in maps}
        if present is not None:
            here = {name: each.expand_as(empty) for name, each in there(present, maps, self.multimae.schema).items()}
        scored = {
            task: mask[target] & here[target] for task, target in self.multimae.schema.targets.items() if target in maps
        }
        losses = self._losses(predictions, maps, scored) if return_loss else None
        return MultiMAEForPreTrainingOutput(
            loss=None if losses is None else self._total(losses, predictions, maps),
            losses=losses,
            mask={name: mask[name] & here[name] for name in maps},
            scored=scored,
            valid=here,
            predictions=predictions,
            last_hidden_state=encoded.last_hidden_state,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
        )

    def _augmented(self, maps: dict[str, Tensor], source: dict[str, Any]) -> dict[str, Tensor]:
        """Crop and flip in training, where the configuration says so; a mask given by hand is of the maps as they are."""
        config = self.config
        if not self.training or (config.crop_scale == [1.0, 1.0] and config.flip_share == 0):
            return maps
        scale, ratio = tuple(config.crop_scale), tuple(config.crop_ratio)
        ratio = ratio if scale != (1.0, 1.0) else (1.0, 1.0)
        return augment(self.multimae.schema, maps, scale=scale, ratio=ratio, flip=config.flip_share, **source)

    def draw_mask(
        self,
        maps: Mapping[str, Tensor],
        grid: Grid,
        *,
        present: Tensor | None = None,
        shares: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Masks:
        """Draw which patches to hide: `num_visible` over all modalities stay, shared out by a Dirichlet draw for each row.

        Args:
            maps: the modalities given. grid: of patches.
            present, shares, row_seed, generator: see `forward`.
        Returns:
            Bool (B, N) by modality, True = hidden; a patch that a row does not have is not hidden.
        """
        first = next(iter(maps.values()))
        source: dict[str, Any] = {"row_seed": row_seed, "generator": generator}
        count, batch = grid[0] * grid[1], len(first)
        valid = None
        if present is not None:
            valid = {
                name: each.expand(batch, count) for name, each in there(present, maps, self.multimae.schema).items()
            }
        alphas = {name: self.config.alphas.get(name, 1.0) for name in maps}
        if shares is None and self.config.sample_tasks_uniformly:
            shares = self._uniform_shares(alphas, batch, source, first.device)
        return stream_masks(
            dict.fromkeys(maps, count),
            min(self.config.num_visible, count * len(maps)),
            alphas,
            batch=batch,
            shares=shares,
            valid=valid,
            device=first.device,
            **source,
        )

    def _uniform_shares(
        self, alphas: Mapping[str, float], batch: int, source: dict[str, Any], device: torch.device
    ) -> Tensor:
        """Draw a subset of the modalities for each row, none of them empty and each alike, and shares within it."""
        draw = noise((batch, 1), stream=101, device=device, **source)[:, 0].cpu()
        chosen = 1 + (draw.double() * (2 ** len(alphas) - 1)).long().clamp(max=2 ** len(alphas) - 2)
        picked = torch.stack([(chosen >> place) & 1 for place in range(len(alphas))], 1)
        weights = picked * torch.tensor(list(alphas.values()), dtype=torch.float64) + 1e-5
        return dirichlet(weights, batch, **source).to(device)

    def _losses(self, predictions: Masks, maps: Mapping[str, Tensor], scored: Masks) -> dict[str, Tensor]:
        losses = task_losses(self.multimae.schema, predictions, maps, scored)
        if self.log_variances is not None:
            variances = dict(zip(self.multimae.schema.targets, self.log_variances, strict=True))
            losses |= balance(losses, variances, self.config.loss_weights)
        return losses

    def _total(self, losses: dict[str, Tensor], predictions: Masks, maps: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum, with what this batch had no use for joined by a weight of 0."""
        weights = {name: weight for name, weight in self.config.loss_weights.items() if name in losses}
        total = weighted_sum(losses, weights) if losses else next(iter(predictions.values())).new_zeros(())
        absent = [name for name in self.multimae.schema.names if name not in maps]
        if not absent or not self.training:
            return total
        idle: list[Tensor] = [weight for name in absent for weight in self.multimae.adapters[name].parameters()]
        for task, decoder in self.decoders.items():
            embeddings: Any = decoder.task_embeddings
            idle += [embeddings[name] for name in absent if name in embeddings]
            idle += [predictions[task]] if task not in losses else []
        idle += [] if self.log_variances is None else [self.log_variances]
        return total + 0.0 * sum(each.float().sum() for each in idle if each.requires_grad)
