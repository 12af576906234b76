"""UNITER (Chen et al., ECCV 2020, arXiv:1909.11740): words and regions in one Transformer.

Text and regions are two padded blocks, which gives what the authors' packed layout gives. Layers are transformers' BERT
layers, so every attention implementation works.

Shapes: B rows, T words, N regions, D region features, H channels, V words of the vocabulary, C region classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import (
    BertEncoder,
    BertLayer,
    BertPooler,
    BertPredictionHeadTransform,
    BertSelfAttention,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from hub_mim.checking import takes
from hub_mim.losses import joint_mean, weighted_sum
from hub_mim.masking import row_noise
from hub_mim.outputs import in_order
from hub_mim_regions.words import PAIR, PredictsWords, WordHead, for_encoder, real_tokens
from hub_mim_uniter.configuration_uniter import UniterConfig
from hub_mim_uniter.masking import Draws, draw
from hub_mim_uniter.transport import alignment


@dataclass
class UniterModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: (B, T + N, H), text first. text_hidden: (B, T, H). region_hidden: (B, N, H).
    pooler_output: (B, H). valid: bool (B, T + N), False at padding.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    text_hidden: Tensor | None = None
    region_hidden: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class UniterForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: named unweighted scalars, of the tasks that were drawn in training.
    mask, scored: {"text": bool (B, T), "regions": bool (B, N)}: hidden; where words and features are predicted.
    predictions: {"regions": (B, N, D)}, features. word_logits: (words, V) of scored words, row by row.
    class_logits: (regions, C) of regions whose class is predicted. matched_logits: (B, 2), "matched" second.
    matched_label: int64 (B,), -100 where a row is not asked. plan: (B, N, T), distance: (B,), of the alignment.
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: dict[str, Tensor] | None = None
    scored: dict[str, Tensor] | None = None
    predictions: dict[str, Tensor] | None = None
    word_logits: Tensor | None = None
    class_logits: Tensor | None = None
    matched_logits: Tensor | None = None
    matched_label: Tensor | None = None
    plan: Tensor | None = None
    distance: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class UniterTextEmbeddings(nn.Module):
    """Word, place and kind, normalised together."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, input_ids: Tensor | None, token_type_ids: Tensor | None, inputs_embeds: Tensor | None) -> Tensor:
        """Map ids (B, T), or vectors (B, T, H), to tokens (B, T, H)."""
        x = self.word_embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        if x.shape[1] > self.position_embeddings.num_embeddings:
            raise ValueError(
                f"a text has {x.shape[1]} tokens; the model takes {self.position_embeddings.num_embeddings}"
            )
        places = self.position_embeddings(torch.arange(x.shape[1], device=x.device))
        kinds = (
            torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device) if token_type_ids is None else token_type_ids
        )
        tokens: Tensor = self.dropout(self.LayerNorm(x + places + self.token_type_embeddings(kinds)))
        return tokens


class UniterRegionEmbeddings(nn.Module):
    """Features and place of a region, each normalised, then together with the kind."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        width = config.hidden_size
        self.img_linear = nn.Linear(config.visual_feat_dim, width)
        self.img_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.pos_linear = nn.Linear(config.visual_pos_dim, width)
        self.pos_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.mask_embedding = nn.Embedding(2, config.visual_feat_dim, padding_idx=0)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, features: Tensor, places: Tensor, kinds: Tensor, hidden: Tensor | None) -> Tensor:
        """Map features (B, N, D), places (B, N, P) and embedded kinds (B, N, H) to tokens (B, N, H); hidden: bool (B, N)."""
        if hidden is not None:
            features = torch.where(hidden[..., None], self.mask_embedding.weight[1].to(features.dtype), features)
        x = self.img_layer_norm(self.img_linear(features)) + self.pos_layer_norm(self.pos_linear(places)) + kinds
        tokens: Tensor = self.dropout(self.LayerNorm(x))
        return tokens


class UniterPreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, what transformers may do with them."""

    config: UniterConfig
    base_model_prefix = "uniter"
    model_tags = ["hub-mim", "uniter"]
    main_input_name = "visual_feats"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["BertLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": BertLayer, "attentions": BertSelfAttention}
    _keys_to_ignore_on_load_unexpected = [
        r"^cls\.",
        r"^feat_regress\.",
        r"^region_classifier\.",
        r"^itm_output\.",
        r"^(vqa|vcr|rank|re|nlvr2)_output\.",
        r"^(attn1|attn2|fc|attn_pool)\.",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        spread = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=spread)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=spread)
            if module.padding_idx is not None and not getattr(module.weight, "_is_hf_initialized", False):
                init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, WordHead | FeatureRegression):
            init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            init.xavier_uniform_(module.in_proj_weight)
            init.zeros_(module.in_proj_bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words."""
        return self.get_submodule(
            "embeddings.word_embeddings" if isinstance(self, UniterModel) else "uniter.embeddings.word_embeddings"
        )

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of words."""
        base = self if isinstance(self, UniterModel) else self.uniter
        base.embeddings.word_embeddings = value


class UniterModel(UniterPreTrainedModel):
    """The encoder of words, of regions, or of both."""

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.embeddings = UniterTextEmbeddings(config)
        self.img_embeddings = UniterRegionEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config)
        self.gradient_checkpointing = False
        self.post_init()

    @takes(
        **PAIR,
        visual_token_type_ids="int >=0 B N",
        hidden_regions="bool B N",
        inputs_embeds="float B T hidden_size",
    )
    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        visual_token_type_ids: Tensor | None = None,
        hidden_regions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> UniterModelOutput:
        """Encode.

        Args:
            input_ids: int64 (B, T), or inputs_embeds (B, T, H); None for regions alone.
            visual_feats, visual_pos: (B, N, D) and (B, N, P); None for text alone.
            attention_mask, visual_attention_mask: 1 where a token is real; default all.
            token_type_ids: kinds of the words, default 0. visual_token_type_ids: of the regions, default 1.
            hidden_regions: bool (B, N), whose features are masked.
            kwargs: passed to the attention.
        Raises:
            ValueError: neither text nor regions, or shapes that do not fit.
        """
        parts, real = [], []
        if input_ids is not None or inputs_embeds is not None:
            parts.append(self.embeddings(input_ids, token_type_ids, inputs_embeds))
            real.append(real_tokens(attention_mask, parts[0]))
        if visual_feats is not None:
            parts.append(self._regions(visual_feats, visual_pos, visual_token_type_ids, hidden_regions))
            real.append(real_tokens(visual_attention_mask, parts[-1]))
        if not parts:
            raise ValueError("there is neither text (input_ids) nor regions (visual_feats)")
        x, valid = torch.cat(parts, 1), torch.cat(real, 1)
        mask = create_bidirectional_mask(config=self.config, inputs_embeds=x, attention_mask=valid)
        x = self.encoder(x, attention_mask=mask, **for_encoder(kwargs)).last_hidden_state
        count = parts[0].shape[1] if len(parts) == 2 or visual_feats is None else 0
        return UniterModelOutput(
            last_hidden_state=x,
            pooler_output=self.pooler(x),
            text_hidden=x[:, :count],
            region_hidden=x[:, count:],
            valid=valid,
        )

    def _regions(self, features: Tensor, places: Tensor | None, kinds: Tensor | None, hidden: Tensor | None) -> Tensor:
        if places is None or places.shape[:2] != features.shape[:2]:
            raise ValueError("visual_feats need visual_pos, the place of each region")
        for name, part, width in (
            ("visual_feats", features, self.config.visual_feat_dim),
            ("visual_pos", places, self.config.visual_pos_dim),
        ):
            if part.dim() != 3 or part.shape[2] != width:
                raise ValueError(f"{name} has the shape {tuple(part.shape)}; it must be (rows, regions, {width})")
        features, places = (each.to(self.img_embeddings.img_linear.weight.dtype) for each in (features, places))
        if kinds is None:
            kinds = torch.ones(features.shape[:2], dtype=torch.int64, device=features.device)
        tokens: Tensor = self.img_embeddings(features, places, self.embeddings.token_type_embeddings(kinds), hidden)
        return tokens


class FeatureRegression(nn.Module):
    """Predict features of regions; the last matrix is that which embeds them, transposed, and is given at each call."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        width = config.hidden_size
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=config.layer_norm_eps))
        self.bias = nn.Parameter(torch.empty(config.visual_feat_dim))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Map (..., H) to (..., D) by a table (H, D)."""
        return F.linear(self.net(x), table.t(), self.bias)


class RegionClassification(nn.Module):
    """Predict classes of regions."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        width = config.hidden_size
        norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.net = nn.Sequential(nn.Linear(width, width), nn.GELU(), norm, nn.Linear(width, config.num_region_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., H) to (..., C)."""
        out: Tensor = self.net(x)
        return out


class WordPrediction(nn.Module):
    """The head under `predictions`, as the authors' files name it."""

    def __init__(self, config: UniterConfig):
        super().__init__()
        self.predictions = WordHead(BertPredictionHeadTransform(config), config.hidden_size, config.vocab_size)


class UniterForPreTraining(PredictsWords, UniterPreTrainedModel):
    """Encoder and the heads of the tasks that are drawn."""

    joint_loss = True
    swaps_rows = "negative_ratio"

    _tied_weights_keys = {
        "cls.predictions.decoder.weight": "uniter.embeddings.word_embeddings.weight",
    }

    def __init__(self, config: UniterConfig):
        super().__init__(config)
        self.uniter = UniterModel(config)
        tasks = config.active_tasks
        if "mlm" in tasks:
            self.cls = WordPrediction(config)
        if "mrfr" in tasks:
            self.feat_regress = FeatureRegression(config)
        if "mrc" in tasks or "mrckl" in tasks:
            self.region_classifier = RegionClassification(config)
        if "itm" in tasks:
            self.itm_output = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @takes(
        **PAIR,
        soft_labels="float B N num_region_classes",
        matched_label="int >=0 <2 B",
        masked_input_ids="int >=0 <vocab_size B T",
        row_seed="int B",
        mask={"text": "bool B T", "regions": "bool B N"},
    )
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        visual_feats: Tensor,
        visual_pos: Tensor,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        soft_labels: Tensor | None = None,
        matched_label: Tensor | None = None,
        mask: dict[str, Tensor] | None = None,
        masked_input_ids: Tensor | None = None,
        task: str | None = None,
        step_seed: int | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> UniterForPreTrainingOutput:
        """Draw tasks and masks, encode, predict.

        Args:
            input_ids, visual_feats, visual_pos, attention_mask, visual_attention_mask, token_type_ids: see `UniterModel`.
            soft_labels: (B, N, C), of regions, background first; "mrc" and "mrckl" need them.
            matched_label: int64 (B,), 1 where text and picture belong together; default: drawn, and the regions of some rows
                are exchanged for those of other rows of the batch.
            mask: {"text": bool (B, T), "regions": bool (B, N)}, True = hidden; all losses of what is hidden are taken, and of
                "itm" where `matched_label` is given. masked_input_ids: what stands at hidden words; default the mask token.
            task: one task for all rows, instead of a drawn one.
            step_seed: decides the one task of a training step (`task_draw`), the same on all processes; without it each row
                has one of its own.
            row_seed, generator: decide the draws; else torch's global source.
            return_loss: compute the losses.
            kwargs: passed to the attention.
        """
        config = self.config
        text = real_tokens(attention_mask, input_ids)
        regions = real_tokens(visual_attention_mask, visual_feats)
        source: dict[str, Any] = {"row_seed": row_seed, "generator": generator, "device": input_ids.device}
        if task is None and mask is None and step_seed is not None and config.task_draw == "step":
            task = self.task_of(step_seed)
        drawn = draw(config, input_ids, text, regions, matched_label, mask, masked_input_ids, task, source)
        features, places, regions, soft = drawn.exchange(visual_feats, visual_pos, regions, soft_labels)
        out = self.uniter(
            input_ids=drawn.input_ids,
            visual_feats=features,
            visual_pos=places,
            attention_mask=text,
            visual_attention_mask=regions,
            token_type_ids=token_type_ids,
            hidden_regions=drawn.mask["regions"],
            **for_encoder(kwargs),
        )
        made = UniterForPreTrainingOutput(
            mask=drawn.mask,
            scored={"text": drawn.words, "regions": drawn.features},
            matched_label=drawn.matched,
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        losses = self._words(out, input_ids, drawn, made) | self._regions(out, features, soft, drawn, made)
        losses |= self._matches(out, text, regions, drawn, made)
        if not return_loss:
            return in_order(made)
        if self.training and task is not None:
            losses = {name: value for name, value in losses.items() if name == task or (task == "itm" and name == "ot")}
        made.losses = losses
        weights = {"ot": 0.1} | config.loss_weights
        made.loss = weighted_sum(losses, {name: weight for name, weight in weights.items() if name in losses})
        if self.training and task is not None:
            made.loss = made.loss + self._unused(task)
        return in_order(made)

    def task_of(self, step_seed: int) -> str:
        """Return the task that a step's seed draws."""
        tasks = self.config.active_tasks
        weights = torch.tensor([self.config.tasks[name] for name in tasks], dtype=torch.float64).cumsum(0)
        point = row_noise(torch.tensor([step_seed]), 1, stream=3)[0].double() * weights[-1]
        return tasks[min(int(torch.searchsorted(weights, point, right=True)), len(tasks) - 1)]

    def _unused(self, task: str) -> Tensor:
        """Return 0, with a gradient for the heads that a step does not use: DDP waits for all parameters."""
        heads = {
            "cls": ("mlm",),
            "feat_regress": ("mrfr",),
            "region_classifier": ("mrc", "mrckl"),
            "itm_output": ("itm",),
        }
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        for name, used in heads.items():
            head = getattr(self, name, None)
            if head is not None and task not in used:
                total = total + sum(weight.sum() for weight in head.parameters()) * 0
        if task != "itm":
            total = total + sum(weight.sum() for weight in self.uniter.pooler.parameters()) * 0
        return total + self.uniter.img_embeddings.mask_embedding.weight.sum() * 0

    def _words(
        self, out: UniterModelOutput, ids: Tensor, drawn: Draws, made: UniterForPreTrainingOutput
    ) -> dict[str, Tensor]:
        """Predict hidden words, at their places alone."""
        if not hasattr(self, "cls"):
            return {}
        assert out.text_hidden is not None
        made.word_logits = self.cls.predictions(out.text_hidden[drawn.words])
        return {"mlm": joint_mean(F.cross_entropy(made.word_logits.float(), ids[drawn.words], reduction="none"))}

    def _regions(
        self,
        out: UniterModelOutput,
        features: Tensor,
        soft: Tensor | None,
        drawn: Draws,
        made: UniterForPreTrainingOutput,
    ) -> dict[str, Tensor]:
        """Predict features, classes and soft labels of hidden regions."""
        losses: dict[str, Tensor] = {}
        hidden = out.region_hidden
        assert hidden is not None
        if hasattr(self, "feat_regress"):
            chosen = drawn.features
            found = self.feat_regress(hidden[chosen], self.uniter.img_embeddings.img_linear.weight)
            padded = found.new_zeros(*chosen.shape, found.shape[-1]).index_put(chosen.nonzero(as_tuple=True), found)
            made.predictions = {"regions": padded}
            error = (padded[chosen].float() - features[chosen].float()).square()
            losses["mrfr"] = joint_mean(error.mean(-1))
        if hasattr(self, "region_classifier"):
            both = drawn.classes | drawn.shares
            made.class_logits = self.region_classifier(hidden[both])
            if soft is None and bool(both.any()):
                raise ValueError("regions have no soft_labels; leave mrc and mrckl out of `tasks`, or give them")
            told = made.class_logits.float()
            target = torch.zeros_like(told) if soft is None else soft[both].float()
            if "mrc" in self.config.active_tasks:
                hard = target[:, 1:].argmax(-1) + 1
                losses["mrc"] = joint_mean(F.cross_entropy(told, hard, reduction="none")[drawn.classes[both]])
            if "mrckl" in self.config.active_tasks:
                apart = F.kl_div(told.log_softmax(-1), target, reduction="none").sum(-1)[drawn.shares[both]]
                losses["mrckl"] = joint_mean(apart) / (target.shape[-1] if self.config.kl_reduction == "mean" else 1)
        return losses

    def _matches(
        self, out: UniterModelOutput, text: Tensor, regions: Tensor, drawn: Draws, made: UniterForPreTrainingOutput
    ) -> dict[str, Tensor]:
        """Predict which pairs match, and align words and regions."""
        if not hasattr(self, "itm_output"):
            return {}
        asked = drawn.matched >= 0
        made.matched_logits = self.itm_output(out.pooler_output)
        error = F.cross_entropy(made.matched_logits[asked].float(), drawn.matched[asked], reduction="none")
        config = self.config
        distance, made.plan, _ = alignment(
            out.text_hidden, out.region_hidden, text, regions, config.ot_beta, config.ot_steps
        )
        made.distance = distance
        sign = drawn.matched[asked].to(distance.dtype) * 2 - 1
        return {"itm": joint_mean(error), "ot": joint_mean(distance[asked] * sign)}
