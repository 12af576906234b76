"""LXMERT for training: six named losses, both kinds of masking drawn on the device, every attention to look at.

Built of transformers' own modules, by the same names, so that released checkpoints load.

Shapes: B rows, T words, N regions, D region features, H channels, V words of the vocabulary, A answers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.models.lxmert.modeling_lxmert import (
    LxmertEmbeddings,
    LxmertPooler,
    LxmertPredictionHeadTransform,
    LxmertVisualAnswerHead,
    LxmertVisualObjHead,
)
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from hub_mim.checking import takes
from hub_mim.losses import joint_mean, weighted_sum
from hub_mim.outputs import in_order
from hub_mim_lxmert.configuration_lxmert_mim import LxmertMimConfig
from hub_mim_lxmert.encoder import Encoder, added, attend_by_interface
from hub_mim_lxmert.masking import draw
from hub_mim_regions.words import PAIR, PredictsWords, WordHead, for_encoder, real_tokens


@dataclass
class LxmertMimModelOutput(ModelOutput):
    """What the encoder returns.

    last_hidden_state: (B, T + N, H), words first. text_hidden: (B, T, H). region_hidden: (B, N, H).
    pooler_output: (B, H), of the first word. valid: bool (B, T + N), False at padding.
    hidden_states: of the words, embeddings first. region_hidden_states: of the regions.
    attentions, region_attentions: of the self-attentions of words (B, heads, T, T) and of regions.
    cross_attentions: where words look (B, heads, T, N). region_cross_attentions: where regions look (B, heads, N, T).
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    text_hidden: Tensor | None = None
    region_hidden: Tensor | None = None
    valid: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    region_hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    region_attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None
    region_cross_attentions: tuple[Tensor, ...] | None = None


@dataclass
class LxmertMimForPreTrainingOutput(ModelOutput):
    """What pre-training returns.

    loss: scalar. losses: named unweighted scalars; 0 where a batch has nothing to predict.
    mask, scored: {"text": bool (B, T), "regions": bool (B, N)}: hidden; where words and features are predicted.
    predictions: {"regions": (B, N, D)}, features. word_logits: (words, V) of scored words, row by row.
    object_logits, attribute_logits: (B, N, classes). matched_logits: (B, 2). answer_logits: (B, A).
    matched_label: int64 (B,).
    """

    loss: Tensor | None = None
    losses: dict[str, Tensor] | None = None
    mask: dict[str, Tensor] | None = None
    scored: dict[str, Tensor] | None = None
    predictions: dict[str, Tensor] | None = None
    word_logits: Tensor | None = None
    object_logits: Tensor | None = None
    attribute_logits: Tensor | None = None
    matched_logits: Tensor | None = None
    answer_logits: Tensor | None = None
    matched_label: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class LxmertMimPreTrainedModel(PreTrainedModel):
    """What all models share: the configuration class, initialisation, what transformers may do with them."""

    config: LxmertMimConfig
    base_model_prefix = "lxmert"
    model_tags = ["hub-mim", "lxmert"]
    main_input_name = "visual_feats"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = ["Layer", "CrossLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"^cls\.", r"^obj_predict_head\.", r"^answer_head\.", r"^logit_fc\."]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        spread = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.normal_(module.weight, std=spread)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(
                module.weight, std=spread
            )  # row 0 too, as the authors': it is [CLS]'s place, which never learns
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, WordHead):
            init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Module:
        """Return the table of words."""
        return self.get_submodule(
            "embeddings.word_embeddings" if isinstance(self, LxmertMimModel) else "lxmert.embeddings.word_embeddings"
        )

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the table of words."""
        base = self if isinstance(self, LxmertMimModel) else self.lxmert
        base.embeddings.word_embeddings = value


class LxmertMimModel(LxmertMimPreTrainedModel):
    """The three encoders: of words, of regions, of both."""

    def __init__(self, config: LxmertMimConfig):
        super().__init__(config)
        self.embeddings = LxmertEmbeddings(config)
        self.encoder = Encoder(config)
        self.pooler = LxmertPooler(config)
        attend_by_interface(self, config)
        self.post_init()

    @takes(
        **PAIR,
        inputs_embeds="float B T hidden_size",
    )
    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        visual_feats: Tensor | None = None,
        visual_pos: Tensor | None = None,
        attention_mask: Tensor | None = None,
        visual_attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> LxmertMimModelOutput:
        """Encode words and regions.

        Args:
            input_ids: int64 (B, T), or inputs_embeds (B, T, H). visual_feats, visual_pos: (B, N, D) and (B, N, 4).
            attention_mask, visual_attention_mask: 1 where a token is real; default all.
            token_type_ids: kinds of words, default 0.
            output_attentions: return every attention's weights, computed eagerly.
            kwargs: what a processor's batch has besides.
        Raises:
            ValueError: no words, no regions, or shapes that do not fit.
        """
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or visual_feats is None or visual_pos is None:
            raise ValueError("LXMERT needs words (input_ids) and regions (visual_feats with visual_pos)")
        for name, part, width in (
            ("visual_feats", visual_feats, self.config.visual_feat_dim),
            ("visual_pos", visual_pos, self.config.visual_pos_dim),
        ):
            if part.dim() != 3 or part.shape[2] != width:
                raise ValueError(f"{name} has the shape {tuple(part.shape)}; it must be (rows, regions, {width})")
        if given.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"a text has {given.shape[1]} tokens; the model takes {self.config.max_position_embeddings}"
            )
        if token_type_ids is None:
            token_type_ids = torch.zeros(given.shape[:2], dtype=torch.int64, device=given.device)
        text = self.embeddings(input_ids, token_type_ids, inputs_embeds)
        kept = bool(self.config.output_attentions if output_attentions is None else output_attentions)
        masks = added(attention_mask, text.dtype), added(visual_attention_mask, text.dtype)
        out = self.encoder.run(text, masks[0], visual_feats.to(text.dtype), visual_pos.to(text.dtype), masks[1], kept)
        words, regions = out["text"][-1], out["regions"][-1]
        real = [real_tokens(attention_mask, words), real_tokens(visual_attention_mask, regions)]
        return LxmertMimModelOutput(
            last_hidden_state=torch.cat([words, regions], 1),
            pooler_output=self.pooler(words),
            text_hidden=words,
            region_hidden=regions,
            valid=torch.cat(real, 1),
            hidden_states=tuple(out["text"]),
            region_hidden_states=tuple(out["regions"]),
            attentions=tuple(out["words"]) if kept else None,
            region_attentions=tuple(out["places"]) if kept else None,
            cross_attentions=tuple(out["words_see"]) if kept else None,
            region_cross_attentions=tuple(out["places_see"]) if kept else None,
        )


class PairHeads(nn.Module):
    """Words, and whether a pair matches; named as in the authors' files."""

    def __init__(self, config: LxmertMimConfig):
        super().__init__()
        self.predictions = WordHead(LxmertPredictionHeadTransform(config), config.hidden_size, config.vocab_size)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class LxmertMimForPreTraining(PredictsWords, LxmertMimPreTrainedModel):
    """All six tasks at once, as the authors train."""

    joint_loss = True
    swaps_rows = "negative_ratio"

    _tied_weights_keys = {"cls.predictions.decoder.weight": "lxmert.embeddings.word_embeddings.weight"}

    def __init__(self, config: LxmertMimConfig):
        super().__init__(config)
        self.lxmert = LxmertMimModel(config)
        self.cls = PairHeads(config)
        if config.task_obj_predict:
            self.obj_predict_head = LxmertVisualObjHead(config)
        if config.task_qa:
            self.answer_head = LxmertVisualAnswerHead(config, config.num_qa_labels)
        self.post_init()

    @takes(
        **PAIR,
        object_labels="int >=0 <num_object_labels |-100 B N",
        object_confidence="float B N",
        attribute_labels="int >=0 <num_attr_labels |-100 B N",
        attribute_confidence="float B N",
        matched_label="int >=0 <2 B",
        answer="int >=0 <num_qa_labels |-100 B",
        masked_input_ids="int >=0 <vocab_size B T",
        masked_visual_feats="float B N visual_feat_dim",
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
        object_labels: Tensor | None = None,
        object_confidence: Tensor | None = None,
        attribute_labels: Tensor | None = None,
        attribute_confidence: Tensor | None = None,
        matched_label: Tensor | None = None,
        answer: Tensor | None = None,
        mask: dict[str, Tensor] | None = None,
        masked_input_ids: Tensor | None = None,
        masked_visual_feats: Tensor | None = None,
        row_seed: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> LxmertMimForPreTrainingOutput:
        """Mask words and regions, encode, predict.

        Args:
            input_ids, visual_feats, visual_pos, attention_mask, visual_attention_mask, token_type_ids: see `LxmertMimModel`.
            object_labels, attribute_labels: int64 (B, N), -100 = unknown. object_confidence, attribute_confidence: (B, N).
            matched_label: int64 (B,), 1 where text and picture belong together; default: drawn, and the words of some rows
                are exchanged for those of other rows of the batch.
            answer: int64 (B,), -100 = unknown. A row whose words are another's has none.
            mask: {"text": bool (B, T), "regions": bool (B, N)}, True = hidden. masked_input_ids, masked_visual_feats: what
                stands there; default the mask token, and zeros.
            row_seed, generator: decide the draws; else torch's global source.
            return_loss: compute the losses.
            kwargs: passed to the encoder.
        """
        config = self.config
        source: dict[str, Any] = {"row_seed": row_seed, "generator": generator, "device": input_ids.device}
        drawn = draw(
            config,
            {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids},
            visual_feats,
            visual_attention_mask,
            matched_label,
            answer,
            mask,
            (masked_input_ids, masked_visual_feats),
            source,
        )
        out = self.lxmert(
            input_ids=drawn.input_ids,
            visual_feats=drawn.features,
            visual_pos=visual_pos,
            attention_mask=drawn.text["attention_mask"],
            visual_attention_mask=visual_attention_mask,
            token_type_ids=drawn.text["token_type_ids"],
            **for_encoder(kwargs),
        )
        hidden = drawn.mask["regions"]
        made = LxmertMimForPreTrainingOutput(
            mask=drawn.mask,
            scored=drawn.mask,
            matched_label=drawn.matched,
            last_hidden_state=out.last_hidden_state,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        words = drawn.mask["text"]
        made.word_logits = self.cls.predictions(out.text_hidden[words])
        made.matched_logits = self.cls.seq_relationship(out.pooler_output)
        losses = {
            "words": _entropy(made.word_logits, drawn.text["input_ids"][words]),
            "matched": _entropy(made.matched_logits, drawn.matched),
        }
        if config.task_obj_predict:
            scores = self.obj_predict_head(out.region_hidden)
            real = real_tokens(visual_attention_mask, visual_feats)
            told = {
                "objects": (scores.get("obj"), object_labels, object_confidence),
                "attributes": (scores.get("attr"), attribute_labels, attribute_confidence),
            }
            made.object_logits, made.attribute_logits = scores.get("obj"), scores.get("attr")
            losses |= {name: self._classes(*each, hidden, real) for name, each in told.items() if each[0] is not None}
            if "feat" in scores:
                made.predictions = {"regions": scores["feat"]}
                error = F.smooth_l1_loss(scores["feat"].float(), visual_feats.float(), reduction="none").mean(-1)
                losses["features"] = joint_mean(error * (hidden & real), real.sum()) * self._scale
        if config.task_qa:
            made.answer_logits = self.answer_head(out.pooler_output)
            losses["answers"] = _entropy(made.answer_logits, drawn.answer)
        if return_loss:
            made.losses = {name: losses[name] for name in config.active_losses}
            made.loss = weighted_sum(made.losses, config.loss_weights)
            unused = [value for name, value in losses.items() if name not in made.losses]
            made.loss = made.loss + sum(value * 0 for value in unused)
        return in_order(made)

    @property
    def _scale(self) -> float:
        """By what a visual loss, a mean over all regions, is multiplied: as if it were over the masked ones."""
        return 1 / self.config.mask_ratio if self.config.mask_ratio else 1.0

    def _classes(
        self, scores: Tensor, labels: Tensor | None, confidence: Tensor | None, hidden: Tensor, real: Tensor
    ) -> Tensor:
        """Return the loss of regions' classes; with a gradient of 0 where none is known."""
        if labels is None:
            return joint_mean(scores * 0, real.sum())  # other processes may have some
        flat = scores.flatten(0, 1).float()
        error = F.cross_entropy(flat, labels.flatten(), reduction="none", ignore_index=-100).view(labels.shape)
        weight = torch.ones_like(error) if confidence is None else confidence.to(error.dtype)
        chosen = real & (labels >= 0) & (hidden if self.config.visual_losses == "masked" else True)
        return joint_mean(error * weight * chosen, real.sum()) * self._scale


def _entropy(logits: Tensor, labels: Tensor | None) -> Tensor:
    """Return the mean cross-entropy of known labels; 0, with a gradient of 0, where there are none."""
    if labels is None or not len(logits):
        return joint_mean(logits * 0, 0)  # other processes may have some
    errors = F.cross_entropy(logits.float(), labels, reduction="none", ignore_index=-100)
    return joint_mean(errors, (labels != -100).sum())
